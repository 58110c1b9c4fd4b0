"""Settings: round trips, refusals in one line, and what the command line reads from them."""

from pathlib import Path

import pytest

from sdeflow.config import PLACE, TrainConfig, load_config, options, save_config, settled
from sdeflow.data import load_data
from sdeflow.training import resolve


def test_round_trip_through_plain_values_and_yaml(tmp_path: Path) -> None:
    config = TrainConfig(
        etsdm=True, lr=1e-5, t_min=1e-8, steps=7, name="a run", data="npz:x y.npz", flips=False
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
    save_config(config, tmp_path / "config.yaml")
    back = load_config(tmp_path / "config.yaml")
    assert back == config.replace({name: getattr(TrainConfig(), name) for name in PLACE})


def test_values_come_as_yaml_and_flags_write_them() -> None:
    # YAML 1.1 reads 1e-3 as text; an integer is a fine float, and a whole float a fine integer.
    config = TrainConfig.from_dict({"lr": "1e-3", "clip": 2, "batch-size": 64.0})
    assert (config.lr, config.clip, config.batch_size) == (1e-3, 2.0, 64)
    assert type(config.clip) is float
    assert type(config.batch_size) is int


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"shedule": "linear"}, ["shedule", "schedule"]),
        ({"etsdm_intervalls": 3}, ["etsdm_intervals"]),
        ({"sde": "vpp"}, ["--sde", "vpp", "vp"]),
        ({"etsdm_threshold": 1.0}, ["--etsdm-threshold", "1.0", "(0, 1)"]),
        ({"etsdm_threshold": 0.0}, ["--etsdm-threshold", "0.0"]),
        ({"etsdm_intervals": 0}, ["--etsdm-intervals", "0", "at least 1"]),
        ({"t_min": 0.0}, ["--t-min"]),
        ({"t_min": 1.0}, ["--t-min"]),
        ({"t_min": 0.5, "t_max": 0.4}, ["--t-max", "0.4"]),
        ({"lr": -1e-3}, ["--lr", "positive"]),
        ({"lr": float("nan")}, ["--lr"]),
        ({"lr": float("inf")}, ["--lr", "finite"]),
        ({"steps": 0}, ["--steps"]),
        ({"steps": 2.5}, ["--steps", "whole"]),
        ({"steps": True}, ["--steps", "whole"]),
        ({"steps": "many"}, ["--steps"]),
        ({"etsdm": "yes"}, ["--etsdm", "true or false"]),
        ({"ema": 1.0}, ["--ema"]),
        ({"seed": -1}, ["--seed"]),
        ({"label_dropout": 1.5}, ["--label-dropout"]),
        ({"smooth_scale": 0}, ["--smooth-scale"]),
        ({"smooth_scale": 0.2}, ["--smooth-scale", "add --condition smooth"]),
        ({"smooth_shape": "power:3"}, ["--smooth-shape", "add --condition smooth"]),
        ({"etsdm_edges": "sigma"}, ["--etsdm-edges", "add --etsdm"]),
        ({"etsdm_threshold": 0.2}, ["--etsdm-threshold", "add --etsdm"]),
        ({"etsdm": True, "condition": "none"}, ["--etsdm", "--condition none", "leave one"]),
        (
            {"etsdm": True, "etsdm_edges": "edges.json", "etsdm_intervals": 2},
            ["--etsdm-intervals 2", "edges", "leave it out"],
        ),
        ({"label_dropout": 0.5}, ["--label-dropout", "add --class-condition"]),
        ({"lipschitz_weight": -1.0}, ["--lipschitz-weight", "at least 0"]),
        ({"lipschitz_weight": 1.0, "lipschitz_below": 2.0}, ["--lipschitz-below", "(0, 1)"]),
        ({"lipschitz_below": 0.1}, ["--lipschitz-below", "--lipschitz-weight"]),
        ({"lipschitz_weight": 1.0, "condition": "none"}, ["--lipschitz-weight", "none"]),
        ({"soft_truncation": -1.0}, ["--soft-truncation"]),
        ({"shared_noise": True, "etsdm": True}, ["--etsdm", "--shared-noise"]),
        ({"shared_noise": True, "soft_truncation": 1}, ["--soft-truncation", "--shared-noise"]),
        ({"shared_noise": True, "lipschitz_weight": 1}, ["--lipschitz-weight"]),
        ({"super_resolution": 1}, ["--super-resolution", "at least 2"]),
        ({"super_resolution": 2, "diagnostics": True}, ["--diagnostics"]),
        ({"sigma_floor": 0.0}, ["--sigma-floor", "(0, 1)"]),
        ({"sigma_floor": 0.1, "sde": "ve"}, ["--sigma-floor", "vp"]),
        ({"embedding": "tabel"}, ["--embedding", "table"]),
        ({"embedding": "table", "condition": "log-snr"}, ["table", "--condition log-snr"]),
        ({"embedding": "table", "embedding_scale": 0.5}, ["--embedding-scale", "table"]),
        ({"embedding_scale": 0.0}, ["--embedding-scale", "positive"]),
        ({"weighting": "score"}, ["--weighting", "--predict score"]),
        ({"name": "../x"}, ["--name", "--out"]),
        ({"name": ".."}, ["--name"]),
        ({"name": "a/b"}, ["--name"]),
        ({"sde": None}, ["--sde"]),
    ],
)
def test_refuses_in_one_line_that_names_the_option(values: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        TrainConfig.from_dict(values)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text", ["- 1\n- 2\n", "a: [", "!!python/object/apply:os.getcwd []", "\0"]
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [None, 240, 60_000])
def test_the_words_for_auto_are_what_is_chosen(steps: int | None) -> None:
    words = {option.name: option.auto for option in options()}
    chosen = resolve(TrainConfig(data="moons", steps=steps), load_data("moons"))
    assert words["lr"] == f"{chosen.lr:g}"
    assert words["ema"] == f"{chosen.ema:g}"
    assert words["warmup"] == "a twelfth of the steps, at most 1000"
    assert chosen.warmup == min(1000, settled(chosen.steps) // 12)
    assert words["checkpoint_every"] == "a tenth of the steps, at most 5000"
    assert chosen.checkpoint_every == min(5000, settled(chosen.steps) // 10)


def test_every_option_explains_itself() -> None:
    for option in options():
        assert option.help, option.name
        assert option.type in (bool, int, float, str)
        # An option that may be None says what None stands for, and no other does.
        assert bool(option.auto) == (option.default is None) == option.optional, option.name
        assert not option.choices or option.default in option.choices
