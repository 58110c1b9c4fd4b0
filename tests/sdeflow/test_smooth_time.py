"""Smooth time: values and derivatives of every shape, what the equalised one equalises, errors."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdeflow.conditioning import (
    Conditioning,
    EqualisedTime,
    SmoothTime,
    make_smooth,
    read_steepness,
)

TIMES = torch.logspace(-8, 0, 161, dtype=torch.float64)
ULP = float(torch.finfo(torch.float64).eps)
# Steepness of a smooth density, of data on a manifold, flat, and as crooked as a bad measurement.
TABLES = {
    "root": [(t, t**-0.5) for t in (1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, 1.0)],
    "inverse": [(t, 0.5 / t) for t in (1e-5, 1e-3, 0.1, 0.11, 0.2, 0.5, 0.9)],
    "flat": [(0.2, 7.0)],
    "crooked": [(0.01, 900.0), (0.15, 1e-3), (0.2, 900.0), (0.21, 1e-3), (0.9, 5.0)],
}


def slope(c: Conditioning, t: Tensor) -> Tensor:
    """c'(t)."""
    t = t.clone().requires_grad_()
    return torch.autograd.grad(c(t).sum(), t)[0]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def shapes(s: float) -> list[Conditioning]:
    powers = [SmoothTime(s, power) for power in (1.5, 2, 3, 16)]
    return [*powers, *(EqualisedTime(table, s) for table in TABLES.values())]


def test_the_hyperbola() -> None:
    c = SmoothTime(0.1)
    assert torch.allclose(c(TIMES), torch.sqrt(TIMES * TIMES + 0.01) - 0.1, atol=1e-16)
    assert torch.allclose(slope(c, TIMES), TIMES / torch.sqrt(TIMES * TIMES + 0.01))
    assert c(tensor(1e-8)).item() == pytest.approx(1e-16 / 0.2, rel=1e-12)


@pytest.mark.parametrize("s", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("power", [1.5, 2.0, 3.0, 16.0])
def test_powers(power: float, s: float) -> None:
    c = SmoothTime(s, power)
    for t in (1e-8, 1e-5, 1e-3, 0.03, 0.1, 0.7, 1.0):
        # The same number by a series, (1 + q)^(1/p) - 1 = q/p (1 + q (1 - p)/(2 p) + ...), where
        # the difference would cancel, and by the difference where it loses less than 2 digits.
        q = (t / s) ** power
        if q < 1e-6:
            expected = s * q / power * (1 + q * (1 - power) / (2 * power))
            assert c(tensor(t)).item() == pytest.approx(expected, rel=1e-11)
        elif q > 0.1:
            expected = (t**power + s**power) ** (1 / power) - s
            assert c(tensor(t)).item() == pytest.approx(expected, rel=100 * power * ULP)
    norm = (TIMES**power + s**power) ** (1 / power)
    assert torch.allclose(slope(c, TIMES), (TIMES / norm) ** (power - 1), rtol=1e-12)


def test_power_2_is_the_hyperbola() -> None:
    near = SmoothTime(0.1, 2 + 1e-12)
    assert torch.allclose(near(TIMES), SmoothTime(0.1)(TIMES), rtol=1e-9)


@pytest.mark.parametrize("s", [1e-3, 0.1, 0.5])
def test_what_all_shapes_share(s: float) -> None:
    for c in shapes(s):
        ends = torch.cat([tensor(0.0), TIMES])
        values, slopes = c(ends), slope(c, ends)
        assert values[0] == 0, c
        assert slopes[0] == 0, c
        assert bool((values.diff() > 0).all()), c
        assert bool((slopes[1:] > 0).all()), c
        assert bool(torch.isfinite(slopes).all()), c
        assert c.breaks == ()
        # No jumps: between neighbours c moves as its slopes say.
        assert c(tensor(s)).item() == pytest.approx(c(tensor(math.nextafter(s, 1))).item())


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_equalised_shape_near_0_is_the_hyperbola(name: str) -> None:
    c, h = EqualisedTime(TABLES[name], 0.1), SmoothTime(0.1)
    below = TIMES[TIMES <= 0.1]
    factor = slope(c, tensor(0.1)) / slope(h, tensor(0.1))
    assert torch.allclose(c(below), factor * h(below), rtol=16 * ULP, atol=0)
    assert c(tensor(1.0)).item() == pytest.approx(h(tensor(1.0)).item(), rel=16 * ULP)


def test_with_a_flat_table_it_is_the_hyperbola() -> None:
    assert torch.allclose(
        EqualisedTime(TABLES["flat"], 0.1)(TIMES), SmoothTime(0.1)(TIMES), rtol=16 * ULP
    )


@pytest.mark.parametrize("s", [0.01, 0.1])
def test_it_equalises_the_steepness_at_the_times_of_the_table(s: float) -> None:
    times = torch.logspace(math.log10(s), 0, 9, dtype=torch.float64)
    steepness = 0.5 / times
    c = EqualisedTime(list(zip(times.tolist(), steepness.tolist(), strict=True)), s)
    # Times of the table at or above s, where D/c' = sqrt(1 + (s/t)^2)/A.
    ratio = steepness / slope(c, times) / torch.sqrt(1 + (s / times) ** 2)
    assert torch.allclose(ratio, ratio[:1].expand(9), rtol=1e-12)


def test_steepness_from_files(tmp_path: Path) -> None:
    path = tmp_path / "lipschitz.json"
    path.write_text("[[0.5, 2], [0.1, 12.3456789]]")
    assert read_steepness(path) == [(0.1, 12.3457), (0.5, 2.0)]
    rows = [
        {"prediction": p, "quantity": q, "t": t, "mean": d}
        for p, q, t, d in (
            ("noise", "total", 0.1, 4.0), ("noise", "step", 0.1, 9.0), ("data", "total", 0.2, 9.0),
            ("noise", "total", 0.3, 1.0),
        )
    ]  # fmt: skip
    path.write_text(json.dumps({"curve": rows, "jumps": []}))
    assert read_steepness(path) == [(0.1, 4.0), (0.3, 1.0)]
    made = make_smooth(str(path), 0.05)
    assert isinstance(made, EqualisedTime)
    assert torch.equal(made(TIMES), make_smooth("[[0.1, 4], [0.3, 1]]", 0.05)(TIMES))


@pytest.mark.parametrize(
    ("shape", "s", "message"),
    [
        ("hyperbola", 0.0, "smooth_scale=0.0"),
        ("hyperbola", math.inf, "smooth_scale=inf"),
        ("power:1", 0.1, "power above 1"),
        ("power:17", 0.1, "at most 16"),
        ("power:x", 0.1, "'x' is not a number"),
        ("power:nan", 0.1, "power above 1"),
        ("hyperbole", 0.1, "neither hyperbola, power:P nor a readable JSON file"),
        ("[]", 0.1, "list of pairs"),
        ("[[0.1]]", 0.1, "list of pairs"),
        ("[[0.1, -2]]", 0.1, "positive numbers"),
        ("[[0.1, Infinity]]", 0.1, "positive numbers"),
        ("[[0.1, 2], [0.1, 3]]", 0.1, "must ascend"),
        ("[[0.1, 2], [1.5, 3]]", 0.1, "must ascend"),
        ("[[0.1, 2]]", 1.0, "scale in"),
    ],
)
def test_bad_shapes(shape: str, s: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_smooth(shape, s)
