"""The four predictions are one function: conversions, wrapping any network, guidance."""

import pytest
import torch
from torch import Tensor, nn

from sdeflow.conditioning import ETSDM, Sigma
from sdeflow.denoiser import PREDICTIONS, Denoiser, convert
from sdeflow.oracle import Gaussian, LabelledOracle, Mixture, make_oracle
from sdeflow.sde import like, make_sde

SDES = [
    ("vp", "linear"),
    ("vp", "cosine"),
    ("vp", "trig"),
    ("subvp", "linear"),
    ("ve", "linear"),
    ("edm", "linear"),
]


class Recorder(nn.Module):
    """Answers zeros and remembers what it was given."""

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.x, self.c, self.label = x, c, label
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", SDES, ids="-".join)
def test_conversions_agree_with_an_oracle(name: tuple[str, str]) -> None:
    sde = make_sde(*name)
    cov = torch.tensor([[1.0, 0.3, 0.1], [0.3, 0.5, 0.0], [0.1, 0.0, 0.05]]).double()
    oracle = Gaussian(sde, torch.tensor([0.3, -0.5, 1.0]).double(), covariance=cov)
    t = torch.tensor([1e-3, 0.1, 0.4, 0.9], dtype=torch.float64)
    x = sde.perturb(oracle.sample(4), t, torch.randn(4, 3, dtype=torch.float64))
    exact = {name: oracle.predict(x, t, name) for name in PREDICTIONS}
    for given in PREDICTIONS:
        for wanted in PREDICTIONS:
            a, b = convert(sde, t, given, wanted)
            terms = like(a, x) * x, like(b, x) * exact[given]
            # Rounding of the two terms that are added, a few units each.
            slack = 64 * 2.0**-52 * (terms[0].abs() + terms[1].abs())
            assert bool(((terms[0] + terms[1] - exact[wanted]).abs() <= slack + 1e-15).all())


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("name", SDES, ids="-".join)
def test_denoiser_of_each_prediction(predict: str, name: tuple[str, str]) -> None:
    """A network that computes the exact prediction makes an exact denoiser."""
    sde = make_sde(*name)
    oracle = make_oracle("gaussian:width=0.7", sde)

    class Exact(nn.Module):
        condition_dtype = torch.float64

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            size = (
                torch.hypot(sde.alpha(c), sde.sigma(c))
                if not sde.variance_preserving
                else 1 + 0 * c
            )
            out = oracle.predict(x * like(size, x), c, predict)
            return out / like(size, x) if predict == "velocity" else out

    model = Denoiser(Exact(), sde, predict=predict, scale_input=True)
    t = torch.tensor([0.01, 0.3, 0.8], dtype=torch.float64)
    x = sde.perturb(oracle.sample(3), t, torch.randn(3, 2, dtype=torch.float64))
    for wanted in PREDICTIONS:
        got = getattr(model, wanted)(x, t)
        exact = getattr(oracle, wanted)(x, t)
        # Cancellation of at most x / sigma^2 (the score from data) times rounding.
        scale = 1 + x.abs() / like(sde.sigma(t) ** 2, x) + x.abs() / like(sde.alpha(t), x)
        assert bool(((got - exact).abs() <= 1e-13 * scale).all()), wanted


def test_no_division_by_a_vanishing_sigma() -> None:
    """At t = 1e-8 in float32 the data, from the noise, is x to within sigma."""
    sde = make_sde()
    x = torch.randn(5, 3)
    model = Denoiser(Recorder(), sde)
    assert torch.allclose(model.data(x, 1e-8), x, rtol=1e-6)
    model = Denoiser(Recorder(), sde, predict="velocity")
    assert torch.allclose(model.data(x, 1e-8), x, rtol=1e-6)
    # And at alpha = 0 the velocity gives both.
    end = Denoiser(Recorder(), make_sde("vp", "trig"), predict="velocity")
    assert torch.allclose(end.noise(x, 1.0), x)
    assert bool(torch.isfinite(end.data(x, 1.0)).all())


def test_what_the_network_receives(device: torch.device) -> None:
    sde = make_sde("ve")
    network = Recorder()
    model = Denoiser(network, sde, Sigma(sde), scale_input=True).to(device)
    x = torch.randn(4, 1, 2, 2, device=device)
    model.noise(x, 0.5)
    assert network.c.dtype == x.dtype
    assert network.c.device == x.device
    assert network.c.shape == (4,)
    expected = x / float(torch.hypot(torch.ones(()), sde.sigma(0.5)))
    assert torch.allclose(network.x, expected)
    network.condition_dtype = torch.float64
    model.noise(x, torch.full((4,), 0.5))
    assert network.c.dtype == torch.float64
    assert network.c.device.type == "cpu"


def test_the_condition_is_shared_but_the_noise_level_is_not() -> None:
    sde = make_sde()
    network = Recorder()
    model = Denoiser(network, sde, ETSDM(sde))
    x = torch.randn(2, 3, dtype=torch.float64)
    t = torch.tensor([0.03, 0.035], dtype=torch.float64)
    data = model.data(x, t)
    assert network.c.tolist() == [0.02, 0.02]
    assert torch.allclose(data, x / like(sde.alpha(t), x))
    assert model.breaks == ETSDM(sde).breaks


def _classes() -> LabelledOracle:
    sde = make_sde()
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    each = [Gaussian(sde, mean, width=0.3) for mean in means]
    return LabelledOracle(each, Mixture(sde, means, width=0.3))


def test_guidance_is_linear_in_the_prediction() -> None:
    oracle = _classes()
    x, t = torch.randn(5, 2, dtype=torch.float64), 0.4
    for name in PREDICTIONS:
        one = getattr(oracle.members[1], name)(x, t)
        all_ = getattr(oracle.members[2], name)(x, t)
        got = getattr(oracle.given(label=1, guidance=2.5, null=2), name)(x, t)
        assert torch.allclose(got, all_ + 2.5 * (one - all_), rtol=1e-12, atol=1e-12)
        assert torch.equal(getattr(oracle.given(label=1), name)(x, t), one)
    labels = torch.tensor([0, 1, 0, 1, 2])
    mixed = oracle.given(label=labels).noise(x, t)
    assert torch.equal(mixed[4], oracle.members[2].noise(x, t)[4])
    assert torch.equal(oracle.given(guidance=1.0).noise(x, t, labels), mixed)


class Answers(nn.Module):
    """Answers what it was made with."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, c: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (torch.zeros(2, 1, 4, 4), "network=Answers: answers shape"),
        (torch.zeros(2, 6, 4, 4), "one prediction of x's shape"),
        ((torch.zeros(2, 3, 4, 4),), r"answers a tuple; .* its \.sample"),
    ],
)
def test_answers_of_another_kind(answer: object, says: str) -> None:
    model = Denoiser(Answers(answer), make_sde())
    with pytest.raises(ValueError, match=says):
        model.noise(torch.zeros(2, 3, 4, 4), 0.5)


@pytest.mark.parametrize("t", [500, -1.0, 0.0, float("nan"), 1.5])
def test_times_beyond_the_process(t: float) -> None:
    for model in (Denoiser(Recorder(), make_sde()), make_oracle("gaussian", make_sde())):
        with pytest.raises(ValueError, match="n / 1000 for step n"):
            model.score(torch.zeros(2, 2), t)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"call \.noise, \.data, \.score or \.velocity"):
        Denoiser(Recorder(), make_sde())(torch.zeros(2, 2), 0.5)
    batched = Denoiser(Answers(torch.zeros(1, 1, 4, 4)), make_sde())
    with pytest.raises(ValueError, match=r"batch dimension, x\[None\]"):
        batched.noise(torch.zeros(1, 4, 4), 0.5)
    with pytest.raises(ValueError, match=r"sde='vp': .*make_sde\('vp'\)"):
        Denoiser(Recorder(), "vp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predict='eps'"):
        Denoiser(Recorder(), make_sde(), predict="eps")
    with pytest.raises(ValueError, match="no class labels"):
        Denoiser(Recorder(), make_sde()).given(label=1, guidance=2.0)
    with pytest.raises(ValueError, match="give label"):
        _classes().given(guidance=2.0).noise(torch.zeros(2, 2).double(), 0.5)


def test_an_oracle_with_classes_knows_its_null_label() -> None:
    oracle = _classes()
    x, t = torch.randn(5, 2, dtype=torch.float64), 0.4
    guided = oracle.given(label=1, guidance=2.5)
    assert torch.equal(guided.noise(x, t), oracle.given(1, 2.5, null=2).noise(x, t))
    assert guided.num_classes == 2
    per_call = oracle.given(guidance=2.5)
    assert torch.equal(per_call.noise(x, t, torch.ones(5).long()), guided.noise(x, t))


class Linear(nn.Module):
    """One linear layer, told the condition as a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.given = x.dtype, c.dtype
        out: Tensor = self.layer(x) * (1 + c[:, None])
        return out


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_a_state_of_another_type_reaches_the_network_in_its_own(sde: str) -> None:
    model = Denoiser(Linear(), make_sde(sde), predict="velocity", scale_input=True)
    x = torch.randn(4, 2)
    for name in PREDICTIONS:
        found = getattr(model, name)(x.double(), 0.3)
        assert found.dtype == torch.float64
        assert model.network.given == (torch.float32, torch.float32)
        # Float32 in the network, with coefficients of order 10.
        torch.testing.assert_close(
            found.float(), getattr(model, name)(x, 0.3), rtol=1e-5, atol=1e-5
        )


def test_told_otherwise_the_network_is_the_same_and_the_process_unchanged() -> None:
    sde = make_sde()
    network = Recorder()
    model = Denoiser(network, sde, predict="velocity", scale_input=True).eval()
    shared = model.told(ETSDM(sde))
    x, t = torch.ones(3, 2), torch.tensor([0.001, 0.05, 0.5], dtype=torch.float64)
    shared.noise(x, t)
    assert network.c.tolist() == pytest.approx([0.0, 0.04, 0.5])
    assert shared.breaks == pytest.approx((0.02, 0.04, 0.06, 0.08, 0.1))
    model.noise(x, t)
    assert network.c.tolist() == pytest.approx(t.tolist())
    assert model.breaks == ()
    assert shared.network is network
    assert (shared.prediction, shared.scale_input, shared.training) == ("velocity", True, False)
