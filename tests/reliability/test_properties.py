"""Properties that hold for all settings: a hundred random cases of each, chosen by hypothesis.

SDEFLOW_EXAMPLES=5000 tries as many of each; by default the cases are always the same ones.
"""

import math
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdeflow.chart import CLOCKS, SCALES, Chart
from sdeflow.conditioning import ETSDM, SmoothTime, make_conditioning
from sdeflow.sde import SDE, make_sde
from solvers import odeint, sdeint

EXAMPLES = int(os.environ.get("SDEFLOW_EXAMPLES", "100"))
EPS = float(torch.finfo(torch.float64).eps)

cases = settings(
    max_examples=EXAMPLES,
    derandomize="SDEFLOW_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
few = settings(cases, max_examples=max(1, EXAMPLES // 4))

PROCESSES = [
    *(("vp", schedule) for schedule in ("linear", "quadratic", "cosine", "zero-snr", "trig")),
    ("subvp", "linear"),
    ("ve", "linear"),
    ("edm", "linear"),
]


@st.composite
def processes(draw: st.DrawFn) -> SDE:
    name, schedule = draw(st.sampled_from(PROCESSES))
    start = draw(st.none() | st.floats(0.01, 1.0)) if name == "vp" else None
    return make_sde(name, schedule=schedule, smooth_start=start)


def a_time(low: float = 1e-8, high: float = 0.999) -> st.SearchStrategy[float]:
    """Times even in their logarithm, or near the end."""
    logs = st.floats(math.log(low), math.log(high)).map(math.exp)
    return (logs | st.floats(low, high)).map(lambda t: min(max(t, low), high))


def one(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


@cases
@example(make_sde("vp", schedule="zero-snr", smooth_start=0.1875), 1.522997974471263e-08)
@given(processes(), a_time())
def test_coefficients_agree_with_each_other(sde: SDE, t: float) -> None:
    alpha, sigma, log_snr = (float(f(one(t))) for f in (sde.alpha, sde.sigma, sde.log_snr))
    assert 0 < alpha <= 1
    assert 0 < sigma < math.inf
    # log of a quotient of numbers that are each right to some ulps.
    assert log_snr == pytest.approx(math.log(alpha / sigma), abs=1e-13 * (1 + abs(log_snr)))
    if type(sde).__name__ == "VP":
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=16 * EPS)
    dot = float(sde.log_snr_dot(one(t)))
    assert dot < 0
    # g^2 = -2 sigma^2 lambda'; f = alpha'/alpha; both are sums of a few terms.
    assert float(sde.g2(one(t))) == pytest.approx(-2 * sigma**2 * dot, rel=1e-11)
    assert float(sde.f(one(t))) == pytest.approx(float(sde.alpha_dot(one(t))) / alpha, rel=1e-11)
    assert dot == pytest.approx(
        float(sde.alpha_dot(one(t))) / alpha - float(sde.sigma_dot(one(t))) / sigma, rel=1e-10
    )


@cases
@given(processes(), a_time())
def test_time_of_log_snr_is_the_inverse(sde: SDE, t: float) -> None:
    log_snr = sde.log_snr(one(t))
    back = float(sde.time_of_log_snr(log_snr))
    # An error of a few ulps in lambda is one of d lambda / |lambda'| in t.
    lost = EPS * (1 + abs(float(log_snr))) / abs(float(sde.log_snr_dot(one(t))))
    assert abs(back - t) <= 64 * (lost + EPS * t)


@cases
@given(processes(), a_time(1e-8, 0.9), st.floats(1.0001, 10))
def test_noise_grows_with_time(sde: SDE, s: float, factor: float) -> None:
    t = min(s * factor, 0.999)
    assume(t > s * 1.00001)
    assert float(sde.log_snr(one(t))) < float(sde.log_snr(one(s)))
    assert float(sde.sigma(one(t))) > float(sde.sigma(one(s)))
    assert float(sde.alpha(one(t))) <= float(sde.alpha(one(s))) + 16 * EPS  # some ulps of 1


@cases
@given(
    processes(),
    st.sampled_from(SCALES),
    st.sampled_from(CLOCKS),
    a_time(1e-8, 1 - 1e-6),
    st.floats(1e-3, 0.5),
    st.floats(0.1, 100.0),
)
def test_a_chart_leads_back(
    sde: SDE, scale: str, clock: str, t: float, knee: float, elbow: float
) -> None:
    """From the smallest times to a millionth before the end, whatever the chart's own numbers."""
    try:
        chart = Chart(sde, scale, clock, knee=knee, elbow=elbow)
        chart.check(1e-8, 1 - 1e-6)
    except ValueError:
        assume(False)
    tau = float(chart.tau(one(t)))
    back = float(chart.time(one(tau)))
    h = 1e-2 * min(t, 1 - t)
    rise = abs(float(chart.tau(one(t + h)) - chart.tau(one(t - h))))
    assume(rise > 64 * EPS * abs(tau))  # else times are closer than the clock can tell
    slope = rise / (2 * h)
    # An ulp in tau, one in lambda on the way, one in t: what each is worth in t.
    in_tau = EPS * (1e-300 + abs(tau)) / slope
    in_log_snr = EPS * (1 + abs(float(sde.log_snr(one(t))))) / abs(float(sde.log_snr_dot(one(t))))
    assert abs(back - t) <= 256 * (in_tau + in_log_snr + EPS * t)
    assert float(chart.state_scale(one(t))) > 0


@cases
@given(
    processes(),
    st.floats(0.01, 0.9),
    st.integers(1, 40),
    st.sampled_from(["time", "sigma", "log-snr"]),
    st.sampled_from(["left", "middle", "right"]),
    a_time(1e-6, 0.999),
)
def test_shared_time_is_a_step_function(
    sde: SDE, threshold: float, intervals: int, edges: str, at: str, t: float
) -> None:
    try:
        shared = ETSDM(sde, threshold, intervals, edges, at)
    except ValueError:  # edges in log-SNR need one that is given to be below the threshold
        assume(False)
    points = [0.0, *shared.edges]
    assert points == sorted(set(points))
    told = float(shared(one(t)))
    if t >= shared.threshold:
        assert told == t
        return
    i = int(shared.interval(one(t)))
    assert points[i] <= t < points[i + 1]
    assert points[i] <= told <= points[i + 1]
    inside = one(math.nextafter(points[i + 1], 0.0))
    assert float(shared(inside)) == told  # up to the last number before the edge
    assert float(shared(one(points[i]))) == told


@cases
@given(
    processes(),
    st.sampled_from(["time", "smooth", "log-snr", "sigma", "edm", "none"]),
    st.floats(1e-4, 1.0),
    st.lists(a_time(1e-5, 0.99), min_size=2, max_size=20),
)
def test_conditions_are_finite_and_monotone(
    sde: SDE, kind: str, scale: float, ts: list[float]
) -> None:
    condition = make_conditioning(sde, kind, smooth_scale=scale)
    t = torch.tensor(sorted(ts), dtype=torch.float64)
    c = condition(t)
    assert bool(torch.isfinite(c).all())
    assert c.shape == t.shape
    rising = np.diff(c.numpy())
    assert (rising >= 0).all() or (rising <= 0).all()


@cases
@given(st.floats(1e-3, 10.0), a_time(1e-8, 1.0))
def test_smooth_time_is_its_formula(s: float, t: float) -> None:
    expected = t * t / (math.sqrt(t * t + s * s) + s)
    assert float(SmoothTime(s)(one(t))) == pytest.approx(expected, rel=8 * EPS)


METHODS = ["heun", "bosh3", "dopri5", "tsit5", "dopri8"]


def watched(
    field: Callable[[Tensor, Tensor], Tensor], low: float, high: float, seen: list[float]
) -> Callable[[Tensor, Tensor], Tensor]:
    def call(t: Tensor, y: Tensor) -> Tensor:
        seen.extend(t.tolist())
        assert low <= float(t.min()) <= float(t.max()) <= high
        return field(t, y)

    return call


@few
@given(
    st.sampled_from(METHODS),
    st.lists(st.floats(-8, 2), min_size=1, max_size=4),
    st.floats(-2, 2),
    st.floats(0.01, 2),
    st.booleans(),
    st.floats(3, 7),
)
def test_linear_systems_to_the_tolerance(
    method: str, rates: list[float], start: float, length: float, forwards: bool, digits: float
) -> None:
    """y' = a y, one rate per sample: exp(a (t1 - t0)), never evaluated outside, t1 exactly."""
    t0, t1 = (start, start + length) if forwards else (start + length, start)
    a = torch.tensor(rates, dtype=torch.float64)[:, None] * (1.0 if forwards else -1.0)
    # The field of a sample must not depend on which others are still running: rates as a state.
    y0 = torch.cat([torch.ones_like(a), a], dim=1)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0] * y[:, 1], torch.zeros_like(y[:, 1])], dim=1)

    seen: list[float] = []
    tolerance = 10**-digits
    out = odeint(
        watched(field, min(t0, t1), max(t0, t1), seen), y0, t0, t1,
        method=method, rtol=tolerance, atol=tolerance, max_evaluations=100_000,
    )  # fmt: skip
    assert (np.asarray(out.t) == t1).all()
    exact = torch.exp(a[:, 0] * (t1 - t0))
    # Local errors of at most tol (1 + |y|), at most as many as steps, grown by exp(2 length).
    steps = max(1, int(np.bincount(out.log.sample[out.log.accepted]).max()))
    bound = tolerance * steps * 10 * math.exp(2 * length)
    assert float(((out.y[:, 0] - exact).abs() / (1 + exact)).max()) <= bound


@few
@given(
    st.sampled_from(METHODS),
    st.floats(-1, 1),
    st.floats(-12, 12),
    st.floats(-2, 2),
    st.floats(0.01, 2),
    st.booleans(),
    st.floats(3, 8),
)
def test_coupled_linear_systems_to_the_tolerance(
    method: str, rate: float, turn: float, start: float, length: float, forwards: bool,
    digits: float,
) -> None:  # fmt: skip
    """y' = (a + i b) y, two coupled numbers: turned by b (t1 - t0), grown by exp(a (t1 - t0))."""
    t0, t1 = (start, start + length) if forwards else (start + length, start)
    matrix = torch.tensor([[rate, turn], [-turn, rate]], dtype=torch.float64)  # acts on rows
    y0 = torch.tensor([[1.0, 0.0], [0.5, -2.0]], dtype=torch.float64)
    tolerance = 10**-digits
    out = odeint(
        lambda t, y: y @ matrix, y0, t0, t1, method=method, rtol=tolerance, atol=tolerance,
        max_evaluations=100_000,
    )  # fmt: skip
    exact = y0 @ torch.linalg.matrix_exp(matrix * (t1 - t0))
    # As above; a turn keeps the size of an error, so that it grows by exp(|a| length) at most.
    steps = max(1, int(np.bincount(out.log.sample[out.log.accepted]).max()))
    bound = tolerance * steps * 10 * math.exp(2 * length) * 3
    assert float((out.y - exact).abs().max()) <= bound


@few
@given(
    st.sampled_from(METHODS),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True),
    st.booleans(),
    st.floats(3, 8),
)
def test_breaks_are_landed_on_and_never_straddled(
    method: str, breaks: list[float], forwards: bool, digits: float
) -> None:
    """y' jumps by one at each break; between them it is constant, so the end is exact."""
    edges = torch.tensor(sorted(breaks), dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.bucketize(t, edges, right=True).double()[:, None].expand_as(y)

    t0, t1 = (0.0, 1.0) if forwards else (1.0, 0.0)
    tolerance = 10**-digits
    out = odeint(
        field, torch.zeros(2, 1, dtype=torch.float64), t0, t1, method=method,
        rtol=tolerance, atol=tolerance, breaks=breaks,
    )  # fmt: skip
    exact = float((1 - edges).sum()) * (1 if forwards else -1)
    # A constant field is integrated to rounding; nothing is rejected at a jump.
    assert out.y.flatten().tolist() == pytest.approx([exact] * 2, abs=1e-12)
    assert out.log.accepted.all()
    begin, end = out.log.t, out.log.t + out.log.dt
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    for edge in edges.tolist():
        assert not ((low < edge - 1e-12) & (high > edge + 1e-12)).any()


@few
@given(
    st.lists(st.floats(-3, 1), min_size=3, max_size=3),
    st.integers(0, 2**62),
    st.permutations(range(3)),
)
def test_a_sample_does_not_depend_on_its_company(
    rates: list[float], seed: int, order: list[int]
) -> None:
    """Noise and steps of a stochastic solver belong to the sample's seed, not to its place."""
    a = torch.tensor(rates, dtype=torch.float64)[:, None]
    y0 = torch.cat([torch.ones_like(a), a], dim=1)
    seeds = torch.tensor([seed, seed + 1, seed + 2])

    def drift(t: Tensor, y: Tensor) -> Tensor:
        return torch.stack([y[:, 0] * y[:, 1], torch.zeros_like(y[:, 1])], dim=1)

    def diffusion(t: Tensor) -> Tensor:
        return torch.full_like(t, 0.3)

    def run(rows: list[int]) -> Tensor:
        out = sdeint(
            drift, diffusion, y0[rows], 0.0, 1.0, seeds=seeds[rows],
            method="stochastic-heun", rtol=1e-2, atol=1e-2,
        )  # fmt: skip
        return out.y

    whole = run([0, 1, 2])
    assert torch.equal(run(order), whole[order])
    assert torch.equal(run([1]), whole[[1]])
