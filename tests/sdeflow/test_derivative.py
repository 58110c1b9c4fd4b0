"""The exact derivative in time: dual numbers against float64, and against finite differences."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdeflow import ETSDM, Denoiser, NoTime, Sigma, SmoothTime, Time, Told, make_network, make_sde
from sdeflow.conditioning import EDM, LogSNR
from sdeflow.denoiser import PREDICTIONS
from sdeflow.instruments.derivative import precise, predictions, state_of, time_derivative
from sdeflow.instruments.dual import Dual
from sdeflow.oracle import FiniteData, Gaussian, LabelledOracle, Mixture
from sdeflow.shared_time import SharedTime

SDES = {
    "vp": make_sde("vp"),
    "cosine": make_sde("vp", "cosine"),
    "subvp": make_sde("subvp"),
    "ve": make_sde("ve"),
    "edm": make_sde("edm"),
}
B = 3


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def awake(network, scale=0.05):
    """The network with every weight moved off its start, where many are zero."""
    for parameter in network.parameters():
        parameter.data += scale * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def network_of(kind, classes=0):
    shape = {"unet": (1, 8, 8), "odd": (2, 5, 7), "mlp": (3,)}[kind]
    name = "mlp" if kind == "mlp" else "unet"
    return awake(make_network(name, "tiny", data_shape=shape, num_classes=classes)), shape


@pytest.mark.parametrize("kind", ["unet", "odd", "mlp"])
@pytest.mark.parametrize("also_x", [False, True])
def test_dual_numbers_equal_float64_forward_mode(kind, also_x, device):
    network, shape = network_of(kind, classes=3)
    double = copy.deepcopy(network).double()
    network.to(device)
    x, dx = torch.randn(B, *shape), torch.randn(B, *shape)
    c, dc, label = torch.rand(B).double(), torch.rand(B).double(), torch.tensor([0, 3, 1])
    direction = (dx.double() if also_x else torch.zeros(B, *shape).double(), dc)
    value, moved = torch.func.jvp(lambda x, c: double(x, c, label), (x.double(), c), direction)
    x, dx = x.to(device), dx.to(device)
    with torch.no_grad():
        out = network(Dual.of(x, dx) if also_x else x, Dual.of(c, dc), label.to(device))
    # 1e-5 is what is promised; a float32 network of some twenty layers comes to 1e-6.
    assert torch.allclose(out.value.cpu().double(), value, rtol=0, atol=1e-5 * value.abs().max())
    assert (out.tangent.cpu() - moved).norm() <= 1e-5 * moved.norm()


@pytest.mark.parametrize(("kind", "most"), [("tiny", 2.0), ("small", 2.0), ("base", 2.1)])
def test_dual_numbers_apply_every_layer_once(kind, most):
    network = make_network("unet", kind, data_shape=(1, 16, 16)).eval()
    x, c = torch.randn(2, 1, 16, 16), torch.rand(2).double()
    counts = []
    for told in (c, Dual.of(c, torch.ones_like(c))):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(x, told)
        counts.append(counter.get_total_flops())
    # Twice the batch through every convolution after the first use of c; attention's products
    # are three times the work, and a small part of it.
    assert 1.5 < counts[1] / counts[0] <= most


def test_dual_numbers_go_through_the_fused_attention():
    q, k, v, dq, dk, dv = torch.randn(6, 2, 1, 5, 4, dtype=torch.float64).unbind(0)
    attend = nn.functional.scaled_dot_product_attention
    h = 1e-6  # central differences in float64: error h^2 + 1e-16 / h, some 1e-10
    slope = attend(q + h * dq, k + h * dk, v + h * dv) - attend(q - h * dq, k - h * dk, v - h * dv)
    found = attend(Dual.of(q, dq), Dual.of(k, dk), Dual.of(v, dv))
    torch.testing.assert_close(found.tangent, slope / (2 * h), rtol=1e-8, atol=1e-8)


def test_dual_numbers_refuse_what_they_have_no_rule_for():
    x = Dual.of(torch.ones(2), torch.ones(2))
    for operation in (torch.erf, lambda x: x.add_(1), lambda x: torch.ones(2, 2) @ x.exp()):
        with pytest.raises(NotImplementedError, match="no rule for"):
            operation(x)
    with pytest.raises(NotImplementedError, match="eval"):
        nn.functional.dropout(x, 0.5, True)
    with pytest.raises(ValueError, match="shape"):
        Dual.of(torch.ones(2), torch.ones(3))


CONDITIONINGS = {
    "time": lambda sde: Time(),
    "smooth": lambda sde: SmoothTime(),
    "log-snr": LogSNR,
    "sigma": Sigma,
    "edm": EDM,
    "none": lambda sde: NoTime(),
    "etsdm": ETSDM,
    "etsdm of sigma": lambda sde: ETSDM(sde, of=Sigma(sde)),
}


class Plain(nn.Module):
    """A network that is none of ours; told c in x's dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, c):
        return torch.tanh(self.layer(torch.cat([x, c[:, None]], 1)))


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("own", [True, False])
def test_derivative_of_a_model_is_its_slope(name, predict, own):
    sde = SDES[name]
    network = awake(Plain(), 0.3) if not own else network_of("mlp")[0]
    model = Denoiser(network.double(), sde, SmoothTime(), predict, scale_input=True)
    x, t = torch.randn(B, 3, dtype=torch.float64), times(0.02, 0.3, 0.7)
    h = 1e-6  # central differences of functions that vary over 1e-3: error (h / 1e-3)^2 = 1e-6
    found = time_derivative(model, x, t, PREDICTIONS)
    up, down = (predictions(model, x, t + s * h, PREDICTIONS) for s in (1, -1))
    for wanted in PREDICTIONS:
        slope = (up[wanted] - down[wanted]) / (2 * h)
        assert (found[wanted].total - slope).norm() <= 1e-5 * slope.norm(), wanted
        torch.testing.assert_close(found[wanted].value, model.predict(x, t, wanted))


@pytest.mark.parametrize("name", CONDITIONINGS)
def test_part_through_the_condition(name):
    sde = SDES["vp"]
    conditioning = CONDITIONINGS[name](sde)
    model = Denoiser(network_of("mlp")[0].double(), sde, conditioning)
    x, t = torch.randn(B, 3, dtype=torch.float64), times(0.01, 0.05, 0.3)
    found = time_derivative(model, x, t, ("noise", "data"))
    # VP, noise in, noise out: all of it goes through the condition; -sigma/alpha of it to data.
    torch.testing.assert_close(found["noise"].total, found["noise"].condition)
    ratio = -(sde.sigma(t) / sde.alpha(t))[:, None]
    torch.testing.assert_close(found["data"].condition, ratio * found["noise"].condition)
    still = {"none": [True] * 3, "etsdm": [True, True, False]}
    still["etsdm of sigma"] = still["etsdm"]
    zero = (found["noise"].condition == 0).all(1).tolist()
    assert zero == still.get(name, [False] * 3)
    assert found["noise"].total.isfinite().all()


def test_variance_exploding_scales_its_input_apart_from_the_condition():
    sde = SDES["ve"]
    blind = Denoiser(network_of("mlp")[0].double(), sde, NoTime(), scale_input=True)
    x = torch.randn(B, 3, dtype=torch.float64)
    found = time_derivative(blind, x, times(0.2, 0.4, 0.6), ("noise",))["noise"]
    assert (found.condition == 0).all()
    assert (found.total != 0).any()


def oracles(sde):
    points = torch.randn(6, 2, dtype=torch.float64)
    mixture = Mixture(sde, points, width=0.2)
    classes = [Gaussian(sde, points[0], width=0.3), Gaussian(sde, points[1], width=0.4)]
    return {
        "mixture": mixture,
        "finite": FiniteData(sde, points),
        "classes": LabelledOracle(classes, mixture),
        "told": Told(mixture, SmoothTime()),
        "shared": SharedTime(mixture, ETSDM(sde)),
        "plug-in": Told(mixture, ETSDM(sde)),
        "guided": LabelledOracle(classes, mixture).given(label=1, guidance=1.5, null=2),
    }


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("which", oracles(SDES["vp"]))
def test_derivative_of_an_oracle_is_its_slope(name, which):
    sde = SDES[name]
    model = oracles(sde)[which]
    # Inside E-TSDM's sub-intervals, whose thresholds differ between the processes, and beyond.
    t = times(1e-4, 0.15, 0.6)
    x = sde.perturb(torch.randn(B, 2, dtype=torch.float64), t, torch.randn(B, 2).double())
    found = time_derivative(model, x, t, PREDICTIONS)
    for wanted in PREDICTIONS:
        # Relative to t, so that the quotient resolves sqrt(t): its error is 1e-10 and rounding.
        h = 1e-5 * t
        slope = (model.predict(x, t + h, wanted) - model.predict(x, t - h, wanted)) / (
            2 * h[:, None]
        )
        rounding = 1e-15 * found[wanted].value.norm() / h.min()
        assert (found[wanted].total - slope).norm() <= 1e-5 * slope.norm() + rounding, wanted


def test_sharing_time_leaves_nothing_inside_an_interval():
    sde = SDES["vp"]
    mixture = oracles(sde)["mixture"]
    x, t = torch.randn(B, 2, dtype=torch.float64), times(1e-3, 0.03, 0.09)
    for model in (Told(mixture, ETSDM(sde)), SharedTime(mixture, ETSDM(sde))):
        assert (time_derivative(model, x, t, ("noise",))["noise"].total == 0).all()


def test_sixteen_bit_weights_are_measured_in_float32():
    network = network_of("mlp")[0]
    model = Denoiser(network.bfloat16(), SDES["vp"])
    exact = precise(model)
    assert state_of(exact)[0] is torch.float32
    assert state_of(model)[0] is torch.bfloat16
    assert precise(exact) is exact
    x, t = torch.randn(B, 3), times(0.1, 0.2, 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = time_derivative(exact, x, t, ("noise",))["noise"].total
    assert torch.equal(inside, time_derivative(exact, x, t, ("noise",))["noise"].total)


def test_a_guided_network_in_sixteen_bits():
    network = network_of("mlp", classes=2)[0].bfloat16()
    guided = Denoiser(network, SDES["vp"]).given(label=1, guidance=2.0)
    exact = precise(guided)
    assert [state_of(m)[0] for m in (guided, exact)] == [torch.bfloat16, torch.float32]
    assert precise(exact) is exact
    x, t, h = torch.randn(B, 3), times(0.1, 0.2, 0.3), 1e-4
    slope = time_derivative(exact, x, t, ("noise",))["noise"].total
    quotient = (exact.noise(x, t + h) - exact.noise(x, t - h)) / (2 * h)
    # Over 1e-3 it bends: (h / 1e-3)^2 = 1e-2; float32 over h is 1e-3.
    assert (slope - quotient).norm() < 0.03 * slope.norm()
    plain, told = (
        time_derivative(exact.of, x, t, ("noise",), torch.full((B,), n))["noise"] for n in (2, 1)
    )
    torch.testing.assert_close(slope, 2 * told.total - plain.total)


def test_a_network_without_forward_derivative_is_refused_with_a_remedy():
    class Odd(nn.Module):
        def forward(self, x, c):
            return torch.cdist(x, x * c[:, None])[:, :3]

    model = Denoiser(Odd(), SDES["vp"])
    with pytest.raises(ValueError, match="finite steps only"):
        time_derivative(model, torch.randn(B, 3), times(0.1, 0.2, 0.3), ("noise",))
