"""Figures draw what was given, where it belongs; the numbers beside them lose nothing."""

import csv
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from sdeflow import plots
from sdeflow.plots.steps import edges_on, steps_passing


def steps(samples=3, rejected_every=4, seed=0):
    """A log as the sampling layer writes it: time from 1 down to 1e-3, VP linear."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample in range(samples):
        t, attempt = 1.0, 0
        while t > 1e-3:
            dt = min(0.4 * t * rng.uniform(0.8, 1.2), t - 1e-3)
            accepted = attempt % rejected_every != 1
            rows.append((sample, t, -dt, accepted))
            t, attempt = t - dt * accepted, attempt + 1
    sample, time, dt, accepted = map(np.array, zip(*rows, strict=True))
    columns = {"sample": sample, "dt": dt, "accepted": accepted}
    for suffix, at in (("", time), ("_end", time + dt)):
        integral = 0.1 * at + 19.9 / 2 * at**2
        sigma = np.sqrt(-np.expm1(-integral))
        columns |= {f"time{suffix}": at, f"sigma{suffix}": sigma}
        columns[f"log_snr{suffix}"] = -integral / 2 - np.log(sigma)
    return columns


def test_grid_shows_every_pixel_in_its_place(tmp_path):
    # 2 x 3 tiles of 4 x 4 pixels, zoom 48 / 4 = 12, gap 1: the centre of each block is read.
    x = np.random.default_rng(0).uniform(-1, 1, (6, 1, 4, 4))
    path = plots.save(plots.sample_grid(x, columns=3), tmp_path / "grid.png")
    shown = imread(path)[..., 0]
    left = (shown.shape[1] - (3 * 5 + 1) * 12) // 2
    for index in range(6):
        for row in range(4):
            for column in range(4):
                i = (1 + index // 3 * 5 + row) * 12 + 6
                j = left + (1 + index % 3 * 5 + column) * 12 + 6
                # 8-bit grey: half a level, and one more for the colour map's own table
                assert shown[i, j] == pytest.approx(
                    x[index, 0, row, column] / 2 + 0.5, abs=2 / 255
                )


def test_grid_takes_colour_failed_samples_and_vectors(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 3, 28, 28))
    x[1] = np.nan
    plots.save(plots.sample_grid(x, caption="two"), tmp_path / "colour")
    plots.save(plots.sample_grid(rng.normal(size=(50, 2))), tmp_path / "plane")
    plots.save(plots.sample_grid(rng.normal(size=(50, 1))), tmp_path / "line")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["colour.png", "line.png", "plane.png"]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 1, 8, 8)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        plots.sample_grid(np.zeros(shape))


def test_step_sizes_draws_each_attempt_once():
    columns = steps()
    figure = plots.step_sizes([plots.StepPanel(columns, "run", "dt", "step")], edges=(0.02, 0.1))
    accepted = columns["accepted"]
    for axes, name in zip(figure.axes, ("time", "sigma", "log_snr"), strict=True):
        dots, crosses = axes.lines[0], axes.lines[1]
        np.testing.assert_array_equal(dots.get_xdata(), columns[name][accepted])
        np.testing.assert_array_equal(dots.get_ydata(), -columns["dt"][accepted])
        np.testing.assert_array_equal(crosses.get_xdata(), columns[name][~accepted])


@pytest.mark.parametrize("turn", [1, -1])
def test_median_and_band_are_the_steps_being_taken(turn):
    # Two samples cross [0, 1] in constant steps of 0.25 and 0.125, down or up the axis: each is
    # seen everywhere with its own step, and the edges are those of the finer one.
    begin = np.concatenate([np.arange(1, 0, -0.25), np.arange(1, 0, -0.125)])
    size = np.repeat([0.25, 0.125], [4, 8])
    end = begin - size
    edges, passing = steps_passing(np.repeat([0, 1], [4, 8]), turn * begin, turn * end, size)
    assert (edges.min(), edges.max()) == tuple(sorted([0.0, turn * 1.0]))
    np.testing.assert_array_equal(passing[0], np.full(len(edges) - 1, 0.25))
    np.testing.assert_array_equal(passing[1], np.full(len(edges) - 1, 0.125))


def test_where_no_sample_was_nothing_is_drawn():
    # One sample stops half-way: beyond, only the other is seen.
    sample, begin = np.array([0, 0, 1]), np.array([1.0, 0.5, 1.0])
    edges, passing = steps_passing(sample, begin, begin - 0.5, np.full(3, 0.5))
    middle = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_array_equal(np.isnan(passing[1]), middle < 0.5)
    assert not np.isnan(passing[0]).any()


def test_edges_are_drawn_where_the_process_has_them():
    # Power laws in time are interpolated exactly in the coordinates used for the edges.
    time = np.geomspace(1e-3, 1, 30)
    columns = {"time": time, "sigma": np.sqrt(time) / 2, "log_snr": -np.log(time) / 2}
    edges = [1e-4, 0.02, 0.1]  # the first lies outside the run
    np.testing.assert_allclose(edges_on("time", edges, columns), [0.02, 0.1])
    np.testing.assert_allclose(
        edges_on("sigma", edges, columns), np.sqrt([0.02, 0.1]) / 2, rtol=1e-12
    )
    np.testing.assert_allclose(
        edges_on("log_snr", edges, columns), -np.log([0.02, 0.1]) / 2, rtol=1e-12
    )


def test_step_sizes_refuses_nothing_to_draw():
    with pytest.raises(ValueError, match="panels is empty"):
        plots.step_sizes([])
    empty = {name: values[:0] for name, values in steps().items()}
    with pytest.raises(ValueError, match="'run' has no attempts"):
        plots.step_sizes([plots.StepPanel(empty, "run")])


def test_loss_figures_hold_their_numbers():
    figure = plots.loss_curves(np.arange(100), np.ones(100), [0, 50], [1.0, 0.9])
    raw, smooth, heldout = figure.axes[0].lines
    assert len(raw.get_xdata()) == 100
    np.testing.assert_allclose(smooth.get_ydata(), 1)
    np.testing.assert_array_equal(heldout.get_ydata(), [1.0, 0.9])
    with pytest.raises(ValueError, match="3 values for 2 bins"):
        plots.binned_loss([0.1, 0.5, 1], {"run": [1, 2, 3]})


def test_diagnostics_are_drawn_with_zeros_and_told_apart():
    k = {"a": [0.0, 0.0], "b": [1.0, 3.0]}
    figure = plots.training_diagnostics([1, 2], k, {"jump": [5.0, 6.0]}, {"bin": [0.1, 0.2]})
    left, right = figure.axes
    assert (left.get_yscale(), right.get_yscale()) == ("symlog", "log")
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in left.lines}
    assert len(looks) == 3
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [1, 3])
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes]
    assert legends[0].x1 <= right.get_tightbbox().x0
    assert legends[1].x1 <= figure.bbox.x1
    with pytest.raises(ValueError, match="3 values for 2 steps"):
        plots.training_diagnostics([1, 2], {"a": [1, 2, 3]}, {}, {"bin": [0.1, 0.2]})


@pytest.mark.parametrize("low", [0.5, 12345.0])
def test_labels_stay_inside_and_clear_of_legends(low, tmp_path):
    values = [low, 1.9 * low]  # within a power of ten: labels such as 6 x 10^-1
    name = "jump, t = 0.012345678"
    figures = {
        "loss": plots.loss_curves([1, 2], values),
        "bins": plots.binned_loss([0.1, 0.5, 1], {"run": values}),
        "diagnostics": plots.training_diagnostics(
                [1, 2], {"k": values}, {name: values}, {"b": values}
            ),
        "steps": plots.step_sizes([plots.StepPanel(steps(), "run", "dt", "step " * 3)]),
    }  # fmt: skip
    for title, figure in figures.items():
        plots.save(figure, tmp_path / title)
        boxes = [box for axes in figure.axes if (box := axes.yaxis.get_tightbbox())]
        assert all(box.x0 > 0 for box in boxes), title
        legend = figure.axes[0].get_legend()
        if title == "diagnostics":
            assert legend.get_window_extent().x1 < boxes[1].x0


def test_one_value_gets_an_axis_around_it():
    figure, grid, _ = plots.panel_rows(1, 3.0, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for axes, scale in zip(grid[0], ("log", "linear", "log"), strict=True):
            plots.scale_axis(axes, scale, [0.1, 0.1])
            axes.plot([0.1], [1.0], "o")
            axes.axhline(0.5)
            figure.draw_without_rendering()
            low, high = axes.get_xlim()
            assert low < 0.09
            assert high > 0.11


def test_captions_never_cover_the_figure():
    short = plots.loss_curves([0, 1], [1, 1])
    long = plots.loss_curves([0, 1], [1, 1], caption="setting 1, " * 60)
    grown = long.get_size_inches()[1] - short.get_size_inches()[1]
    lines = long.texts[0].get_text().count("\n") + 1
    assert grown == pytest.approx((lines + 1) * plots.CAPTION_INCHES)
    box = long.texts[0].get_window_extent()
    assert box.x1 <= long.bbox.x1
    assert box.y1 <= long.axes[0].get_tightbbox().y0


def test_csv_keeps_every_digit(tmp_path):
    values = np.random.default_rng(0).normal(size=20)
    path = plots.write_csv(tmp_path / "x", {"k": np.arange(20), "value": values})
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == values.tolist()
    with pytest.raises(ValueError, match="equal lengths"):
        plots.write_csv(tmp_path / "y", {"a": [1], "b": [1, 2]})


def test_svg_beside_png_on_request(tmp_path):
    figure = plots.step_sizes([plots.StepPanel(steps(), "run")])
    plots.save(figure, tmp_path / "steps.png", svg=True)
    assert (tmp_path / "steps.png").stat().st_size > 0
    assert "<svg" in (tmp_path / "steps.svg").read_text()
