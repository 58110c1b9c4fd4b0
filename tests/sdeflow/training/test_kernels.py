"""Faster kernels: the same values and gradients to rounding, and only where they are meant."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdeflow.networks import make_network
from sdeflow.training import kernels as module
from sdeflow.training.kernels import kernels

CPU = torch.device("cpu")


class Foreign(nn.Module):
    """A convolution, a group norm and attention over the pixels, as others write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.norm(self.conv(x)) + c[:, None, None, None]
        tokens = h.flatten(2).mT.unflatten(2, (2, 4)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(tokens, tokens, 2 * tokens, scale=0.3)
        out: Tensor = mixed.sum((1, 3))
        return out


@pytest.mark.parametrize("tiles", [False, True])
def test_another_network_keeps_its_values(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_tiles", lambda: tiles)
    torch.manual_seed(0)
    network = Foreign()
    x, c = torch.randn(3, 2, 5, 4), torch.rand(3)
    network(x, c).square().sum().backward()
    expected = [network(x, c), *(p.grad for p in network.parameters())]
    network.zero_grad()
    fast = kernels(network, CPU, "bf16")
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last) is tiles
    with fast():
        out = network(x, c)
    out.square().sum().backward()
    found = [out, *(p.grad for p in network.parameters())]
    for one, other in zip(found, expected, strict=True):
        # The same float32 sums in another order: some 100 terms.
        assert one is not None
        assert other is not None
        torch.testing.assert_close(
            one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max())
        )


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.eye(5).bool()}])
def test_other_attention_is_left_alone(options: dict[str, object]) -> None:
    q, k, v = torch.randn(3, 2, 1, 5, 4).unbind()
    expected = functional.scaled_dot_product_attention(q, k, v, **options)
    with kernels(Foreign(), CPU, "bf16")():
        found = functional.scaled_dot_product_attention(q, k, v, **options)
    assert torch.equal(found, expected)


def test_nothing_changes_elsewhere() -> None:
    network = Foreign()
    own = make_network("unet", "tiny", data_shape=(1, 8, 8))
    for one, precision in ((network, "fp32"), (own, "bf16")):
        with kernels(one, CPU, precision)() as entered:
            assert entered is None
