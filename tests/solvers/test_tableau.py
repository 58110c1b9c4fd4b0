"""Every order condition that the tableaus claim to meet, on the numbers themselves.

The exact solution and a Runge-Kutta step agree up to order p if, for every rooted tree of at most
p nodes, `sum_i b_i Phi_i(tree) = 1 / gamma(tree)` (Hairer, Norsett, Wanner I, theorem II.2.13).
For an interpolant the right-hand side is `theta^|tree| / gamma(tree)`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
import pytest

from solvers.tableau import TABLEAUS, Tableau

Tree = tuple["Tree", ...]
METHODS = list(TABLEAUS.values())
EMBEDDED = [tableau for tableau in METHODS if tableau.error]
INTERPOLATED = [tableau for tableau in METHODS if tableau.interpolant]


def size(tree: Tree) -> int:
    return 1 + sum(size(child) for child in tree)


def density(tree: Tree) -> int:
    product = size(tree)
    for child in tree:
        product *= density(child)
    return product


@lru_cache
def trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees with that many nodes: 1, 1, 2, 4, 9, 20, 48, 115 of them."""
    if nodes == 1:
        return ((),)
    found = set()
    for sizes in _partitions(nodes - 1, nodes - 1):
        found.update(tuple(sorted(forest)) for forest in _forests(sizes))
    return tuple(sorted(found))


def _partitions(total: int, largest: int) -> list[tuple[int, ...]]:
    if total == 0:
        return [()]
    return [
        (first, *rest)
        for first in range(min(total, largest), 0, -1)
        for rest in _partitions(total - first, first)
    ]


def _forests(sizes: tuple[int, ...]) -> list[Tree]:
    forests: list[Tree] = [()]
    for nodes in sorted(set(sizes)):
        choices = list(combinations_with_replacement(trees(nodes), sizes.count(nodes)))
        forests = [forest + choice for forest in forests for choice in choices]
    return forests


def weights(tableau: Tableau, tree: Tree) -> np.ndarray:
    """Phi_i(tree) of every stage i."""
    a = np.zeros((tableau.stages, tableau.stages))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    phi = np.ones(tableau.stages)
    for child in tree:
        phi = phi * (a @ weights(tableau, child))
    return phi


def rounding(tableau: Tableau, b: np.ndarray) -> float:
    """What sums of products of coefficients of this size may lose, with a factor of 64."""
    largest = max(sum(map(abs, row)) for row in tableau.a) if tableau.stages > 1 else 1.0
    return 64 * np.finfo(float).eps * max(1.0, largest) * max(1.0, np.abs(b).sum())


def test_number_of_trees() -> None:
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("tableau", METHODS, ids=lambda tableau: tableau.name)
def test_rows_sum_to_the_stage_times(tableau: Tableau) -> None:
    assert len(tableau.c) == len(tableau.a) == tableau.stages
    for i, row in enumerate(tableau.a):
        assert len(row) == i
        assert sum(row) == pytest.approx(tableau.c[i], abs=rounding(tableau, np.array(row)))


@pytest.mark.parametrize("tableau", METHODS, ids=lambda tableau: tableau.name)
def test_order(tableau: Tableau) -> None:
    b = np.array(tableau.b)
    for nodes in range(1, tableau.order + 1):
        for tree in trees(nodes):
            assert b @ weights(tableau, tree) == pytest.approx(
                1 / density(tree), abs=rounding(tableau, b)
            )


@pytest.mark.parametrize("tableau", METHODS, ids=lambda tableau: tableau.name)
def test_order_is_not_understated(tableau: Tableau) -> None:
    b = np.array(tableau.b)
    residuals = [
        abs(b @ weights(tableau, tree) - 1 / density(tree)) for tree in trees(tableau.order + 1)
    ]
    assert max(residuals) > 1e-6


@pytest.mark.parametrize("tableau", EMBEDDED, ids=lambda tableau: tableau.name)
def test_embedded_order(tableau: Tableau) -> None:
    """The error estimate vanishes up to order `error_order - 1`, and no further."""
    e = np.array(tableau.error)
    for nodes in range(1, tableau.error_order):
        for tree in trees(nodes):
            assert e @ weights(tableau, tree) == pytest.approx(
                0, abs=rounding(tableau, np.array(tableau.b))
            )
    residuals = [abs(e @ weights(tableau, tree)) for tree in trees(tableau.error_order)]
    assert max(residuals) > 1e-6


@pytest.mark.parametrize("tableau", INTERPOLATED, ids=lambda tableau: tableau.name)
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9, 1.0])
def test_interpolant_has_order_four_and_ends_at_the_step(tableau: Tableau, theta: float) -> None:
    table = np.array(tableau.interpolant)
    b = table @ theta ** np.arange(1, table.shape[1] + 1)
    for nodes in range(1, 5):
        for tree in trees(nodes):
            assert b @ weights(tableau, tree) == pytest.approx(
                theta**nodes / density(tree), abs=rounding(tableau, np.abs(table).sum(1))
            )
    if theta == 1:
        np.testing.assert_allclose(b, tableau.b, atol=rounding(tableau, np.abs(table).sum(1)))


def test_first_same_as_last_follows_from_the_coefficients() -> None:
    assert {tableau.name for tableau in METHODS if tableau.fsal} == {"bosh3", "dopri5", "tsit5"}
    assert {tableau.name: tableau.evaluations for tableau in METHODS} == {
        "euler": 1, "midpoint": 2, "heun": 2, "bosh3": 3, "rk4": 4, "dopri5": 6, "tsit5": 6,
        "dopri8": 13,
    }  # fmt: skip
