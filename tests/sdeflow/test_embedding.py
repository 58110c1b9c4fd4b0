"""The condition's waves: float64 to the end, frequencies where they are said to be."""

import math

import numpy as np
import pytest
import torch

from sdeflow.denoiser import Denoiser
from sdeflow.instruments.derivative import time_derivative
from sdeflow.networks import (
    CONDITION_BANDS,
    ConditionEmbedding,
    Fourier,
    Sinusoidal,
    Table,
    make_network,
)
from sdeflow.sde import make_sde


@pytest.mark.parametrize("condition", CONDITION_BANDS)
def test_sinusoidal_ladder_runs_from_low_to_high(condition: str) -> None:
    low, high = CONDITION_BANDS[condition]
    ladder = Sinusoidal(128, low, high).frequencies
    assert ladder.dtype == np.float64
    np.testing.assert_allclose(ladder[[0, -1]], [low, high], rtol=1e-14)
    ratios = ladder[1:] / ladder[:-1]
    np.testing.assert_allclose(ratios, (high / low) ** (1 / 63), rtol=1e-12)


def test_fourier_ladder_has_half_normal_quantiles() -> None:
    ladder = Fourier(256, high=100.0).frequencies
    assert ladder[-1] == 100.0
    assert (np.diff(ladder) > 0).all()
    # A half-normal law of scale 1 has median 0.67449, and 2.8856 is its (1 - 1/256)-quantile.
    assert np.median(ladder) == pytest.approx(100 * 0.67449 / 2.8856, rel=1e-3)


@pytest.mark.parametrize("make", [Sinusoidal, Fourier])
def test_waves_are_cosines_then_sines(make: type) -> None:
    waves = make(8)
    c = torch.tensor([0.0, 0.3], dtype=torch.float64)
    out = waves(c)
    assert out.dtype == torch.float64
    assert out.shape == (2, waves.features) == (2, 8)
    phase = np.outer([0.0, 0.3], waves.frequencies)
    # One rounding of the phase (up to 300 rad: 3e-14) and one of the wave.
    np.testing.assert_allclose(out, np.hstack((np.cos(phase), np.sin(phase))), atol=1e-13)


def test_condition_is_resolved_to_one_part_in_a_billion() -> None:
    waves = Sinusoidal(64)
    c, step = 0.7, 1e-9
    a, b = waves(torch.tensor([c, c + step], dtype=torch.float64))
    slope = ((b - a) / step).numpy()
    w = waves.frequencies
    exact = np.concatenate((-w * np.sin(w * c), w * np.cos(w * c)))
    # Truncation w^2 step / 2 <= 5e-4; rounding of the two phases, 2 * 700 * 2^-53 / step <= 2e-4,
    # of c + step, w * 2^-53 / step <= 1.1e-4, and of the two waves 2e-7.
    np.testing.assert_allclose(slope, exact, atol=1e-3)


def test_highest_frequency_caps_the_slope() -> None:
    waves = Sinusoidal(64)
    c = torch.rand(100, dtype=torch.float64)
    _, slope = torch.func.jvp(waves, (c,), (torch.ones_like(c),))
    # |de/dc| = (sum w^2)^(1/2) at every c, because cos^2 + sin^2 = 1.
    expected = math.sqrt((waves.frequencies**2).sum())
    np.testing.assert_allclose(slope.norm(dim=1), expected, rtol=1e-12)


def test_a_table_has_a_row_per_thousandth_and_lines_between() -> None:
    table = Table(8)
    c = torch.tensor([0.0, 0.001, 0.0255, 1.0], dtype=torch.float64)
    rows = table.rows
    expected = torch.stack([rows[0], rows[1], (rows[25] + rows[26]) / 2, rows[1000]])
    torch.testing.assert_close(table(c), expected)
    # |e|^2 has mean features / 2 and relative spread sqrt(2/8) a row, 1.6 % over 1001 rows.
    assert float(rows.detach().square().sum(1).mean()) == pytest.approx(4, rel=0.08)


def test_a_row_learns_from_the_times_next_to_it_alone() -> None:
    table = Table(4)
    table(torch.tensor([0.0252], dtype=torch.float64)).sum().backward()
    assert table.rows.grad is not None
    assert torch.nonzero(table.rows.grad.abs().sum(1))[:, 0].tolist() == [25, 26]


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_a_tables_derivative_in_time_is_the_slope_between_rows(kind: str) -> None:
    shape = (1, 8, 8) if kind == "unet" else (2,)
    network = make_network(kind, "tiny", data_shape=shape, embedding="table").double().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model = Denoiser(network, make_sde())
    x, t = torch.randn(2, *shape).double(), torch.tensor([0.01234, 0.50041], dtype=torch.float64)
    found = time_derivative(model, x, t, ["noise"])["noise"]
    h = 1e-6
    with torch.no_grad():
        slope = (model.noise(x, t + h) - model.noise(x, t - h)) / (2 * h)
    # Central differences within an interval: 1e-16/h of rounding, and (1000 h)^2 = 1e-6 of slopes.
    torch.testing.assert_close(found.condition, slope, rtol=1e-4, atol=1e-5 * float(slope.std()))


@pytest.mark.parametrize("kind", ["sinusoidal", "fourier"])
def test_the_scale_multiplies_the_highest_frequency(kind: str) -> None:
    network = make_network(data_shape=(2,), embedding=kind, embedding_scale=0.1)
    assert network.embedding.waves.frequencies[-1] == pytest.approx(100)
    with pytest.raises(ValueError, match="high"):
        make_network(data_shape=(2,), embedding=kind, embedding_scale=0.0)


def test_frequencies_survive_a_change_of_type() -> None:
    waves = Sinusoidal(16).to(torch.bfloat16)
    assert waves.frequencies.dtype == np.float64
    assert not waves.state_dict()


def test_label_none_is_the_null_label(device: torch.device) -> None:
    embedding = ConditionEmbedding(32, num_classes=3).to(device)
    c = torch.rand(5, dtype=torch.float64)
    null = embedding(c, 5, torch.full((5,), 3, device=device))
    assert torch.equal(embedding(c, 5), null)
    assert torch.equal(embedding(c, 5, torch.tensor(3, device=device)), null)
    assert not torch.equal(embedding(c, 5, torch.zeros(5, dtype=torch.long, device=device)), null)


def test_one_condition_serves_a_batch() -> None:
    embedding = ConditionEmbedding(32)
    c = torch.tensor(0.25, dtype=torch.float64)
    # One row against four: the same products, which a matmul may sum in another order.
    torch.testing.assert_close(embedding(c, 4), embedding(c.expand(4), 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 7}, "features = 7"),
        ({"features": 32, "kind": "wavelet"}, "embedding = 'wavelet'"),
        ({"features": 32, "num_classes": -1}, "num_classes = -1"),
        ({"features": 32, "band": (10.0, 1.0)}, "low = 10.0"),
        ({"features": 32, "band": (1.0, math.inf)}, "high = inf"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionEmbedding(**arguments)  # type: ignore[arg-type]


def test_bad_shapes() -> None:
    embedding = ConditionEmbedding(32)
    c = torch.rand(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="condition of shape"):
        embedding(c, 4)
    with pytest.raises(ValueError, match="num_classes = 0"):
        embedding(c, 3, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="label of shape"):
        ConditionEmbedding(32, num_classes=2)(c, 3, torch.zeros(2, dtype=torch.long))
