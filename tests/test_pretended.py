"""The pretended accelerator keeps its rules; tests on it would show nothing if it did not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretended import Pretended, pretending
from torch import Tensor, nn


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x, d: x.double(),
        lambda x, d: torch.zeros(3, dtype=torch.float64, device=d),
        lambda x, d: torch.tensor([1.0], dtype=torch.float64, device=d),
        lambda x, d: torch.ones(3, dtype=torch.float64).to(d),
        lambda x, d: x.to("cpu", torch.float64),
        lambda x, d: torch.zeros(3, dtype=torch.float64).copy_(x),
        lambda x, d: x.numpy(),
        lambda x, d: np.asarray(x),
        lambda x, d: x + torch.ones(3),
        lambda x, d: x * torch.tensor(2.0),
        lambda x, d: torch.cat([x, torch.ones(3)]),
        lambda x, d: x.index_select(0, torch.tensor([0])),
        lambda x, d: torch.randn(3, generator=torch.Generator(), device=d),
    ],
)
def test_what_an_accelerator_refuses(forbidden: Callable[[Tensor, Any], Any]) -> None:
    with pretending() as device:
        x = torch.ones(3).to(device)
        with pytest.raises((TypeError, RuntimeError)):
            forbidden(x, device)


def test_what_it_allows() -> None:
    with pretending() as device:
        x = torch.arange(3.0).to(device)
        assert x.device == device
        assert isinstance(2 * x + x.sum(), Pretended)
        assert torch.where(x > 1, 1.0, -1.0).tolist() == [-1.0, -1.0, 1.0]
        assert x[torch.tensor([True, False, True])].tolist() == [0.0, 2.0]
        assert float(x[2]) == 2.0
        assert x.cpu().double().numpy().tolist() == [0.0, 1.0, 2.0]
        x[1:].mul_(3)
        assert x.tolist() == [0.0, 3.0, 6.0]
        generator = torch.Generator(device)
        draws = []
        for _ in range(2):
            generator.manual_seed(1)
            draws.append(torch.randn(2, generator=generator, device=device).tolist())
        assert draws[0] == draws[1]


def test_it_learns() -> None:
    def trained(device: Any) -> list[float]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)).to(device)
        optimizer = torch.optim.AdamW(network.parameters())
        for _ in range(3):
            network(torch.ones(4, 2, device=device)).square().mean().backward()
            optimizer.step()
        found: list[float] = network[0].weight.detach().flatten().tolist()
        return found

    with pretending() as device:
        there = trained(device)
    assert there == trained("cpu")
