"""Constant noise: its flow in closed form, what it costs where, and the figure of the causes."""

import math

import pytest
import torch

from sdeflow import ETSDM, Told, make_oracle, make_sde, plots
from sdeflow.instruments.step_causes import ConstantNoise, cause_study
from sdeflow.instruments.step_sizes import Setting, step_study
from sdeflow.report import write_step_study
from sdeflow.sampling import sample

VP = make_sde("vp")
CHARTS = ("x/time", "x/alpha/noise-ratio")


@pytest.mark.parametrize("name", ["vp", "subvp", "edm", "ve"])
def test_flow_of_constant_noise_is_sigma_times_it(name):
    sde = make_sde(name)
    field = ConstantNoise.of_starts(sde, (3,), 5, seed=7, t_max=1.0)
    out = sample(
        field, solver="dopri5", chart="x/alpha/noise-ratio", rtol=1e-3, atol=1e-3, count=5,
        seed=7, t_min=1e-3, label=torch.arange(5), dtype=torch.float64,
    )  # fmt: skip
    expected = float(sde.sigma(1e-3)) * field.constants
    # A straight line in this chart: only rounding is left, amplified by 1/alpha(1).
    size = 1 / float(sde.alpha(1.0))
    torch.testing.assert_close(out.x, expected, rtol=1e-9, atol=1e-12 * size)


@pytest.mark.parametrize("wanted", ["noise", "data", "score", "velocity"])
def test_predictions_of_constant_noise_agree(wanted):
    constants = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = ConstantNoise(VP, constants)
    t = torch.tensor([1e-4, 0.1, 0.9], dtype=torch.float64)
    label = torch.tensor([3, 0, 1])
    x = torch.ones(3, 2, dtype=torch.float64)
    alpha, sigma = VP.alpha(t)[:, None], VP.sigma(t)[:, None]
    noise = constants[label]
    data = (x - sigma * noise) / alpha
    known = {"noise": noise, "data": data, "score": -noise / sigma,
             "velocity": alpha * noise - sigma * data}  # fmt: skip
    torch.testing.assert_close(field.predict(x, t, wanted, label), known[wanted])
    with pytest.raises(ValueError, match="label"):
        field.predict(x, t, wanted)


@pytest.fixture(scope="module")
def studied():
    exact = make_oracle("mixture", VP)
    model = Told(exact, ETSDM(VP))
    settings = [Setting(chart=chart, tolerance=1e-3) for chart in CHARTS]
    study = step_study(model, settings, count=4, t_min=1e-3, reference_tolerance=1e-5)
    return study, cause_study(study, model, settings, exact)


def test_without_singular_coefficients_constant_noise_costs_least(studied):
    study, causes = studied
    table = causes.table()
    assert [(r["field"], r["chart"]) for r in table] == [
        (name, chart) for chart in CHARTS for name in ("model", "exact", "constant noise")
    ]
    cost = {(r["field"], r["chart"]): r["evaluations_mean"] for r in table}
    rejected = {(r["field"], r["chart"]): r["rejected"] for r in table}
    assert causes.studies["model"] is study
    # Steps grow as fast as the controller lets them, and none is ever rejected.
    assert rejected["constant noise", CHARTS[1]] == 0
    assert cost["constant noise", CHARTS[1]] < 0.6 * cost["constant noise", CHARTS[0]]
    assert cost["constant noise", CHARTS[1]] < 0.6 * cost["exact", CHARTS[1]]
    ends = causes.studies["constant noise"].reference.x.abs()
    assert float(ends.max()) < 6 * math.sqrt(float(VP.sigma(1e-3)) ** 2 + 1e-6)


def test_figure_and_files(studied, tmp_path):
    study, causes = studied
    files = write_step_study(study, tmp_path, "a mixture", True, causes, "without shared time")
    for name in ("causes", "steps", "variable"):
        assert files[name].stat().st_size > 0
        assert files[name].with_suffix(".svg").exists()
    lines = files["costs"].read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("field,solver,chart")
    panels = {
        name: plots.StepPanel(s.outcomes[0].samples.log.columns(), step="dt")
        for name, s in causes.studies.items()
    }
    figure = plots.step_causes([("row", panels)], study.edges, ["a"], [["b"]], "caption")
    looks = [(p.get_linestyle(), p.get_edgecolor()) for p in figure.axes[0].patches if not p.fill]
    assert len(set(looks)) == 3
    with pytest.raises(ValueError, match="rows is empty"):
        plots.step_causes([], (), ["a"], [["b"]])


def test_fields_without_jumps_are_shown_once(tmp_path):
    exact = make_oracle("mixture", VP)
    model = Told(exact, ETSDM(VP))
    settings = [Setting(tolerance=0.1, breaks=told) for told in (True, False)]
    study = step_study(model, settings, count=2, reference_tolerance=1e-2)
    causes = cause_study(study, model, settings, exact)
    assert [r["field"] for r in causes.table()] == ["model", "exact", "constant noise", "model"]
    files = write_step_study(study, tmp_path, "a mixture", False, causes)
    assert len(files["costs"].read_text().splitlines()) == 5
