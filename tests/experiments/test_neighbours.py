"""Separation of neighbours against the exact flow of a Gaussian, solved either way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.runner.evaluators import neighbours as evaluator
from experiments.runner.evaluators.measured import Measured
from experiments.runner.spec import load_experiment
from sdeflow.oracle import make_oracle
from sdeflow.sde import make_sde

ENDS = (0.1, 1e-3)


@pytest.mark.parametrize("network", [False, True])
def test_gaussian(monkeypatch: pytest.MonkeyPatch, network: bool) -> None:
    """x_t = sqrt(alpha^2 v + sigma^2) times a constant, so distances go as that root."""
    sde = make_sde()
    model = make_oracle("gaussian:width=0.5", sde)
    if network:  # the way of networks
        how = evaluator.solver_of(nn.Identity(), 1e-7)
        monkeypatch.setattr(evaluator, "solver_of", lambda model, tolerance: how)
    subject = next(s for s in load_experiment("uniqueness", "laptop").subjects if s.oracle)
    of = Measured(subject, model, model.data_shape, None, Path())
    found = evaluator.neighbours(of, count=8, ends=ENDS)

    def size(t: float) -> float:
        time = torch.tensor([t], dtype=torch.float64)
        variance = sde.alpha(time) ** 2 * 0.25 + sde.sigma(time) ** 2
        return 0.5 * math.log(float(variance))

    # A hundred steps of order two at the ends: (9.6 / 100)^2; a distance of 1e-5 in float64.
    tolerance = 9e-3 if network else 1e-5
    for index, end in enumerate(ENDS):
        exact = size(end) - size(1.0)
        assert found["backward"][index] == pytest.approx(exact, abs=tolerance)
        assert found["forward"][index] == pytest.approx(-exact, abs=tolerance)
    assert found["failed"] == 0
