"""Proposed sub-intervals against brute force, closed forms and the bound."""

import itertools
import math

import numpy as np
import pytest
import torch

from sdeflow import Denoiser, make_oracle, make_sde
from sdeflow.conditioning import ETSDM
from sdeflow.instruments.partition import Jumps, even_edges
from sdeflow.instruments.partition_study import partition_study
from sdeflow.instruments.probe import Probe
from sdeflow.instruments.shared_bias import bias_study
from sdeflow.instruments.sharing_bound import ScoreSize, least_bound, score_size, widths
from sdeflow.instruments.told import noise_told

T_MIN = 1e-5
SDE = make_sde("vp")
TWO_MODES = make_oracle("mixture:modes=2,dim=1", SDE)


class Exact(Jumps):
    """J from a formula, in place of samples."""

    def __init__(self, formula, scan):
        self.formula, self.t_min, self.scan, self.known = formula, T_MIN, scan, {}

    def __call__(self, s, t):
        if (s, t) not in self.known:
            self.known[s, t] = float(self.formula(s, t))
        return self.known[s, t]


def sigma(t):
    return float(SDE.sigma(t))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_jumps_of_standard_normal_data_are_equal_in_sigma(n):
    # eps(x, t) = sigma(t) x there, and x is the same standard normal at all times.
    jumps = Exact(lambda s, t: abs(sigma(t) - sigma(s)), np.geomspace(T_MIN, 0.1, 20).tolist())
    edges = even_edges(jumps, n, 0.1)
    low, high = sigma(T_MIN), sigma(0.1)
    expected = [low + (high - low) * i / n for i in range(1, n + 1)]
    # Edges and their size are found to 1e-3.
    np.testing.assert_allclose([sigma(t) for t in edges], expected, rtol=3e-3)
    assert edges[-1] == 0.1


def test_a_balanced_threshold_makes_jumps_as_large_as_steps():
    h = 0.02
    jumps = Exact(lambda s, t: abs(sigma(t) - sigma(s)), np.geomspace(T_MIN, 0.9, 40).tolist())
    times = np.geomspace(1e-4, 0.9, 4000)
    own = np.array([sigma(t + h) - sigma(t) for t in times])

    def threshold(size):
        return float(np.interp(-size, -own, times))

    edges = even_edges(jumps, 4, threshold)
    t = edges[-1]
    # (sigma(t) - sigma(t_min)) / 4 = sigma(t + h) - sigma(t)
    assert (sigma(t) - sigma(T_MIN)) / 4 == pytest.approx(sigma(t + h) - sigma(t), rel=5e-3)


def by_quadrature(s, t):
    """J(s, t) of the two modes: an integral over the line instead of samples."""
    x = torch.linspace(-4, 4, 1001, dtype=torch.float64)[:, None]
    density = TWO_MODES.log_prob(x, t).exp()
    gap = (TWO_MODES.noise(x, t) - TWO_MODES.noise(x, s)).abs()[:, 0]
    return torch.trapezoid(density * gap, x[:, 0])


def test_equalising_beats_equal_steps_in_time_by_the_factor_of_the_optimum():
    n, threshold = 5, 0.1
    grid = [T_MIN, *np.geomspace(2e-4, threshold, 60).tolist()]
    # D of every interval between grid times, and the best n of them by dynamic programming.
    table = np.full((len(grid), len(grid)), math.inf)
    for i, j in itertools.combinations(range(len(grid)), 2):
        table[i, j] = max(by_quadrature(grid[i], grid[j]), table[i, j - 1] if j > i + 1 else 0)
    best = table[0]
    for _ in range(n - 1):
        best = np.minimum(best, np.maximum(best[:, None], table).min(0))
    optimum = best[-1]
    jumps = Exact(by_quadrature, np.geomspace(T_MIN, threshold, 40).tolist())
    edges = even_edges(jumps, n, threshold)
    found = max(jumps.largest(s, t)[0] for s, t in itertools.pairwise([T_MIN, *edges]))
    # The grid has a ratio of 1.11, and J grows at most like the root of t: within 6 %.
    assert found == pytest.approx(optimum, rel=0.06)
    steps = [threshold * i / n for i in range(1, n + 1)]
    plain = max(jumps.largest(s, t)[0] for s, t in itertools.pairwise([T_MIN, *steps]))
    factor = plain / found
    assert factor > 3
    study = partition_study(TWO_MODES, intervals=n, threshold=threshold, count=2048)
    # Means of 2048 norms, whose spread is about their mean: 2 % each, and they are paired.
    assert study.spacings[-1]["gain"] == pytest.approx(factor, rel=0.08)
    assert study.spacings[-1]["spacing"] == "equal jumps"
    assert study.edges[-1] == threshold
    assert ETSDM(SDE, edges=study.edges).edges == study.edges
    for row in study.jumps:
        assert row["mean"] <= row["within"] * (1 + 1e-12)


def test_least_bound():
    only_slope, only_size = ScoreSize(3.0, 0.0, T_MIN, 0.1), ScoreSize(0.0, 2.0, T_MIN, 0.1)
    equal = np.linspace(0, 0.1, 6)[1:]
    np.testing.assert_allclose(least_bound(SDE, only_slope, 5), equal, rtol=1e-6)
    np.testing.assert_allclose(
        least_bound(SDE, only_size, 5), ETSDM(SDE, 0.1, 5, "sigma").edges, rtol=1e-6
    )
    score = ScoreSize(20.0, 2.0, T_MIN, 0.1)
    edges = least_bound(SDE, score, 5)
    least = score.bound(SDE, edges)
    for spacing in ("time", "sigma", "log-snr"):
        assert least <= score.bound(SDE, ETSDM(SDE, 0.1, 5, spacing).edges)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(100):
            other = np.sort(np.array(edges[:-1]) * np.exp(size * rng.standard_normal(4)))
            # The search over widths is on a grid of 400: a quarter of a per cent.
            assert least <= score.bound(SDE, [*other, 0.1]) * (1 + 3e-3)
    assert least_bound(SDE, score, 1) == [0.1]


def test_size_of_a_score_and_widths():
    # The score of standard normal data is -x at all times: K_s = 0, B = sqrt(D).
    probe = Probe(make_oracle("gaussian:width=1,mean=0,dim=3", SDE), None, None, 4096, 4096, 0)
    score = score_size(probe, 0.1, T_MIN, points=5)
    assert score.slope < 1e-8
    # The mean of 3 x 4096 squares: standard error of its root 0.64 %.
    assert score.size == pytest.approx(math.sqrt(3), rel=0.02)
    assert widths(SDE, [0.01, 0.1]) == (
        pytest.approx(0.09),
        pytest.approx(sigma(0.1) - sigma(0.01)),
    )


def test_biases_of_standard_normal_data():
    # x says nothing about t there: the ideal answer is the mean sigma over the interval, times x.
    oracle = make_oracle("gaussian:width=1,mean=0,dim=2", SDE)
    study = bias_study(oracle, intervals=(2,), thresholds=(0.1,), count=64)
    for row in study.curve:
        edges = next(r["edges"] for r in study.rows if r["spacing"] == row["spacing"])
        bounds = [T_MIN, *edges]
        low, high = next((a, b) for a, b in itertools.pairwise(bounds) if a <= row["t"] < b)
        told = sigma(low)
        if row["predictor"] == "ideal":
            grid = torch.linspace(math.sqrt(low), math.sqrt(high), 4001, dtype=torch.float64)
            told = float(torch.trapezoid(SDE.sigma(grid**2) * 2 * grid, grid)) / (high - low)
        expected = abs(told - sigma(row["t"])) / sigma(row["t"])
        # 32 nodes in log-SNR for the ideal one.
        assert row["bias"] / row["size"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_biases_stay_below_the_bound_and_the_ideal_is_better_on_the_whole():
    study = bias_study(TWO_MODES, intervals=(1, 4), thresholds=(0.1, 0.02), count=128)
    assert len(study.rows) == 2 * 2 * 5 * 2
    for ideal, left in zip(study.rows[::2], study.rows[1::2], strict=True):
        assert (ideal["predictor"], left["predictor"]) == ("ideal", "left end")
        assert left["largest"] <= left["bound"]
        assert ideal["largest"] <= ideal["bound"]
        assert ideal["mean"] < left["mean"]


def test_told_changes_the_condition_alone():
    class Network(torch.nn.Module):
        def forward(self, x, c):
            return x * torch.cos(3 * c)[:, None]

    model = Denoiser(Network(), SDE, predict="velocity").double()
    x = torch.randn(5, 2, dtype=torch.float64)
    t = torch.full((5,), 0.3, dtype=torch.float64)
    alpha, sig = SDE.alpha(0.3), SDE.sigma(0.3)
    expected = alpha * x * math.cos(0.6) + sig * x
    torch.testing.assert_close(noise_told(model, x, t, 0.2), expected)
    exact = TWO_MODES.noise(x[:, :1], 0.2)
    torch.testing.assert_close(noise_told(TWO_MODES, x[:, :1], t, 0.2), exact)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"intervals": 0}, "intervals=0"),
        ({"threshold": 1.0}, "threshold=1"),
        ({"threshold": "most"}, "auto"),
        ({"threshold": "auto", "minimise": "bound"}, "falls to 0"),
        ({"minimise": "time"}, "jump or bound"),
        ({"step": 0.0}, "step=0"),
        ({"t_min": 0.2}, "t_min=0.2"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        partition_study(TWO_MODES, count=4, **options)


def test_refuses_a_model_that_shares_already():
    network = Denoiser(torch.nn.Identity(), SDE, ETSDM(SDE))
    with pytest.raises(ValueError, match="shares time already"):
        partition_study(network, torch.zeros(4, 2), count=4)
    with pytest.raises(ValueError, match="no closed-form density"):
        bias_study(make_oracle("classes", SDE), count=4)
