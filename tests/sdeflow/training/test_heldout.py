"""Held-out probes: the same for every run with the same data and seed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdeflow.config import TrainConfig
from sdeflow.training import HeldOut, Learner, plan


def prepared(out: Path, **values: Any) -> tuple[Learner, list[HeldOut]]:
    """A learner, and its probes in batches of several sizes."""
    settings = {"data": "mixture", "size": "tiny", "device": "cpu", "out": str(out), **values}
    learner = Learner(plan(TrainConfig.from_dict(settings)))
    data, labels = learner.dataset.heldout, learner.dataset.heldout_labels
    labels = labels if values.get("class_condition") else None
    rest = (3, values.get("super_resolution"))
    sizes = (256, 64, 100, 1000)
    return learner, [HeldOut(learner.loss, data, labels, learner.device, n, *rest) for n in sizes]


@pytest.mark.parametrize(
    "values",
    [{}, {"class_condition": True}, {"data": "digits", "super_resolution": 2}],
    ids=["plane", "labels", "images"],
)
def test_probes_do_not_depend_on_the_size_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    learner, probes = prepared(tmp_path, **values)
    learner.advance()  # the last layer of a fresh network is zero
    seen: list[Tensor] = []
    raw = type(learner.denoiser).raw

    def watched(self: Any, x: Tensor, *rest: Any) -> Tensor:
        seen.append(x)
        return raw(self, x, *rest)

    monkeypatch.setattr(type(learner.denoiser), "raw", watched)
    found, asked, most = [], [], []
    for heldout in probes:
        seen.clear()
        found.append(heldout.evaluate(learner.denoiser))
        asked.append(torch.cat(seen))
        most.append(max(map(len, seen)))
    assert most == [256, 64, 100, 256]
    for x, result in zip(asked, found, strict=True):
        assert torch.equal(x, asked[0])
        # The network sums in another order in batches of another size.
        assert result.loss == pytest.approx(found[0].loss, rel=1e-5)
        assert result.bins == pytest.approx(found[0].bins, rel=1e-5)
