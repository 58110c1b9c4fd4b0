"""Error budgets of linear flows, where every part has a closed form."""

import itertools
import math

import pytest
import torch

from sdeflow import make_oracle, make_sde
from sdeflow.data import load_data
from sdeflow.instruments.budget import error_budget
from sdeflow.instruments.noise_error import _linear, heldout_errors
from sdeflow.oracle import Oracle
from sdeflow.shared_time import _from_noise

SDE = make_sde("vp")
WIDTH, MISTAKE, T_MIN = 0.5, 0.05, 1e-2
EXACT = make_oracle(f"gaussian:width={WIDTH},mean=0,dim=3", SDE)
QUICK = {"t_min": T_MIN, "bins": 4, "count": 32}


class Scaled(Oracle):
    """The exact noise, 5 % too large."""

    sde, data_shape = SDE, EXACT.data_shape

    def predict(self, x, t, wanted, label=None):
        return _from_noise(SDE, x, t, (1 + MISTAKE) * EXACT.predict(x, t, "noise"), wanted)


def spread(t):
    """c(t) = alpha^2 w^2 + sigma^2; x keeps its size in units of its root along the exact flow."""
    return float((SDE.alpha(t) * WIDTH) ** 2 + SDE.sigma(t) ** 2)


def exact_flow(high, low):
    return math.sqrt(spread(low) / spread(high))


def scaled_flow(high, low):
    # d log x/dt = alpha'/alpha + (1 + delta) g^2/2c and g^2/2c = (log sqrt c - log alpha)'.
    alphas = float(SDE.alpha(low) / SDE.alpha(high))
    return exact_flow(high, low) ** (1 + MISTAKE) * alphas**-MISTAKE


def sizes(found, cause):
    return {(r["t_high"], r["t_low"]): r["rms"] for r in found.parts if r["cause"] == cause}


def start(found):
    """Root mean square of the start noise: the cut's own closed form gives it back."""
    (none,) = [r for r in found.endings if r["final"] == "none"]
    end = exact_flow(1.0, T_MIN)
    return none["rms"] / abs(end - end * exact_flow(T_MIN, 1e-300))


def check_sums(found):
    """Shares of every cause, and of the causes in the total, sum to 1."""
    for cause in {row["cause"] for row in found.parts}:
        shares = [row["share"] for row in found.parts if row["cause"] == cause]
        assert sum(shares) == pytest.approx(1, abs=1e-9)
    causes = {row["cause"]: row for row in found.causes}
    total = causes.pop("total")
    assert total["share"] == pytest.approx(1)
    assert sum(row["share"] for row in causes.values()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("final", ["none", "denoise"])
def test_every_part_of_a_linear_flow(final):
    steps = 8
    found = error_budget(
        Scaled(), exact=EXACT, solver="euler", chart="x/time", grid="log-snr", steps=steps,
        final=final, reference_tolerance=1e-10, **QUICK,
    )  # fmt: skip
    check_sums(found)
    bounds = found.settings["bounds"]
    times = found.settings["times"]
    assert set(bounds) <= set(times)
    assert (bounds[0], bounds[-1]) == (1.0, T_MIN)

    def rate(t):
        mistaken = (1 + MISTAKE) * float(SDE.g2(t)) / (2 * spread(t))
        return float(SDE.f(t)) + mistaken

    euler = {times[0]: 1.0}
    for t, s in itertools.pairwise(times):
        euler[s] = euler[t] * (1 + (s - t) * rate(t))
    # What the denoiser does: alpha w^2 / c for the exact one; x - sigma eps over alpha.
    alpha, c = float(SDE.alpha(T_MIN)), spread(T_MIN)
    last_e = last_m = 1.0
    if final == "denoise":
        last_e = alpha * WIDTH**2 / c
        last_m = (1 - (1 + MISTAKE) * float(SDE.sigma(T_MIN)) ** 2 / c) / alpha
    size = start(found)
    # Tight flows have a tolerance of 1e-10, the sampler that of float64.
    for high, low in itertools.pairwise(bounds):
        solver = last_m * (
            euler[low] * scaled_flow(low, T_MIN) - euler[high] * scaled_flow(high, T_MIN)
        )
        assert sizes(found, "solver")[high, low] == pytest.approx(size * abs(solver), rel=1e-6)
        model = last_e * (
            scaled_flow(1.0, low) * exact_flow(low, T_MIN)
            - scaled_flow(1.0, high) * exact_flow(high, T_MIN)
        )
        assert sizes(found, "model")[high, low] == pytest.approx(size * abs(model), rel=1e-6)
    at_end = scaled_flow(1.0, T_MIN)
    causes = {row["cause"]: row["rms"] for row in found.causes}
    expected = {
        "solver": last_m * (euler[T_MIN] - at_end),
        "model": last_m * at_end - last_e * exact_flow(1.0, T_MIN),
        "cut": exact_flow(1.0, T_MIN) * (last_e - exact_flow(T_MIN, 1e-300)),
        "total": last_m * euler[T_MIN] - exact_flow(1.0, 1e-300),
    }
    for cause, value in expected.items():
        assert causes[cause] == pytest.approx(size * abs(value), rel=1e-5)
    endings = {row["final"]: row["rms"] for row in found.endings}
    assert endings[final] == pytest.approx(causes["cut"], rel=1e-9)
    # Its own root mean square times 5 %, wherever x is.
    for row in found.predictions:
        assert row["rms"] == pytest.approx(MISTAKE * row["size"], rel=1e-9)


def test_start_noise_is_that_of_the_sampler():
    found = error_budget(EXACT, solver="ddim", steps=4, **QUICK)
    # 96 normals: their root mean square is 1 within 4 standard errors of 0.072.
    assert start(found) == pytest.approx(1, abs=0.29)
    assert [row["cause"] for row in found.causes] == ["solver", "cut", "total"]
    assert found.predictions == []
    check_sums(found)


def test_adaptive_steps_and_a_tighter_tolerance():
    loose, tight = (
        error_budget(EXACT, solver="dopri5", rtol=tol, atol=tol, **QUICK) for tol in (1e-3, 1e-6)
    )
    for found in (loose, tight):
        check_sums(found)
        assert len(sizes(found, "solver")) == 4
    first, second = ({r["cause"]: r["rms"] for r in f.causes} for f in (loose, tight))
    assert second["solver"] < 1e-2 * first["solver"]
    assert second["cut"] == pytest.approx(first["cut"], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"solver": "ancestral"}, "adds noise"),
        ({"solver": "euler-maruyama"}, "adds noise"),
        ({"final": "zero"}, "final='zero'"),
        ({"bins": 0}, "bins=0"),
        ({"floor": 0.5}, "floor=0.5"),
        ({"t_min": 0.0}, "t_min"),
        ({"exact": make_oracle("gaussian:dim=2", SDE)}, "shape"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        error_budget(EXACT, **{**QUICK, "floor": 1e-8, **options})


def test_linear_predictions_of_gaussian_data_reach_the_exact_error():
    data = load_data("moons")
    model = _linear(SDE, data.train)
    rows = heldout_errors(model, data, t_min=1e-3, t_max=1.0, batch_size=4096)
    for row in rows:
        assert row["heldout"] == row["linear"]
        # E |eps-hat - eps|^2 of a Gaussian: the mean over axes of alpha^2 l / c; moons are not
        # Gaussian, but an affine prediction sees second moments alone.
        low, high = row["t_low"], row["t_high"]
        lengths = torch.linalg.eigvalsh(torch.cov(data.heldout.double().T))
        ends = []
        for t in (low, high):
            signal = float(SDE.alpha(t)) ** 2 * lengths
            ends.append(float((signal / (signal + float(SDE.sigma(t)) ** 2)).mean()))
        # 1024 probes of 2 numbers: some 4 % each; the samples differ by as much.
        assert ends[1] * 0.85 < row["heldout"] < ends[0] * 1.15
