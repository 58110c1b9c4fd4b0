"""bf16 inside the network only: everything around it is float32 or better."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdeflow import Denoiser, make_network, make_sde
from sdeflow.config import TrainConfig
from sdeflow.data import load_data
from sdeflow.denoiser import PREDICTIONS
from sdeflow.training import resolve, train

ULP = 2.0**-8  # of bfloat16, relative


def awake(shape: tuple[int, ...]) -> nn.Module:
    network = make_network("unet", "tiny", data_shape=shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.5])
@pytest.mark.parametrize("predict", PREDICTIONS)
def test_a_call_differs_by_the_rounding_of_the_network_alone(predict: str, t: float) -> None:
    sde, network = make_sde("vp"), awake((1, 8, 8))
    denoiser = Denoiser(network, sde, predict=predict)
    x, times = torch.randn(4, 1, 8, 8), torch.full((4,), t, dtype=torch.float64)
    for wanted in PREDICTIONS:
        with torch.no_grad():
            exact, raw = getattr(denoiser, wanted)(x, times), denoiser.raw(x, times)
            with torch.autocast("cpu", torch.bfloat16):
                rough, rough_raw = getattr(denoiser, wanted)(x, times), denoiser.raw(x, times)
        assert rough.dtype == rough_raw.dtype == torch.float32
        # Some ten layers one after another, each rounding by half an ulp at random.
        assert (rough_raw - raw).norm() < 4 * ULP * raw.norm()
        # The conversion is linear in the output: its difference is the network's times one factor.
        change, factor = rough_raw - raw, (exact - rough).norm() / (raw - rough_raw).norm()
        sign = torch.sign(((rough - exact) * change).sum())
        # Rounding of float32 sums of terms of the size of x and of what is converted.
        size = float(max(exact.abs().max(), (factor * raw).abs().max(), x.abs().max()))
        assert (rough - exact - sign * factor * change).abs().max() < 1e-5 * size


def test_the_first_layer_sees_all_digits_of_x() -> None:
    network = awake((1, 8, 8))
    seen: list[Tensor] = []
    network.get_submodule("stem").register_forward_hook(lambda m, a, out: seen.extend((a[0], out)))
    x = 1 + 1e-4 * torch.randn(2, 1, 8, 8)  # noise that bfloat16 cannot tell from 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(x, torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert torch.equal(seen[0], x)
    assert seen[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("weight", "given", "expected"),
    [(0.0, "auto", "bf16"), (1e-4, "auto", "fp32"), (1e-4, "bf16", "bf16")],
)
def test_a_penalty_on_steepness_is_not_left_to_rounding(
    monkeypatch: pytest.MonkeyPatch, weight: float, given: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    config = TrainConfig(lipschitz_weight=weight, precision=given, device="cpu")
    assert resolve(config, load_data("digits")).precision == expected


def test_checkpointing_changes_nothing(tmp_path: Path) -> None:
    weights = []
    for checkpointing in (False, True):
        run = train(
            TrainConfig(
                data="digits", size="tiny", steps=2, batch_size=4, wandb="disabled",
                device="cpu", out=str(tmp_path), name=str(checkpointing),
                checkpointing=checkpointing, precision="fp32",
            )
        )  # fmt: skip
        weights.append(torch.cat([p.flatten() for p in run.denoiser.parameters()]))
    assert torch.equal(*weights)
    with pytest.raises(ValueError, match="checkpointing"):
        train(TrainConfig(data="mixture", checkpointing=True, out=str(tmp_path)))
