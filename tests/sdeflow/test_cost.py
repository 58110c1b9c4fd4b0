"""What training would cost: counts that can be known by hand."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from sdeflow.cli import cli
from sdeflow.cost import RECOMPUTES, estimate, kept_bytes, step_flops
from sdeflow.networks import make_network


class Layer(nn.Module):
    """One square linear layer and a square."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5, bias=False)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        out: Tensor = self.layer(x).square()
        return out


def test_counts_of_one_layer() -> None:
    with torch.device("meta"):
        network = Layer()
    # 25 products and sums, three times; x and the layer's output are kept, 5 numbers each.
    assert step_flops(network, (5,)) == 3 * 50
    assert kept_bytes(network, (5,), torch.float32) == 2 * 5 * 4
    assert kept_bytes(network, (5,), torch.bfloat16) == 2 * 5 * 2


@pytest.mark.skipif(not RECOMPUTES, reason="PyTorch before 2.5 cannot count it, and says so")
def test_checkpointing_keeps_less() -> None:
    shape, kept = (1, 16, 16), []
    for checkpointing in (False, True):
        with torch.device("meta"):
            network = make_network("unet", "small", data_shape=shape, checkpointing=checkpointing)
        kept.append(kept_bytes(network, shape, torch.float32))
    assert kept[1] < 0.5 * kept[0]


def test_estimate_shares_out_what_can_be_shared() -> None:
    one, four = (estimate("tiny", (1, 8, 8), 64, devices) for devices in (1, 4))
    assert one.parameters == sum(
        p.numel() for p in make_network("unet", "tiny", data_shape=(1, 8, 8)).parameters()
    )
    assert one.flops == four.flops
    assert one.bytes_weights == four.bytes_weights == 20 * one.parameters
    assert one.bytes_kept == 4 * four.bytes_kept
    for cost, share in ((one, 1), (four, 4)):
        assert cost.seconds == pytest.approx(cost.flops / share / cost.flop_per_second)
    with pytest.raises(ValueError, match="devices=4"):
        estimate("tiny", (1, 8, 8), 2, 4)


def test_command() -> None:
    args = ["plan", "--size", "tiny", "--data-shape", "1x8x8", "--batch", "4", "--json"]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert json.loads(done.stdout)["measured_shape"] == [4, 1, 8, 8]
    done = CliRunner().invoke(cli, ["plan", "--data-shape", "1x0"])
    assert done.exit_code == 2
