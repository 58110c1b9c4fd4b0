"""Likelihood of data in its unit, against the oracles, and what encoding and decoding leave."""

import json
import math

import numpy as np
import pytest
import torch

from sdeflow.instruments.likelihood import data_likelihood
from sdeflow.likelihood import bits_per_dimension, dequantise
from sdeflow.oracle import make_oracle
from sdeflow.sde import make_sde


def test_without_levels_nats_of_the_closed_form() -> None:
    oracle = make_oracle("gaussian:width=0.5,dim=3", make_sde())
    x = oracle.sample(5, torch.Generator().manual_seed(0)).double()
    got = data_likelihood(oracle, x, divergence="exact", t_min=1e-3)
    exact = -oracle.log_prob(x, 1e-3) / 3
    # The promise of the likelihood: 1e-4 nats per dimension.
    assert torch.allclose(got.value, exact.double(), atol=1e-4)
    assert got.unit == "nats/dim"
    assert got.offset == 0
    assert got.divergence_error is None
    # Both ways some 50 steps of 1e-5 each, and the way back shrinks what the way there added.
    assert float(got.reconstruction.max()) < 1e-3
    summary = got.summary()
    assert summary["mean"] == pytest.approx(float(exact.mean()), abs=1e-4)
    assert summary["standard_error"] == pytest.approx(float(got.value.std()) / math.sqrt(5))
    assert (summary["count"], summary["failed"], summary["dimension"]) == (5, 0, 3)
    json.dumps(summary, allow_nan=False)


def test_with_levels_bits_of_the_dequantised() -> None:
    oracle = make_oracle("gaussian:width=0.5,dim=4", make_sde())
    k = torch.randint(17, (6, 4), generator=torch.Generator().manual_seed(0))
    x = 2 * k / 16 - 1
    got = data_likelihood(
        oracle, x, 17, draws=4, seed=3, t_min=1e-3, rtol=1e-4, atol=1e-4, batch_size=4
    )
    y = dequantise(x, 17, 3)
    exact = bits_per_dimension(oracle.log_prob(y, 1e-3).double(), 4, 17)
    # The flow of an isotropic Gaussian has a multiple of the identity as its Jacobian: Hutchinson
    # is exact on it, and what differs are some 50 steps of 1e-4 nats each, at most.
    assert torch.allclose(got.value, exact, atol=50e-4 / math.log(2))
    assert got.unit == "bits/dim"
    assert got.offset == pytest.approx(math.log2(8.5))
    assert got.divergence_error is not None
    assert got.columns()["bits_per_dim"].shape == (6,)
    assert (got.columns()["evaluations"] > 0).all()


def test_failures_are_counted() -> None:
    oracle = make_oracle("mixture:width=0.2", make_sde())
    x = oracle.sample(8, torch.Generator().manual_seed(0))
    got = data_likelihood(oracle, x, max_evaluations=8)
    assert not got.ok.any()
    summary = got.summary()
    assert (summary["failed"], summary["mean"], summary["reconstruction"]) == (8, None, None)
    json.dumps(summary, allow_nan=False)
    x[2] *= 4  # far out, where steps are another matter
    settings = {"t_min": 1e-2, "rtol": 1e-4, "atol": 1e-4}
    cost = data_likelihood(oracle, x, **settings).likelihood.evaluations
    assert cost.min() < cost.max()
    got = data_likelihood(oracle, x, **settings, max_evaluations=int(cost.max()) - 1)
    assert got.ok[cost.argmin()]
    assert not got.ok[cost.argmax()]
    assert got.reconstruction[~torch.from_numpy(got.ok)].isnan().all()
    assert np.isfinite(float(got.reconstruction[cost.argmin()]))
    assert got.summary()["failed"] == (~got.ok).sum() > 0
    assert got.summary()["mean"] == pytest.approx(float(got.value.nanmean()))


def test_bad_arguments() -> None:
    oracle = make_oracle("gaussian", make_sde())
    with pytest.raises(ValueError, match="at least 1 sample"):
        data_likelihood(oracle, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="draws=0"):
        data_likelihood(oracle, torch.zeros(1, 2), draws=0)
