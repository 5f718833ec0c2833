"""Models that look at pictures and read texts behind one protocol: Perceptor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from vqclip.job import Reading


@runtime_checkable
class Perceptor(Protocol):
    """A CLIP model, its weights frozen. Owns tokenizer, image normalisation and precision."""

    @property
    def size(self) -> int:
        """Side of the square pictures it looks at, in pixels."""

    @property
    def scale(self) -> float:
        """The factor on cosines that made logits of them in its training."""

    def read(self, text: str) -> Reading:
        """What this model makes of a text: the words it knows, those it takes for others, those it cannot read."""

    def embed_text(self, texts: Sequence[str], *, unit: bool = True) -> Tensor:
        """T texts -> (T, E) float32, rows of length 1 or, without `unit`, of the length that the model gives them."""

    def embed_image(self, crops: Tensor) -> Tensor:
        """(N, 3, size, size) nominally in [0, 1], on any device -> (N, E) float32, unit rows, differentiable."""
