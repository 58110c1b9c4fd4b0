"""Sampling end to end on oracles: closed forms, moments, batches, statuses, bad input."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdeflow.chart import CLOCKS, SCALES
from sdeflow.conditioning import EDM, ETSDM, LogSNR
from sdeflow.denoiser import Denoiser
from sdeflow.grids import time_grid
from sdeflow.oracle import Gaussian, LabelledOracle, Mixture, Oracle, make_oracle
from sdeflow.sampling import encode, sample
from sdeflow.sde import SDE, make_sde
from sdeflow.shared_time import SharedTime, Told
from solvers import SolverError, Status

SDES = {
    "vp-linear": make_sde("vp"),
    "vp-cosine": make_sde("vp", "cosine"),
    "vp-trig": make_sde("vp", "trig"),
    "subvp": make_sde("subvp"),
    "ve": make_sde("ve"),
    "edm": make_sde("edm"),
}


def gaussian(sde: SDE) -> Gaussian:
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    return Gaussian(sde, torch.tensor([0.4, -0.7], dtype=torch.float64), covariance=cov)


def starts(oracle: Oracle, count: int, t_max: float) -> tuple[Tensor, Tensor]:
    noise = torch.randn(count, *oracle.data_shape, dtype=torch.float64)
    return noise, noise * oracle.sde.prior_scale(t_max)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize(
    "chart", ["x/time", "x/log-snr", "x/alpha/mixed", "x/sigma/log-angle", "x/std/banded"]
)
def test_flow_samples_match_the_closed_form(name: str, chart: str) -> None:
    oracle = gaussian(SDES[name])
    noise, _ = starts(oracle, 16, 1.0)
    out = sample(oracle, noise=noise, dtype=torch.float64, chart=chart, rtol=1e-8, atol=1e-8)
    t_max = out.settings["t_max"]
    exact = oracle.flow(noise * oracle.sde.prior_scale(t_max), t_max, 1e-3)
    # Errors of at most tolerance a step, each step's grown by no more than the flow's contraction
    # (below 1 here, data narrower than the prior), over some hundred steps.
    steps = int(out.log.steps.max())
    assert torch.allclose(out.x, exact, atol=1e-8 * 2 * steps, rtol=1e-6)
    assert bool(out.ok.all())
    assert (out.t == 1e-3).all()


@pytest.mark.parametrize("name", SDES)
def test_adams_starts_where_the_ratio_is_finite(name: str) -> None:
    """Cosine and trigonometric schedules have alpha(1) = 0, where its weights are infinite."""
    oracle = gaussian(SDES[name])
    noise, _ = starts(oracle, 16, 1.0)
    out = sample(oracle, noise=noise, dtype=torch.float64, solver="adams", rtol=1e-5, atol=1e-5)
    t_max = out.settings["t_max"]
    exact = oracle.flow(noise * oracle.sde.prior_scale(t_max), t_max, 1e-3)
    # A step's error is accepted up to six times the tolerance 1e-5 (1 + |x|).
    steps = int(out.log.steps.max())
    limit = 6e-5 * (1 + float(exact.abs().max())) * steps
    assert bool(out.ok.all())
    assert float((out.x - exact).abs().max()) < limit


@pytest.mark.parametrize("name", SDES)
def test_reverse_sde_samples_have_the_moments(name: str) -> None:
    """Euler-Maruyama's bias at 400 steps is below a standard error of 4,000 samples."""
    oracle = gaussian(SDES[name])
    n = 4000
    out = sample(oracle, solver="sra1", steps=100, grid="log-snr", count=n, dtype=torch.float64)
    mean, cov = oracle.moments(1e-3)
    spread = (cov.diagonal() / n).sqrt()
    # Five standard errors, and the prior's error: N(0, 1) stands for p(t_max), whose mean is
    # alpha(t_max) m and whose covariance differs by alpha^2 (S - 1), contracted by the flow.
    alpha, sigma = float(oracle.sde.alpha(out.settings["t_max"])), oracle.sde.prior_scale(1.0)
    prior = 2 * alpha / sigma
    assert bool(((out.x.mean(0) - mean).abs() <= 5 * spread + prior * 0.1).all())
    error = ((torch.outer(cov.diagonal(), cov.diagonal()) + cov**2) / n).sqrt()
    assert bool(((torch.cov(out.x.T) - cov).abs() <= 5 * error + prior**2).all())
    assert out.settings["eta"] == 1.0


@pytest.mark.parametrize("solver", ["dopri5", "sra1"])
def test_batches_and_order_do_not_matter(solver: str) -> None:
    oracle = make_oracle("gaussian", make_sde())
    settings = {"solver": solver, "count": 12, "seed": 3, "dtype": torch.float64}
    whole = sample(oracle, **settings)
    parts = sample(oracle, batch_size=5, **settings)
    assert torch.equal(whole.x, parts.x)
    assert (whole.log.evaluations == parts.log.evaluations).all()
    first = sample(oracle, **{**settings, "count": 4})
    assert torch.equal(whole.x[:4], first.x)
    other = sample(oracle, **{**settings, "seed": 4})
    assert not torch.equal(whole.x, other.x)
    order = np.lexsort((parts.log.t, parts.log.sample))
    same = np.lexsort((whole.log.t, whole.log.sample))
    assert (parts.log.dt[order] == whole.log.dt[same]).all()


@pytest.mark.parametrize("chart", ["x/log-snr", "x/alpha/mixed", "x/std/banded"])
@pytest.mark.parametrize("name", SDES)
def test_batches_do_not_matter_to_any_process_or_clock(name: str, chart: str) -> None:
    settings = {"count": 7, "seed": 3, "dtype": torch.float64, "chart": chart, "rtol": 1e-2}
    oracle = make_oracle("gaussian", SDES[name])
    whole, parts = sample(oracle, **settings), sample(oracle, batch_size=3, **settings)
    assert torch.equal(whole.x, parts.x)


def test_log_knows_time_and_noise() -> None:
    sde = make_sde()
    oracle = Told(make_oracle("mixture", sde), ETSDM(sde))
    out = sample(oracle, count=8, chart="x/log-angle", dtype=torch.float64)
    log = out.log
    extra = log.extra
    assert (extra["time"] <= 1).all()
    assert (extra["time_end"] >= 1e-3).all()
    assert (extra["time_end"] < extra["time"]).all()
    assert extra["sigma"] == pytest.approx(sde.sigma(torch.from_numpy(extra["time"])).numpy())
    # No attempt straddles an edge of the sharing.
    for edge in ETSDM(sde).edges:
        above, below = extra["time"] > edge * (1 + 1e-12), extra["time_end"] < edge * (1 - 1e-12)
        assert not (above & below).any()
    summary = out.summary()
    assert summary["accepted"] + summary["rejected"] == len(log)
    assert summary["breaks"] == list(ETSDM(sde).edges)
    assert summary["evaluations"]["max"] == log.evaluations.max()


def test_counting_and_range_of_times() -> None:
    """The oracle is called where the log says, never outside [t_min, t_max]."""
    sde = make_sde()
    inner = make_oracle("mixture", sde)

    class Watched(Oracle):
        data_shape = (2,)

        def __init__(self) -> None:
            self.sde, self.times, self.rows = sde, [], 0

        def predict(
            self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None
        ) -> Tensor:
            self.times.append(t)
            self.rows += len(x)
            return inner.predict(x, t, wanted)

    for chart in ("x/time", "x/log-snr", "x/std/banded"):
        watched = Watched()
        out = sample(watched, count=10, chart=chart, t_min=1e-5, dtype=torch.float64)
        times = torch.cat(watched.times)
        assert float(times.min()) >= 1e-5
        assert float(times.max()) <= 1
        assert watched.rows == int(out.log.evaluations.sum())
        assert len(watched.times) == out.log.calls


def test_encode_inverts_sample() -> None:
    oracle = gaussian(make_sde())
    noise, _ = starts(oracle, 6, 1.0)
    settings = {"rtol": 1e-9, "atol": 1e-9, "chart": "x/std/banded"}
    x = sample(oracle, noise=noise, dtype=torch.float64, **settings).x
    back = encode(oracle, x, **settings)
    # The flow expands going up by at most sqrt(1 / smallest eigenvalue).
    assert torch.allclose(back.x, noise, atol=1e-6)
    assert (back.t == 1.0).all()
    fixed = encode(oracle, x, solver="rk4", steps=60, grid="log-snr")
    assert torch.allclose(fixed.x, noise, atol=1e-2)
    with pytest.raises(ValueError, match="ODE solver"):
        encode(oracle, x, solver="sra1")


def test_ddim_is_exact_where_the_data_is_one_point() -> None:
    """x_0-hat is constant, so DDIM lands on it in any number of steps."""
    sde = make_sde()
    point = torch.tensor([0.3, -2.0], dtype=torch.float64)
    oracle = Gaussian(sde, point, width=0.0)
    out = sample(oracle, solver="ddim", steps=3, count=5, dtype=torch.float64)
    noise = (out.x - float(sde.alpha(1e-3)) * point) / float(sde.sigma(1e-3))
    start = sample(oracle, solver="ddim", steps=3, count=5, dtype=torch.float64, final="denoise")
    assert torch.allclose(start.x, point.expand(5, 2), atol=1e-12)
    assert float(noise.std()) == pytest.approx(1, abs=1)
    exact = oracle.flow(out.x, 1e-3, 1.0)
    assert torch.allclose(oracle.flow(exact, 1.0, 1e-3), out.x, atol=1e-9)


def test_final_step() -> None:
    oracle = make_oracle("mixture", make_sde())
    plain = sample(oracle, solver="ddim", steps=10, count=4)
    denoised = sample(oracle, solver="ddim", steps=10, count=4, final="denoise")
    assert torch.allclose(denoised.x, oracle.data(plain.x, 1e-3), atol=1e-6)
    assert denoised.log.calls == plain.log.calls + 1
    zero = sample(oracle, solver="ddim", steps=10, count=4, final="zero")
    assert zero.log.calls == plain.log.calls
    grid = time_grid("time", oracle.sde, 10, 1.0, 1e-3)
    assert zero.t.tolist() == [float(grid[-2])] * 4


def test_trajectory() -> None:
    oracle = gaussian(make_sde())
    times = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    noise, x = starts(oracle, 4, 1.0)
    out = sample(
        oracle, noise=noise, trajectory=times, dtype=torch.float64, rtol=1e-8, atol=1e-8,
        chart="x/alpha/log-snr",
    )  # fmt: skip
    assert out.trajectory is not None
    for row, t in zip(out.trajectory, times, strict=True):
        # The interpolant is of lower order than the step: two digits are given for that.
        assert torch.allclose(row, oracle.flow(x, 1.0, float(t)), atol=1e-5)


def _labelled() -> LabelledOracle:
    sde = make_sde()
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    each = [Gaussian(sde, mean, width=0.1) for mean in means]
    return LabelledOracle(each, Mixture(sde, means, width=0.1))


def test_labels_reach_their_samples() -> None:
    oracle = _labelled()
    label = torch.tensor([0, 1, 1, 0, 1])
    out = sample(oracle, count=5, label=label, batch_size=2)
    assert ((out.x[:, 0] > 0) == (label == 0)).all()
    assert bool((sample(oracle, count=5, label=1).x[:, 0] < 0).all())


def test_failures_come_back_with_a_status() -> None:
    sde = make_sde()
    inner = make_oracle("gaussian", sde)

    class Breaks(Oracle):
        """Not a number for samples that start on the left, once t < 0.5."""

        data_shape = (2,)

        def __init__(self) -> None:
            self.sde = sde

        def predict(
            self, x: Tensor, t: Tensor, wanted: str, label: Tensor | None = None
        ) -> Tensor:
            good = inner.predict(x, t, wanted)
            bad = (t < 0.5) & (label == 1)
            return torch.where(bad[:, None], math.nan, good)

    Breaks.num_classes = 2
    label = torch.tensor([0, 1, 0, 0])
    out = sample(Breaks(), count=4, label=label, on_failure="return")
    assert out.status.tolist() == [Status.ok, Status.non_finite, Status.ok, Status.ok]
    assert 0.4 < out.t[1] <= 0.52
    assert "sample 1" in out.failure
    good = sample(inner, count=4)
    assert torch.equal(out.x[[0, 2, 3]], good.x[[0, 2, 3]])
    with pytest.raises(SolverError, match="non_finite"):
        sample(Breaks(), count=4, label=label)
    few = sample(inner, count=4, max_evaluations=8, on_failure="return")
    assert (few.status == Status.max_evaluations).all()


@pytest.mark.parametrize("name", SDES)
def test_grids_are_exact_at_both_ends(name: str) -> None:
    sde = SDES[name]
    t_max = 1.0 if sde.has_signal_at(1.0) else 0.99
    for spec in (*CLOCKS, "karras", "karras:3"):
        times = time_grid(spec, sde, 17, t_max, 1e-4)
        assert len(times) == 18
        assert (float(times[0]), float(times[-1])) == (t_max, 1e-4)
        assert bool((times.diff() < 0).all())
    explicit = time_grid("0.9,0.5,0.1", sde, 1, 0.9, 0.1)
    assert explicit.tolist() == [0.9, 0.5, 0.1]


def test_defaults_work_for_every_process_and_chart() -> None:
    for sde in SDES.values():
        oracle = make_oracle("gaussian", sde)
        for scale in SCALES:
            # Every clock with one scale, every scale with one clock.
            for clock in CLOCKS if scale == "x" else ("log-snr",):
                out = sample(oracle, count=2, chart=f"{scale}/{clock}")
                assert bool(out.ok.all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "dopri"}, "dopri5"),
        ({"chart": "x/tim"}, "clock='tim'"),
        ({"controller": "p"}, "controller='p'"),
        ({"rtol": -1.0}, "rtol=-1.0"),
        ({"atol": math.nan}, "atol=nan"),
        ({"t_min": 0.0}, "t_min=0.0"),
        ({"t_min": 1.5}, "t_min=1.5"),
        ({"t_max": 1e-4}, "t_max=0.0001"),
        ({"steps": 0}, "steps=0"),
        ({"grid": "steep"}, "grid='steep'"),
        ({"grid": "0.9,0.1"}, "must run from"),
        ({"grid": "karras:-1"}, "power"),
        ({"eta": 0.5}, "deterministic"),
        ({"solver": "sra1", "eta": -1.0}, "eta=-1.0"),
        ({"count": 0}, "count=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"final": "soft"}, "final='soft'"),
        ({"final": "zero"}, "fixed steps"),
        ({"label": 3}, "not trained with labels"),
        ({"guidance": 2.0}, "no class labels"),
        ({"noise": torch.zeros(3, 2), "shape": (4,)}, "noise"),
        ({"trajectory": torch.tensor([0.5, 1e-4])}, "between 1 and 0.001"),
        (
            {
                "solver": "ddim",
                "steps": 4,
                "final": "zero",
                "trajectory": torch.tensor([1.0, 1e-3]),
            },
            "where the last step begins",
        ),
        ({"solver": "heun-edm", "eta": 1.0}, "heun-edm-churn"),
        ({"trajectory": 10}, r"trajectory=10: give a list of times"),
        ({"trajectory": [None]}, "give a list of times"),
        ({"trajectory": [0.5, 0.6]}, "need falling times between 1 and 0.001"),
        ({"grid": [1.0, "a"]}, "grid="),
        ({"solver": "torchdiffeq/dopri5", "chart": "x/alpha/log-snr"}, "takes scale x only"),
        ({"solver": "ancestral", "steps": 4, "trajectory": [0.3]}, r"those, 1\.0, .*'times'"),
        ({"noise": torch.zeros(5, 2), "count": 2}, r"noise\[:2\]"),
        ({"solver": "euler-maruyama", "rtol": 1e-3}, "use steps"),
    ],
)
def test_bad_arguments(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(make_oracle("gaussian", make_sde()), **settings)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_times_as_any_sequence(kind: Any) -> None:
    oracle = make_oracle("gaussian", make_sde())
    times = [1.0, 0.3, 1e-3]
    text = sample(oracle, solver="rk4", grid="1,0.3,1e-3", count=2, dtype=torch.float64)
    given = sample(oracle, solver="rk4", grid=kind(times), count=2, dtype=torch.float64)
    assert torch.equal(text.x, given.x)
    kept = sample(oracle, count=2, trajectory=kind(times), t_max=1.0)
    assert kept.trajectory is not None
    assert len(kept.trajectory) == 3


def test_failures_say_where_in_time() -> None:
    with pytest.raises(SolverError, match=r"max_evaluations at t=0\.\d+, dt=-") as caught:
        sample(
            make_oracle("mixture", make_sde()), count=1, max_evaluations=40, rtol=1e-6, atol=1e-6
        )
    t = caught.value.solution.t
    assert ((t > 1e-3) & (t < 1)).all()


def test_bad_labels_and_shape() -> None:
    with pytest.raises(ValueError, match="give label"):
        sample(_labelled(), guidance=3.0)
    with pytest.raises(ValueError, match=r"x has shape \(0, 2\)"):
        encode(make_oracle("gaussian", make_sde()), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="labels run from 0 to 1"):
        sample(_labelled(), label=5)
    with pytest.raises(ValueError, match="3 labels for 2"):
        sample(_labelled(), count=2, label=torch.zeros(3, dtype=torch.int64))
    model = Gaussian(make_sde(), torch.zeros(2), width=1.0)
    del model.data_shape
    with pytest.raises(ValueError, match="shape=None"):
        sample(model)


@pytest.mark.parametrize(
    "sde",
    [make_sde("subvp", "zero-snr"), make_sde("vp", "zero-snr", smooth_start=0.1, sigma_floor=0.1)],
    ids=repr,
)
def test_exact_models_go_where_no_signal_is_left(sde: SDE) -> None:
    """alpha(1) = 0: nothing may divide by it, in the scale x neither."""
    oracle = gaussian(sde)
    x = oracle.sample(6, torch.Generator().manual_seed(0))
    latent = encode(oracle, x, chart="x/time", rtol=1e-8, atol=1e-8, t_min=0.2)
    assert latent.settings["t_max"] == 1.0
    # Some hundred steps of at most tolerance each.
    torch.testing.assert_close(latent.x, oracle.flow(x, 0.2, 1.0), rtol=1e-6, atol=2e-6)
    for model in (SharedTime(oracle, ETSDM(sde, 0.1)), Told(oracle, ETSDM(sde, 0.1))):
        other = encode(model, x, chart="x/time", rtol=1e-8, atol=1e-8, t_min=0.2)
        torch.testing.assert_close(other.x, latent.x, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("condition", [LogSNR, EDM])
def test_a_network_starts_where_it_can_be_told_the_time(condition: type[LogSNR | EDM]) -> None:
    sde = make_sde("vp", "zero-snr")

    class Finite(torch.nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return x * torch.tanh(c)[:, None]

    settings: dict = {"shape": (2,), "chart": "x/time", "count": 2}
    told = Denoiser(Finite(), sde, condition(sde), predict="velocity")
    for model in (told, told.given()):
        assert sample(model, **settings).settings["t_max"] < 1
    assert sample(Denoiser(Finite(), sde, predict="velocity"), **settings).settings["t_max"] == 1


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dopri5"])
def test_times_of_a_trajectory_may_be_float32(solver: str) -> None:
    settings: dict = {"solver": solver, "count": 3, "t_min": 0.1}
    settings |= {} if solver == "dopri5" else {"steps": 4}
    oracle = make_oracle("mixture", make_sde())
    path = sample(oracle, trajectory=torch.tensor([1.0, 0.1]), **settings)
    exact = sample(oracle, trajectory=torch.tensor([1.0, 0.1], dtype=torch.float64), **settings)
    assert path.trajectory is not None
    assert exact.trajectory is not None
    assert torch.equal(path.trajectory, exact.trajectory)


@pytest.mark.parametrize(("solver", "recorded"), [("dopri5", None), ("ancestral", 5)])
def test_the_seed_is_recorded_where_it_has_a_part(solver: str, recorded: int | None) -> None:
    oracle = make_oracle("gaussian", make_sde())
    given = sample(oracle, noise=torch.randn(3, 2), solver=solver, seed=5)
    assert given.settings["seed"] == recorded
    assert sample(oracle, count=3, solver=solver, seed=5).settings["seed"] == 5


def test_a_guided_model_is_a_model() -> None:
    oracle = _labelled()
    settings: dict = {"count": 5, "dtype": torch.float64}
    labels = torch.tensor([0, 1, 0, 1, 1])
    direct = sample(oracle, label=labels, guidance=1.5, **settings)
    for model, label in (
        (oracle.given(guidance=1.5), labels),
        (oracle.given(labels, 1.5), None),
    ):
        assert torch.equal(sample(model, label=label, **settings).x, direct.x)
        parts = sample(model, label=label, batch_size=2, **settings)
        torch.testing.assert_close(parts.x, direct.x, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="labels run from 0 to 1"):
        sample(oracle.given(guidance=1.5), label=7, **settings)
