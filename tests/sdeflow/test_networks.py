"""The networks: shapes, gradients, derivatives in the condition, precision, presets."""

import math

import pytest
import torch
from torch import Tensor, nn

from sdeflow.networks import MLP, UNet, make_network
from sdeflow.networks.unet import Attention, modulated_norm, thin_convolution


def wake(network: nn.Module) -> nn.Module:
    """Move all parameters off their start, where a zero last layer hides everything."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def conditions(n: int) -> Tensor:
    return torch.rand(n, dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "shape", "parameters"),
    [
        ("tiny", (1, 8, 8), (0.2e6, 0.6e6)),
        ("small", (1, 16, 16), (1.0e6, 1.1e6)),
        ("small", (1, 28, 28), (1.0e6, 1.1e6)),
        ("base", (3, 32, 32), (8e6, 12e6)),
    ],
)
def test_presets(
    size: str, shape: tuple[int, ...], parameters: tuple[float, float], device: torch.device
) -> None:
    network = make_network("unet", size, data_shape=shape).to(device)
    low, high = parameters
    assert low < sum(p.numel() for p in network.parameters()) < high
    x = torch.randn(2, *shape, device=device)
    with torch.no_grad():
        out = network(x, conditions(2))
    assert out.shape == x.shape
    assert not out.any(), "a fresh network is F = 0"


def test_paper_preset_on_the_meta_device() -> None:
    with torch.device("meta"):
        network = make_network("auto", "auto", data_shape=(3, 256, 256))
    count = sum(p.numel() for p in network.parameters())
    # DDPM at 256x256 has 114 M.
    assert 100e6 < count < 125e6
    x = torch.empty(2, 3, 256, 256, device="meta")
    out = network(x, torch.zeros(2, dtype=torch.float64))
    assert out.shape == x.shape
    assert out.dtype == x.dtype


@pytest.mark.parametrize(
    ("shape", "levels"), [((1, 8, 8), 2), ((1, 12, 9), 2), ((1, 28, 28), 3), ((3, 64, 64), 3)]
)
def test_auto_picks_by_shape(shape: tuple[int, ...], levels: int) -> None:
    network = make_network(data_shape=shape)
    assert isinstance(network, UNet)
    assert len(network.down) == levels
    assert isinstance(make_network(data_shape=shape[:1]), MLP)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 12), (28, 28)])
def test_any_image_size(channels: int, size: tuple[int, int]) -> None:
    network = wake(UNet(channels, (8, 16, 16), 1, attention=(1,), embedding_size=32))
    x = torch.randn(2, channels, *size)
    out = network(x, conditions(2))
    assert out.shape == x.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_parameter_gets_a_gradient(blocks: int) -> None:
    network = wake(UNet(2, (8, 16), blocks, attention=(0,), num_classes=3, embedding_size=32))
    network(
        torch.randn(4, 2, 7, 7), conditions(4), torch.tensor([0, 1, 2, 3])
    ).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize("shape", [(1, 7, 7), (2,)])
def test_forward_mode_derivative_in_the_condition(shape: tuple[int, ...]) -> None:
    network = wake(make_network(size="tiny", data_shape=shape, num_classes=3)).double().eval()
    x, c, label = (
        torch.randn(3, *shape).double(),
        0.1 + 0.8 * conditions(3),
        torch.tensor([0, 2, 3]),
    )

    def f(c: Tensor) -> Tensor:
        out: Tensor = network(x, c, label)
        return out

    with torch.no_grad():
        value, slope = torch.func.jvp(f, (c,), (torch.ones_like(c),))
        step = 1e-5
        # Fourth-order central difference. Waves of 1000 rad per unit: (w step)^4 / 30 = 3e-10 of
        # the slope, and rounding 1e-15 / step = 1e-10 of values of order 1.
        difference = 8 * (f(c + step) - f(c - step)) - (f(c + 2 * step) - f(c - 2 * step))
    torch.testing.assert_close(value, f(c), rtol=1e-12, atol=1e-12)
    assert slope.abs().max() > 1
    torch.testing.assert_close(
        slope, difference / (12 * step), rtol=1e-6, atol=1e-6 * float(slope.abs().max())
    )


def test_derivatives_in_x_agree_forward_and_backward() -> None:
    network = wake(UNet(1, (8, 16), 1, attention=(0, 1), embedding_size=32)).double().eval()
    x, v, u = torch.randn(3, 2, 1, 7, 7).double().unbind()
    c = conditions(2)

    def f(x: Tensor) -> Tensor:
        out: Tensor = network(x, c)
        return out

    _, forward = torch.func.jvp(f, (x,), (v,))
    _, pull = torch.func.vjp(f, x)
    torch.testing.assert_close((u * forward).sum(), (pull(u)[0] * v).sum(), rtol=1e-10, atol=1e-10)


def test_attention_is_softmax_of_scaled_products() -> None:
    layer = wake(Attention(16, heads=2))
    h = torch.randn(2, 16, 3, 5)
    q, k, v = layer.inputs(layer.norm(h)).reshape(2, 3, 2, 8, 15).unbind(1)
    weights = torch.softmax(torch.einsum("bmdi,bmdj->bmij", q, k) / math.sqrt(8), dim=-1)
    mixed = torch.einsum("bmij,bmdj->bmdi", weights, v).reshape(2, 16, 3, 5)
    # Float32 sums of 15 and 16 terms of order 1.
    torch.testing.assert_close(layer(h), h + layer.output(mixed), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="heads = 3"):
        Attention(16, heads=3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)])
def test_bfloat16_autocast_trains_and_keeps_the_type(
    shape: tuple[int, ...], device: torch.device
) -> None:
    network = wake(make_network(size="tiny", data_shape=shape)).to(device)
    x, c = torch.randn(4, *shape, device=device), conditions(4)
    exact = network(x, c)
    with torch.autocast(device.type, torch.bfloat16):
        rough = network(x, c)
    assert rough.dtype == torch.float32
    rough.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    # bfloat16 rounds to 2^-8; some thirty roundings in a row, of values of the output's order.
    scale = float(exact.abs().max().detach())
    torch.testing.assert_close(rough, exact, rtol=0, atol=30 * 2**-8 * scale)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_bfloat16_autocast_keeps_the_last_digits_of_x(shape: tuple[int, ...]) -> None:
    """At sigma < 2^-8 the noise is below the last digit of x in bfloat16."""
    network = wake(make_network(data_shape=shape, x_features=0)).eval()
    first = network.inputs if isinstance(network, MLP) else network.stem
    assert isinstance(first, nn.Module)
    seen: list[Tensor] = []
    first.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    x = torch.randn(4, *shape)
    with torch.no_grad():
        network(x, conditions(4))
        with torch.autocast("cpu", torch.bfloat16):
            network(x, conditions(4))
    assert torch.equal(seen[0], seen[1])


def test_checkpointing_changes_memory_only() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = wake(
            UNet(1, (8, 16), 1, dropout=0.2, embedding_size=32, checkpointing=checkpointing)
        )
        torch.manual_seed(1)
        network(
            torch.ones(2, 1, 8, 8), torch.tensor([0.1, 0.9], dtype=torch.float64)
        ).sum().backward()
        grads.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)])
def test_labels(shape: tuple[int, ...]) -> None:
    network = wake(make_network(size="tiny", data_shape=shape, num_classes=3)).eval()
    x, c = torch.randn(1, *shape).expand(4, *shape), torch.full((4,), 0.3, dtype=torch.float64)
    out = network(x, c, torch.arange(4))
    told = [(out[i] - out[j]).abs().max() > 1e-3 for i in range(4) for j in range(i)]
    assert all(told), "each class and the null label are told apart"
    torch.testing.assert_close(network(x, c), out[3:].expand(4, *shape), rtol=1e-4, atol=1e-5)


def test_dropout_only_in_training() -> None:
    network = wake(UNet(1, (8, 16), 1, dropout=0.5, embedding_size=32))
    x, c = torch.randn(2, 1, 8, 8), conditions(2)
    assert not torch.equal(network(x, c), network(x, c))
    network.eval()
    assert torch.equal(network(x, c), network(x, c))


def test_memory_format_does_not_matter() -> None:
    network = wake(UNet(3, (8, 16), 1, embedding_size=32)).eval()
    x, c = torch.randn(2, 3, 8, 8), conditions(2)
    assert torch.equal(network(x, c), network(x.contiguous(memory_format=torch.channels_last), c))


def test_features_of_x_let_a_perceptron_vary_fast() -> None:
    """Slope in x of fresh networks: the waves of M x have slope 2 pi |M|."""
    x = torch.randn(256, 2)
    c = conditions(256)
    slopes = []
    for features in (0, 64):
        torch.manual_seed(0)
        network = wake(MLP((2,), x_features=features, x_scale=4.0))
        _, slope = torch.func.jvp(lambda x, f=network: f(x, c), (x,), (torch.ones_like(x),))
        slopes.append(slope.norm(dim=1).mean().item())
    assert slopes[1] > 4 * slopes[0]


def test_perceptron_takes_any_shape_and_saves_its_directions() -> None:
    network = wake(MLP((3, 2, 2), x_features=8))
    x, c = torch.randn(5, 3, 2, 2), conditions(5)
    assert network(x, c).shape == x.shape
    assert network.state_dict()["directions"].shape == (8, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": ()}, "data_shape"),
        ({"data_shape": (1, 0, 8)}, "data_shape"),
        ({"network": "transformer", "data_shape": (2,)}, "network = 'transformer'"),
        ({"size": "huge", "data_shape": (2,)}, "size = 'huge'"),
        ({"network": "unet", "data_shape": (2,)}, "use 'mlp'"),
        ({"condition": "temperature", "data_shape": (2,)}, "condition = 'temperature'"),
        ({"embedding": "wavelet", "data_shape": (1, 8, 8)}, "embedding = 'wavelet'"),
        ({"dropout": 1.0, "data_shape": (1, 8, 8)}, "dropout = 1.0"),
        ({"dropout": -0.1, "data_shape": (2,)}, "dropout = -0.1"),
        ({"x_features": -1, "data_shape": (2,)}, "x_features = -1"),
        ({"num_classes": -1, "data_shape": (2,)}, "num_classes = -1"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels = 0"),
        ({"channels": ()}, "channels = "),
        ({"blocks": 0}, "blocks = 0"),
        ({"attention": (3,)}, "attention = "),
        ({"head_channels": 0}, "head_channels = 0"),
    ],
)
def test_bad_unet(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{"in_channels": 1, **arguments})  # type: ignore[arg-type]


def test_bad_mlp() -> None:
    for arguments, message in (({"blocks": 0}, "blocks = 0"), ({"x_scale": 0.0}, "x_scale = 0.0")):
        with pytest.raises(ValueError, match=message):
            MLP((2,), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape = "):
        MLP(())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="x of shape"):
        make_network(data_shape=(1, 8, 8))(torch.zeros(2, 3, 8, 8), conditions(2))
    with pytest.raises(ValueError, match="x of shape"):
        make_network(data_shape=(2,))(torch.zeros(2, 3), conditions(2))


@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
def test_modulation_is_an_affine_map_after_the_norm(size: tuple[int, int]) -> None:
    norm = wake(nn.GroupNorm(4, 8)).double()
    h, modulation = torch.randn(3, 8, *size).double(), torch.randn(3, 16).double()
    assert isinstance(norm, nn.GroupNorm)
    normed = torch.group_norm(h, 4, norm.weight, norm.bias, norm.eps)
    scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
    expected = (1 + scale) * normed + shift
    # Float64: a few roundings of values of order 10.
    torch.testing.assert_close(modulated_norm(norm, h, modulation), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(7, 4), (1, 1)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_thin_convolution_is_the_convolution(
    outputs: int, size: tuple[int, int], device: torch.device
) -> None:
    conv = nn.Conv2d(6, outputs, 3, padding=1).to(device)
    h = torch.randn(2, 6, *size, device=device)
    # Sums of 54 products of order 0.1, in another order.
    torch.testing.assert_close(thin_convolution(conv, h), conv(h), rtol=0, atol=2e-6)
