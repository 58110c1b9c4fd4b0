"""Soft truncation: the law of a batch's smallest time, and what it does to the loss."""

import pytest
import torch

from sdeflow.config import TIME_DISTRIBUTIONS
from sdeflow.sde import make_sde
from sdeflow.training import TimeDistribution
from sdeflow.training.draws import Draws
from sdeflow.training.truncation import SoftTruncation

T_MIN, T_MAX = 1e-5, 1.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.2, 3.0])
def test_quantiles_and_shares_are_inverse_and_follow_the_density(power: float) -> None:
    law = SoftTruncation(power, T_MIN, T_MAX)
    u = torch.linspace(0, 1, 201, dtype=torch.float64)
    e = law.quantile(u)
    # At k = 3 the upper end is 1 - u (1 - 1e-10), known to 1e-16 of 1e-10, and its root.
    assert float(e[0]) == T_MIN
    assert float(e[-1]) == pytest.approx(T_MAX, rel=1e-6)
    torch.testing.assert_close(law.share(e), u, rtol=1e-9, atol=1e-9)
    # d share / d log t is proportional to t^(1-k).
    t = torch.tensor([1e-4, 1e-3, 1e-2, 0.1], dtype=torch.float64)
    h = 1e-6
    slope = (law.share(t * (1 + h)) - law.share(t * (1 - h))) / (2 * h)
    ratio = slope / t ** (1 - power)
    # Differences of a double over 2e-6 keep some 9 digits of the share, fewer of small slopes.
    known = slope > 1e-6
    torch.testing.assert_close(
        ratio[known], ratio[known][:1].expand(int(known.sum())), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("power", [-1.0, float("nan"), 100.0])
def test_refuses_powers_without_meaning(power: float) -> None:
    with pytest.raises(ValueError, match="soft_truncation"):
        SoftTruncation(power, T_MIN, T_MAX)


@pytest.mark.parametrize("kind", TIME_DISTRIBUTIONS)
def test_the_law_of_times_above_a_start(kind: str) -> None:
    law = TimeDistribution(kind, make_sde(), T_MIN, T_MAX)
    for start in (1e-3, 0.05, 0.7):
        u = law.below(start)
        assert 0 < u < 1 or kind == "discrete"
        # What is left out lies below, what is kept above, up to rounding of the quantile.
        kept = law.sample(512, torch.Generator().manual_seed(0), u)
        assert float(kept.min()) >= start * (1 - 1e-9)
        if kind != "discrete":
            found = float(law.quantile(torch.tensor(u, dtype=torch.float64)))
            assert found == pytest.approx(start, rel=1e-9)
    assert law.below(T_MIN) == pytest.approx(0, abs=1e-12)
    assert law.below(1e-3) == 0 or kind != "discrete"


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_in_expectation_the_weight_is_multiplied_by_the_share(power: float) -> None:
    law = TimeDistribution("uniform", make_sde(), T_MIN, T_MAX)
    truncation = SoftTruncation(power, T_MIN, T_MAX)
    # E_e[ P(t >= e) E[h(t) | t >= e] ] against E[h(t) P(e <= t)], both by quadrature.
    n = 2000
    middle = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    starts = [law.below(float(e)) for e in truncation.quantile(middle)]
    start = torch.tensor(starts, dtype=torch.float64)[:, None]
    t = law.quantile(start + (1 - start) * middle)
    drawn = float(((1 - start) * torch.cos(3 * t)).mean())
    t = law.quantile(middle)
    exact = float((torch.cos(3 * t) * truncation.share(t)).mean())
    # The midpoint rule of 2000 nodes is off by some 1/n where the integrand has a corner.
    assert drawn == pytest.approx(exact, abs=1e-3)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    law = TimeDistribution("stratified", make_sde(), T_MIN, T_MAX)

    def draws(rank: int = 0, processes: int = 1) -> Draws:
        truncation = SoftTruncation(1.0, T_MIN, T_MAX)
        return Draws(3, 100, 10, law, 0.1, rank, processes, truncation)

    whole, plain = draws(), Draws(3, 100, 10, law, 0.1)
    halves = [draws(rank, 2) for rank in (0, 1)]
    starts = set()
    for step in (5, 2, 5, 9):
        batch = whole.batch(step)
        assert torch.equal(batch.t, torch.cat([half.batch(step).t for half in halves]))
        assert 0 < batch.kept <= 1
        starts.add(batch.kept)
        other = plain.batch(step)
        # All else is drawn as without truncation.
        assert other.kept == 1
        for name in ("index", "flip", "drop"):
            assert torch.equal(getattr(batch, name), getattr(other, name))
    assert len(starts) == 3
