"""Steepness in time and in x: the paper's K, its limit, jumps, exponents, singular values."""

import numpy as np
import pytest
import torch

from sdeflow import ETSDM, Denoiser, Told, make_network, make_oracle, make_sde
from sdeflow.instruments.lipschitz import (
    lipschitz_study,
    singular_exponent,
    time_grid,
)
from sdeflow.instruments.lipschitz_comparison import comparison_figure
from sdeflow.instruments.lipschitz_report import lipschitz_figure
from sdeflow.instruments.power_law import fit_exponent
from sdeflow.instruments.probe import draw_data
from sdeflow.instruments.space import curvature, largest_singular_value
from sdeflow.oracle import FiniteData, Gaussian, LabelledOracle, Mixture

VP = make_sde("vp")


def rows(study, quantity, prediction="noise"):
    return [r for r in study.curve if r["quantity"] == quantity and r["prediction"] == prediction]


def of(found, name):
    return np.array([row[name] for row in found])


def test_finite_steps_converge_to_the_derivative():
    times, steps = [0.01, 0.1, 0.5], (1e-3, 1e-5, 1e-7)
    model = make_oracle("mixture", VP)
    study = lipschitz_study(model, times=times, steps=steps, count=64)
    for prediction in ("noise", "data", "score", "velocity"):
        exact = of(rows(study, "total", prediction), "mean")
        gaps = []
        for step in steps:
            found = [r for r in rows(study, "step", prediction) if r["step"] == step]
            gaps.append(np.abs(of(found, "mean") / exact - 1).max())
        # First order in the step; the derivative varies over a time of order t, 0.01 at least,
        # and at 1e-7 rounding adds 1e-16 / 1e-7 of the prediction.
        assert gaps[0] > 10 * gaps[1] > 100 * gaps[2], gaps
        assert gaps[2] < 1e-4


def test_the_papers_quotient_by_hand():
    model = make_oracle("mixture", VP)
    study = lipschitz_study(model, times=[0.02], measure=("noise",), count=50, batch_size=7)
    x_0 = draw_data(model, 50, 0)
    noise = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = VP.perturb(x_0, 0.02, noise)
    k = (model.noise(x, 0.02) - model.noise(x, 0.021)).norm(dim=1) / 1e-3
    (row,) = rows(study, "step")
    assert row["mean"] == pytest.approx(float(k.mean()))
    assert row["error"] == pytest.approx(float(k.std() / 50**0.5))
    assert row["median"] == pytest.approx(float(k.quantile(0.5)))
    assert row["maximum"] == pytest.approx(float(k.max()))
    assert row["sigma"] == pytest.approx(float(VP.sigma(0.02)))
    assert row["per_sigma"] == pytest.approx(
        row["mean"] * 1e-3 / float(VP.sigma(0.021) - VP.sigma(0.02))
    )


@pytest.mark.parametrize("name", ["vp", "subvp", "edm"])
def test_gaussian_in_closed_form(name):
    # At x = alpha mu + s n with s^2 = alpha^2 l + sigma^2: eps = sigma (x - alpha mu) / s^2, so
    # ||d eps/dt|| / ||n|| is s d(sigma/s^2)/dt where mu = 0.
    sde, width = make_sde(name), 0.5
    model = Gaussian(sde, torch.zeros(2, dtype=torch.float64), width=width)
    study = lipschitz_study(model, times=[1e-6, 0.01, 0.4], measure=("noise",), count=4000)
    for row in rows(study, "total"):
        t = row["t"]
        a, s = float(sde.alpha(t)), float(sde.sigma(t))
        da, ds = float(sde.alpha_dot(t)), float(sde.sigma_dot(t))
        c, dc = a * a * width**2 + s * s, 2 * (a * da * width**2 + s * ds)
        expected = abs(ds / c - s * dc / c**2) * c**0.5 * (np.pi / 2) ** 0.5
        # Five standard errors of the 4,000 samples.
        assert abs(row["mean"] - expected) < 5 * row["error"]
        assert row["error"] == pytest.approx(expected * ((4 / np.pi - 1) / 4000) ** 0.5, rel=0.1)
        assert row["per_sigma"] == pytest.approx(row["mean"] / abs(ds))


def test_sharing_time_is_flat_inside_and_jumps_at_the_edges():
    mixture = make_oracle("mixture", VP)
    shared = ETSDM(VP, intervals=5, at="middle")
    model = Told(mixture, shared)
    times = [1e-4, 0.011, 0.0395, 0.099, 0.2]
    study = lipschitz_study(model, times=times, measure=("noise",), count=32)
    inside = [True] * 4 + [False]
    for quantity in ("total", "condition"):
        assert (of(rows(study, quantity), "mean") == 0).tolist() == inside
    steps = rows(study, "step")
    assert [r["crosses"] for r in steps] == [False, False, True, True, False]
    assert (of(steps, "mean") == 0).tolist() == [True, True, False, False, False]
    # The jump by hand: the same x asked at the two shared times.
    assert [j["t"] for j in study.jumps] == [0.02, 0.04, 0.06, 0.08, 0.1]
    x_0 = draw_data(mixture, 32, 0)
    noise = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = VP.perturb(x_0, 0.04, noise)
    jump = (mixture.noise(x, 0.05) - mixture.noise(x, 0.03)).norm(dim=1).mean()
    assert study.jumps[1]["mean"] == pytest.approx(float(jump))
    assert study.jumps[1]["per_step"] == pytest.approx(float(jump) * 1e3)
    slope = float(VP.sigma_dot(0.04))
    assert study.jumps[1]["per_sigma"] == pytest.approx(float(jump) * 1e3 / slope)
    table = {r["quantity"]: r for r in study.summary()}
    assert table["total"]["median"] == 0
    assert table["total"]["maximum_at"] == 0.2
    assert table["step"]["mean"] == pytest.approx(of(steps, "mean")[[0, 1, 4]].mean())
    assert table["total"]["jumps"] == 5
    assert table["total"]["largest_jump"] == max(j["mean"] for j in study.jumps)


def test_each_panel_shows_rates_in_its_own_variable():
    model = Told(make_oracle("mixture", VP), ETSDM(VP, intervals=2))
    study = lipschitz_study(model, times=[0.01, 0.2, 0.5], measure=("noise",), steps=(), count=8)
    total = rows(study, "total")
    for figure in (lipschitz_figure(study), comparison_figure({"a": study})):
        for axes, key, rate in zip(
            figure.axes,
            ("t", "sigma", "log_snr"),
            ("mean", "per_sigma", "per_log_snr"),
            strict=True,
        ):
            line, *_, jumps = axes.lines
            assert line.get_ydata().tolist() == of(total, rate).tolist()
            assert line.get_xdata().tolist() == of(total, key).tolist()
            of_jumps = "per_step" if rate == "mean" else rate
            assert jumps.get_ydata().tolist() == of(study.jumps, of_jumps).tolist()
            assert axes.get_ylabel().startswith("per ")
        assert len({axes.get_ylabel() for axes in figure.axes}) == 3


SINGULAR = [{}, {"schedule": "quadratic"}, {"schedule": "cosine"}, {"schedule": "zero-snr"}]
BOUNDED = [{"schedule": "trig"}, {"smooth_start": 0.1}, *({"name": n} for n in ("subvp", "ve"))]
BOUNDED += [{"name": "edm"}]


@pytest.mark.parametrize(
    ("process", "expected"), [(p, -0.5) for p in SINGULAR] + [(p, 0.0) for p in BOUNDED]
)
def test_exponent_of_a_smooth_density(process, expected):
    sde = make_sde(**process)
    model = make_oracle("mixture", sde)
    found = singular_exponent(model, points=4, count=64)
    assert found.value == pytest.approx(expected, abs=0.03)
    assert found.error < 0.01
    assert (found.low, found.high) == (1e-8, 1e-5)
    # In sigma it is bounded whatever the process.
    study = lipschitz_study(model, times=[1e-8, 1e-5], steps=(), measure=("noise",), count=64)
    low, high = of(rows(study, "total"), "per_sigma")
    assert low == pytest.approx(high, rel=0.05)


@pytest.mark.parametrize("process", [{}, {"smooth_start": 0.1}, {"schedule": "trig"}])
def test_exponent_of_a_finite_set_is_minus_one_and_a_smooth_start_does_not_help(process):
    points = torch.randn(20, 8, dtype=torch.float64)
    found = singular_exponent(FiniteData(make_sde(**process), points), points=4, count=32)
    assert found.value == pytest.approx(-1, abs=0.03)
    # Near a point of the set eps = (x - alpha p) / sigma, so ||d eps/dt|| = sigma'/sigma sqrt(D):
    # sqrt(D) / 2t for linear, twice that where sigma ~ t. E||n|| = 2.74 for D = 8.
    model = FiniteData(make_sde(**process), points)
    study = lipschitz_study(model, times=[1e-6], steps=(), measure=("noise",), count=512)
    (row,) = rows(study, "total")
    assert abs(row["mean"] * 1e-6 - 2.74 * (1.0 if process else 0.5)) < 5e-6 * row["error"] + 0.01


def test_fitted_exponent_and_its_error():
    generator = np.random.default_rng(0)
    times = time_grid(1e-6, 1e-2, 9)
    norms = times[:, None] ** -0.7 * np.exp(generator.normal(size=(1, 200)))
    exact = fit_exponent(times, norms)
    # Every sample follows the law exactly, however they differ.
    assert exact.value == pytest.approx(-0.7, abs=1e-12)
    assert exact.error == pytest.approx(0, abs=1e-12)
    # Exponents that differ between samples: standard error 0.1 / sqrt(n), by the spread of
    # 40 repetitions (12 % for a standard deviation of 40 normal numbers, so 3 of them).
    found = [
        fit_exponent(times[:3], times[:3, None] ** (-0.7 + 0.01 * generator.normal(size=(1, 200))))
        for _ in range(40)
    ]
    spread = np.std([f.value for f in found], ddof=1)
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.4)
    with pytest.raises(ValueError, match="no power law"):
        fit_exponent(times, np.zeros((9, 5)))
    with pytest.raises(ValueError, match="shape"):
        fit_exponent(times[:2], np.ones((2, 5)))


def test_largest_singular_value_of_a_gaussian():
    spectrum = torch.tensor([0.04, 0.3, 1.0], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    covariance = basis * spectrum @ basis.T
    model = Gaussian(VP, torch.ones(3, dtype=torch.float64), covariance=covariance)
    t = torch.tensor([0.01, 0.1, 0.3], dtype=torch.float64)
    x = torch.randn(3, 3, dtype=torch.float64)
    a, s = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
    c = a * a * spectrum + s * s
    exact = {
        "noise": s / c,
        "data": a * spectrum / c,
        "score": 1 / c,
        "velocity": (a * s * (1 - spectrum) / c).abs(),
    }
    for wanted, spectra in exact.items():
        found = largest_singular_value(model, x, t, wanted, iterations=300, tolerance=1e-12)
        # Neighbours differ by 0.5 per cent at least (data at t = 0.01), of which 300 steps leave
        # 0.995^1200: 1e-5 in all.
        torch.testing.assert_close(found, spectra.amax(1), rtol=5e-5, atol=0)


def test_largest_singular_value_of_a_network_is_that_of_its_jacobian():
    network = make_network("unet", "tiny", data_shape=(1, 4, 4)).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model = Denoiser(network, VP)
    x, t = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    found = largest_singular_value(model, x, t, iterations=500, tolerance=1e-7)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda y, i=i: model.predict(y, t[i : i + 1], "noise"), x[i : i + 1]
        )
        exact = torch.linalg.matrix_norm(jacobian.reshape(16, 16), 2)
        # From below; float32 and the tolerance per step, where neighbours slow it down.
        assert float(found[i]) == pytest.approx(float(exact), rel=2e-3)
        assert found[i] <= exact * (1 + 1e-5)


def test_curvature_of_a_gaussian_in_closed_form():
    # Along the flow x/alpha = mu + sqrt(l + rho^2) n, whose second derivative is l / (l +
    # rho^2)^(3/2) n.
    model = Gaussian(VP, torch.full((2,), 0.3, dtype=torch.float64), width=0.5)
    t = torch.tensor([1e-4, 0.05, 0.5], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64)
    a, rho = VP.alpha(t), VP.rho(t)
    n = (x / a[:, None] - 0.3).norm(dim=1) / (0.25 + rho**2).sqrt()
    torch.testing.assert_close(curvature(model, x, t), 0.25 / (0.25 + rho**2) ** 1.5 * n)


def test_curvature_where_time_is_shared():
    # The told time stands still: only x moves, and d eps/dx is sigma_0 / (a_0^2 l + sigma_0^2).
    told = torch.full((2,), 0.1, dtype=torch.float64)
    model = Told(Gaussian(VP, torch.zeros(2, dtype=torch.float64), width=0.5), ETSDM(VP))
    x, t = torch.randn(2, 2, dtype=torch.float64), told * 0.5
    a, s = VP.alpha(t), VP.sigma(t)
    a_0, s_0 = VP.alpha(told * 0.4), VP.sigma(told * 0.4)
    slope = s_0 / (0.25 * a_0**2 + s_0**2)
    noise = slope[:, None] * x
    data = (x - s[:, None] * noise) / a[:, None]
    flow = VP.alpha_dot(t)[:, None] * data + VP.sigma_dot(t)[:, None] * noise
    expected = slope * flow.norm(dim=1) * a**2 / VP.wronskian(t)
    torch.testing.assert_close(curvature(model, x, t), expected)
    assert curvature(model, x, told * 1e-3).isfinite().all()


def test_study_in_x_and_its_labels():
    points = torch.randn(4, 2, dtype=torch.float64)
    classes = [Gaussian(VP, p, width=0.3) for p in points[:2]]
    model = LabelledOracle(classes, Mixture(VP, points, width=0.3))
    label = torch.tensor([0, 1, 1, 0])
    study = lipschitz_study(
        model, points, [0.1], measure=("noise",), label=label, in_x=True, count=6, batch_size=4
    )
    (row,) = rows(study, "in x")
    a, s = float(VP.alpha(0.1)), float(VP.sigma(0.1))
    # Each class is one Gaussian, of the same slope everywhere; the mixture would not be.
    assert row["mean"] == pytest.approx(s / (a * a * 0.09 + s * s))
    assert row["maximum"] == pytest.approx(row["mean"])
    assert row["per_sigma"] is None
    assert len(rows(study, "curvature")) == 1


def test_a_bfloat16_network_is_measured_in_float32():
    network = make_network("mlp", "tiny", data_shape=(2,)).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    low = Denoiser(network.bfloat16(), VP, ETSDM(VP))
    x_0 = torch.randn(8, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        study = lipschitz_study(low, x_0, [0.05, 0.3], measure=("noise",), count=8)
    again = lipschitz_study(Denoiser(network.float(), VP, ETSDM(VP)), x_0, [0.05, 0.3],
                            measure=("noise",), count=8)  # fmt: skip
    assert study == again
    assert study.settings["dtype"] == "float32"
    assert of(rows(study, "condition"), "mean")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"times": []}, "times"),
        ({"times": [0.0]}, "times"),
        ({"steps": (0.0,)}, "steps"),
        ({"measure": ("nose",)}, "noise"),
        ({"count": 1}, "count"),
        ({"x_0": torch.zeros(3, 2), "label": torch.zeros(2, dtype=torch.long)}, "label"),
    ],
)
def test_arguments_that_cannot_be(arguments, says):
    with pytest.raises(ValueError, match=says):
        lipschitz_study(make_oracle("mixture", VP), **arguments)


@pytest.mark.parametrize("process", ["vp", "subvp"])
def test_pairs_that_end_without_signal_are_left_out(process):
    model = make_oracle("gaussian", make_sde(process, "zero-snr"))
    study = lipschitz_study(model, times=[0.5, 0.999], measure=("data",), count=4)
    assert of(rows(study, "step", "data"), "t").tolist() == [0.5]
    (summary,) = [row for row in study.summary() if row["quantity"] == "step"]
    assert np.isfinite(summary["mean"])
    # With signal left at 1, the last pair stays.
    study = lipschitz_study(make_oracle("gaussian", VP), times=[0.5, 0.999], count=4)
    assert of(rows(study, "step"), "t").tolist() == [0.5, 0.999]


def test_a_seed_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match=r"seed=\d+: need a whole number"):
        lipschitz_study(make_oracle("gaussian", VP), times=[0.5], count=4, seed=2**70)


def test_a_network_needs_data_and_a_grid_has_an_order():
    with pytest.raises(ValueError, match="x_0"):
        draw_data(Denoiser(make_network("mlp", "tiny", data_shape=(2,)), VP), 4)
    for low, high, points in ((0, 1, 5), (0.5, 0.1, 5), (0.1, 2, 5), (0.1, 1, 1)):
        with pytest.raises(ValueError):
            time_grid(low, high, points)
    with pytest.raises(ValueError, match="iterations"):
        largest_singular_value(make_oracle("mixture", VP), torch.zeros(1, 2), 0.1, iterations=0)
