"""What the network is told: f_T at, below and above every edge, and what is refused."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from sdeflow.conditioning import (
    EDM,
    ETSDM,
    LogSNR,
    NoTime,
    Sigma,
    SmoothTime,
    Time,
    default_threshold,
    make_conditioning,
    read_edges,
)
from sdeflow.sde import make_sde

VP = make_sde()


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["time", "sigma", "log-snr"])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
@pytest.mark.parametrize("at", ["left", "middle", "right"])
def test_shared_time_at_below_and_above_every_edge(spacing: str, n: int, at: str) -> None:
    c = ETSDM(VP, 0.1, n, spacing, at)
    bounds = [0.0, *c.edges]
    assert len(c.edges) == n
    assert c.edges[-1] == 0.1
    told = {"left": bounds[:-1], "right": bounds[1:]}
    told["middle"] = [0.5 * (a + b) for a, b in itertools.pairwise(bounds)]
    for i in range(n):
        low, high = bounds[i], bounds[i + 1]
        inside = tensor(low, math.nextafter(low, 1), (low + high) / 2, math.nextafter(high, 0))
        assert c(inside).tolist() == [told[at][i]] * 4
        above = c(tensor(high)).item()
        assert above == (told[at][i + 1] if i + 1 < n else high)
    later = torch.linspace(0.1, 1, 50, dtype=torch.float64)
    assert torch.equal(c(later), later)
    assert c.breaks == c.edges


def test_default_is_the_papers() -> None:
    c = ETSDM(VP)
    assert c.edges == pytest.approx((0.02, 0.04, 0.06, 0.08, 0.1))
    assert c.threshold == 0.1
    for name in ("ve", "edm", "subvp"):
        sde = make_sde(name)
        assert float(sde.log_snr(default_threshold(sde))) == pytest.approx(
            float(VP.log_snr(0.1)), abs=1e-9
        )


def test_edges_are_equal_in_what_they_say() -> None:
    sigma = VP.sigma(tensor(0.0, *ETSDM(VP, 0.1, 5, "sigma").edges))
    assert torch.allclose(sigma.diff(), sigma.diff()[0].expand(5), rtol=1e-9)
    # Equal sigma on linear VP, to the three digits PAPER.md quotes.
    assert ETSDM(VP, 0.1, 5, "sigma").edges == pytest.approx(
        (0.016, 0.036, 0.057, 0.078, 0.1), abs=5e-4
    )
    edges = ETSDM(VP, 0.1, 5, "log-snr", first_edge=0.002).edges
    assert edges[0] == 0.002
    gaps = VP.log_snr(tensor(*edges)).diff()
    assert torch.allclose(gaps, gaps[0].expand(4), rtol=1e-9)


def test_wraps_another_condition() -> None:
    c = ETSDM(VP, 0.1, 5, at="right", of=LogSNR(VP))
    assert c(tensor(0.05)).item() == pytest.approx(float(VP.log_snr(0.06)))
    assert c.span == LogSNR.span


@pytest.mark.parametrize("of", [LogSNR(VP), EDM(VP)])
def test_infinite_condition_is_refused(of: LogSNR) -> None:
    with pytest.raises(ValueError, match="infinite at t = 0"):
        ETSDM(VP, of=of)
    # Geometric VE has sigma(0) > 0: nothing is infinite there.
    ve = make_sde("ve")
    assert math.isfinite(ETSDM(ve, 0.1, of=type(of)(ve))(tensor(0.0)).item())


def test_functions_of_the_noise() -> None:
    t = tensor(0.01, 0.5)
    assert torch.equal(Time()(t), t)
    assert torch.equal(NoTime()(t), torch.zeros_like(t))
    assert torch.equal(Sigma(VP)(t), VP.sigma(t))
    assert torch.allclose(EDM(VP)(t), torch.log(VP.sigma(t) / VP.alpha(t)) / 4)


def test_edges_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    for content in ([0.01, 0.05], {"edges": [0.01, 0.05], "why": "measured"}):
        path.write_text(json.dumps(content))
        assert read_edges(path) == [0.01, 0.05]
        c = make_conditioning(VP, etsdm=True, etsdm_edges=str(path))
        assert c.breaks == (0.01, 0.05)
    path.write_text("[0.1, ")
    with pytest.raises(ValueError, match="readable JSON"):
        read_edges(path)
    path.write_text('["a"]')
    with pytest.raises(ValueError, match="list of numbers"):
        read_edges(path)


def test_from_settings() -> None:
    c = make_conditioning(VP, "time", etsdm=True, etsdm_edges="log-snr:0.004")
    assert c.breaks[0] == 0.004
    smooth = make_conditioning(VP, "smooth", smooth_scale=0.2, smooth_shape="power:3")
    assert isinstance(smooth, SmoothTime)
    assert (smooth.s, smooth.power) == (0.2, 3)
    shared = make_conditioning(VP, "smooth", smooth_shape="[[0.01, 9], [1, 2]]", etsdm=True)
    assert repr(shared).endswith("of=EqualisedTime(table of 2, s=0.1))")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"etsdm_threshold": 0.0}, "threshold=0.0"),
        ({"etsdm_threshold": 1.0}, "threshold=1.0"),
        ({"etsdm_intervals": 0}, "intervals=0"),
        ({"etsdm_edges": "nowhere"}, "edges='nowhere'"),
        ({"etsdm_edges": "log-snr:0.5"}, "first_edge=0.5"),
        ({"etsdm_edges": "log-snr:x"}, "not a time"),
        ({"etsdm_at": "top"}, "at='top'"),
        ({"condition": "clock"}, "condition='clock'"),
        ({"condition": "log-snr"}, "infinite"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_conditioning(VP, **{"etsdm": True, **settings})


def test_a_process_without_the_papers_noise_level_has_no_default_threshold() -> None:
    with pytest.raises(ValueError, match=r"threshold=None.*give a time"):
        ETSDM(make_sde("vp", sigma_floor=0.5))
    with pytest.raises(ValueError, match="use a smaller t_min"):
        make_conditioning(VP, shared_noise=True, t_min=0.05)


@pytest.mark.parametrize("edges", [[], [0.1, 0.05], [0.0, 0.1], [0.5, 1.0]])
def test_bad_explicit_edges(edges: list[float]) -> None:
    with pytest.raises(ValueError, match="need 0 < t_1"):
        ETSDM(VP, edges=edges)
