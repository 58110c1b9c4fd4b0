"""Models around a model: with a label bound and guided, and what is asked in the end.

Classifier-free guidance: null + w (labelled - null), with both answers of one network
(Ho & Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from .denoiser import Predictor

__all__ = ["Around", "Guided", "classes_of", "innermost"]

_Around = TypeVar("_Around", bound="Around")


class Around(Predictor):
    """Base of predictors that ask another, of the same process, with something bound.

    Args:
        of: the model asked.
    """

    def __init__(self, of: Predictor) -> None:
        self.of = of
        self.sde, self.breaks = of.sde, of.breaks
        self.prediction, self.quantised = of.prediction, of.quantised

    def visited(self, t: Tensor) -> Tensor:
        return self.of.visited(t)

    def around(self: _Around, of: Predictor) -> _Around:
        """The same, asking another model of the same process."""
        made = copy.copy(self)
        made.of = of
        return made


def innermost(model: Predictor) -> Predictor:
    """The `Denoiser` or the oracle that is asked in the end."""
    while isinstance(model, Around):
        model = model.of
    return model


def classes_of(model: Predictor) -> int:
    """How many classes the model's labels name; 0 for a model without labels."""
    return getattr(getattr(model, "network", model), "num_classes", None) or 0


class Guided(Around):
    """A predictor with its label bound, and guided: null + guidance (labelled - null).

    Args:
        of: the model.
        label: an integer for all samples, a (B,) tensor, or None to take the label per call.
        guidance: 1 for the conditional model itself, 0 for the unconditional one, above 1 to
            exaggerate the label.
        null: the label that stands for "no label"; by default the model's number of classes.

    Raises:
        ValueError: guidance other than 1 on a model without a null label, and when it is asked
            without a label.
    """

    def __init__(
        self,
        of: Predictor,
        label: Tensor | int | None = None,
        guidance: float = 1.0,
        null: int | None = None,
    ) -> None:
        super().__init__(of)
        self.num_classes = classes_of(of)
        null = self.num_classes if null is None else null
        if guidance != 1 and not null:
            raise ValueError(
                f"guidance={guidance}: this model has no class labels to be guided by; use 1"
            )
        self.label, self.guidance, self.null = label, guidance, null

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        wanted: str,
        label: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        of: Any = self.of
        images = () if image is None else (image,)
        label = self.labels(x, label)
        if label is None or self.guidance == 1:
            answer: Tensor = of.predict(x, t, wanted, label, *images)
            return answer
        nothing = torch.full_like(label, self.null)
        # One call for both halves: the network is the cost, and twice the batch is cheaper.
        twice = (torch.cat([a, a]) for a in images)
        both = of.predict(
            torch.cat([x, x]), torch.cat([t, t]), wanted, torch.cat([label, nothing]), *twice
        )
        labelled, plain = both.chunk(2)
        return torch.lerp(plain, labelled, self.guidance)

    def labels(self, x: Tensor, label: Tensor | None = None) -> Tensor | None:
        """The labels of x (B, ...): `label`, or those bound; (B,), or None for none.

        Raises:
            ValueError: there are none, and guidance is not 1.
        """
        if label is not None:
            return label
        if self.label is None:
            if self.guidance != 1:
                raise ValueError(
                    f"guidance={self.guidance}: there is no class to be guided towards; give "
                    "label, or leave guidance at 1"
                )
            return None
        label = torch.as_tensor(self.label, device=x.device)
        return label.expand(x.shape[0]) if label.dim() == 0 else label
