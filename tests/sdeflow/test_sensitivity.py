"""Sensitivity to perturbations: exact on linear models, paired, and nothing left behind."""

import pytest
import torch

from sdeflow import ETSDM, Denoiser, Time, Told, make_network, make_oracle, make_sde
from sdeflow.instruments.sensitivity import sensitivity_study
from sdeflow.oracle import Gaussian

VP = make_sde("vp")
TIMES = (0.01, 0.3)


def noise_of(count, *shape):
    """The perturbation of x, and then of the condition, of seed 0."""
    generator = torch.Generator().manual_seed(1)
    in_x = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
    return in_x, torch.randn(count, dtype=torch.float64, generator=generator)


def centred(sde=VP, dim=3):
    return Gaussian(sde, torch.zeros(dim, dtype=torch.float64), width=0.5)


def network_model(conditioning=None):
    network = make_network("mlp", "tiny", data_shape=(3,), num_classes=2).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Denoiser(network.requires_grad_(False), VP, conditioning)


@pytest.mark.parametrize("name", ["vp", "edm"])
@pytest.mark.parametrize("wanted", ["noise", "data"])
def test_linear_model_in_closed_form(name, wanted):
    # Prediction and sample are both multiples of x, so each changes by h ||n|| / sqrt(D).
    study = sensitivity_study(
        centred(make_sde(name)), times=TIMES, scales=(0.01, 0.3), wanted=wanted, samples=True,
        steps=4, count=7, batch_size=3,
    )  # fmt: skip
    expected = noise_of(7, 3)[0].norm(dim=1) / 3**0.5
    assert [(r["t"], r["scale"]) for r in study.rows if r["answer"] == "sample"] == [
        (t, scale) for t in TIMES for scale in (0.01, 0.3)
    ]
    assert len(study.rows) == 8
    for row in study.rows:
        assert row["perturbed"] == "x"
        assert row["mean"] == pytest.approx(row["scale"] * float(expected.mean()), rel=1e-9)
        assert row["error"] == pytest.approx(
            row["scale"] * float(expected.std()) / 7**0.5, rel=1e-9
        )


def test_condition_in_closed_form():
    model = Told(centred(), Time())
    study = sensitivity_study(
        model, times=(0.3,), scales=(0.02,), perturb=("condition",), count=5, batch_size=2
    )

    def gain(t):
        return VP.sigma(t) / (0.25 * VP.alpha(t) ** 2 + VP.sigma(t) ** 2)

    told = 0.3 + 0.02 * noise_of(5, 3)[1]
    (row,) = study.rows
    assert row["mean"] == pytest.approx(float((gain(told) / gain(0.3) - 1).abs().mean()), rel=1e-9)
    assert isinstance(model.conditioning, Time)


def test_features_by_hand_and_nothing_left_behind():
    model = network_model()
    x_0 = torch.randn(6, 3)
    before = model.noise(x_0, 0.3)
    study = sensitivity_study(
        model, x_0, (0.3,), scales=(0.001, 0.002), perturb=("features", "condition", "x"),
        samples=True, steps=3, count=6, batch_size=4,
    )  # fmt: skip
    assert torch.equal(model.noise(x_0, 0.3), before)
    found = {(r["perturbed"], r["answer"], r["scale"]): r["mean"] for r in study.rows}
    assert len(found) == 12
    for what in ("features", "x"):
        for answer in ("prediction", "sample"):
            small, twice = (found[what, answer, scale] for scale in (0.001, 0.002))
            # Linear for small scales: the bend is of the order of the scale times the network's
            # curvature, of some tens; float32 leaves 1e-6 / 1e-3.
            assert twice == pytest.approx(2 * small, rel=0.1)
    # By hand: the embedding's output moved before the network goes on.
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(6, generator=generator)
    noise = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    x = VP.perturb(x_0[order].double(), 0.3, noise).float()
    n = torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).float()
    plain = model.noise(x, 0.3)
    embed = model.network.embedding.forward

    def moved(*args):
        e = embed(*args)
        return e + 0.002 * e.norm(dim=1, keepdim=True) / 8 * n

    model.network.embedding.forward = moved
    ratio = ((model.noise(x, 0.3) - plain).norm(dim=1) / plain.norm(dim=1)).mean()
    assert found["features", "prediction", 0.002] == pytest.approx(float(ratio), rel=1e-3)


def test_the_same_in_any_batches_and_paired_between_models():
    model, shared = network_model(), centred()
    x_0 = torch.randn(5, 3)
    one, other = (
        sensitivity_study(model, x_0, TIMES, perturb=("features",), count=8, batch_size=size)
        for size in (8, 3)
    )
    for a, b in zip(one.rows, other.rows, strict=True):
        # Sums of float32 in another order, divided by a change of a hundredth.
        assert a["mean"] == pytest.approx(b["mean"], rel=1e-3)
    twice = [sensitivity_study(shared, times=TIMES, count=4) for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_network_that_ignores_its_condition_is_not_sensitive_to_it():
    model = network_model()
    for name, parameter in model.network.named_parameters():
        if "modulation.weight" in name:
            parameter.data.zero_()
    study = sensitivity_study(
        model, torch.randn(4, 3), TIMES, perturb=("condition", "features"), count=4
    )
    assert [row["mean"] for row in study.rows] == [0.0] * 8


def test_sixteen_bits_are_measured_in_float32_and_labels_are_told():
    model = network_model(ETSDM(VP))
    model.network.bfloat16()
    label = torch.tensor([0, 1, 0, 1])
    study = sensitivity_study(
        model, torch.randn(4, 3), (0.05,), label=label, samples=True, steps=2, count=4
    )
    assert study.settings["dtype"] == "float32"
    assert all(0 < row["mean"] < 1 for row in study.rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"times": ()}, "times"),
        ({"times": (0.0,)}, "times"),
        ({"times": (1e-3,), "samples": True}, r"\(0.001, 1\]"),
        ({"scales": (0.0,)}, "scales"),
        ({"perturb": ("y",)}, "condition"),
        ({"wanted": "nose"}, "noise"),
        ({"perturb": ("condition",)}, "is told none"),
        ({"perturb": ("features",)}, "no network"),
        ({"count": 1}, "count"),
    ],
)
def test_arguments_that_cannot_be(arguments, says):
    with pytest.raises(ValueError, match=says):
        sensitivity_study(make_oracle("mixture", VP), **arguments)


def test_a_module_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="embedding"):
        sensitivity_study(
            network_model(), torch.randn(4, 3), perturb=("features",), features="embeding"
        )
