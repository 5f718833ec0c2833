"""Looks: extras whose meaning can be measured in the picture itself, as loss terms over its areas.

A guide feels a word like "flat" less than any name of a thing, and the starter guide hardly at all; what the word says
of lightness, colour and edges needs no guide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.colours import to_lab
from vqclip.loop.losses import Loss, View

Measure = Callable[[Tensor], Tensor]
_EDGE: Final = 0.1  # difference of neighbouring areas, of 1, from which it is an edge and no shading


def flatness(image: Tensor) -> Tensor:
    """(B,): mean difference of neighbouring areas of (B, 3, H, W), edges counted as no more than `_EDGE`."""
    down, across = (image.diff(dim=axis).abs().clamp_max(_EDGE).mean((1, 2, 3)) for axis in (-2, -1))
    return (down + across) / 2


def hues(image: Tensor) -> Tensor:
    """(B,): mean chroma of (B, 3, H, W) that is not of the prevailing hue, in hundreds of L*a*b*."""
    chroma = to_lab(image.movedim(1, -1))[..., 1:].flatten(1, 2)  # (B, N, 2)
    with torch.no_grad():  # the direction that most of the colour lies in
        prevailing = F.normalize((chroma * chroma.norm(dim=2, keepdim=True)).mean(1, keepdim=True), dim=2)
    along = (chroma * prevailing).sum(2)
    aside = chroma - along[..., None] * prevailing
    return (aside.square().sum(2).clamp_min(1e-6).sqrt() + (-along).clamp_min(0)).mean(1) / 100


def _below(value: Tensor, bound: float) -> Tensor:
    """(B,): how far values (B, H, W) lie below a bound on average, in hundreds."""
    return (bound - value).clamp_min(0).mean((1, 2)) / 100


def _above(value: Tensor, bound: float) -> Tensor:
    return (value - bound).clamp_min(0).mean((1, 2)) / 100


def _light(image: Tensor) -> Tensor:
    return to_lab(image.movedim(1, -1))[..., 0]


def _chroma(image: Tensor) -> Tensor:
    return to_lab(image.movedim(1, -1))[..., 1:].square().sum(-1).clamp_min(1e-6).sqrt()


_LOOKS: Final[dict[str, Measure]] = {
    "greyscale": lambda image: _above(_chroma(image), 3),
    "flat": lambda image: 20 * flatness(image),
    "one colour": hues,
    "vivid": lambda image: _below(_chroma(image), 70),
    "pastel": lambda image: (_below(_light(image), 75) + _above(_chroma(image), 35)) / 2,
    "dark": lambda image: _above(_light(image), 45) / 2,
    "bright": lambda image: _below(_light(image), 80) / 2,
}
_ALSO: Final = {
    "flat colours": "flat", "flat design": "flat", "one color": "one colour", "monochromatic": "one colour",
    "colourful": "vivid", "colorful": "vivid", "saturated": "vivid", "vivid colours": "vivid", "vivid colors": "vivid",
    "pale": "pastel", "pastel colours": "pastel", "pastel colors": "pastel", "muted": "pastel", "light": "bright",
    "grayscale": "greyscale", "monochrome": "greyscale", "black-and-white": "greyscale", "black and white": "greyscale",
}  # fmt: skip
NAMES: Final = tuple(_LOOKS)


def look_of(text: str) -> str | None:
    """The look that a text names and nothing else ("Flat", "pastel colours"), None where it names none."""
    said = " ".join(text.lower().split()).rstrip(".!")
    said = _ALSO.get(said, said)
    return said if said in _LOOKS else None


def appear(look: str, weight: float, *, first: int = 0) -> Loss:
    """Bring the picture to a look: weight x how far its areas are from it.

    Args:
        look: one of `NAMES`.
        weight: factor on the term.
        first: the step at which the pull begins.
    """
    measure = _LOOKS[look]

    def term(view: View) -> Tensor:
        if view.step < first:
            return view.none
        side = max(1, min(view.image.shape[-2:]) // 64)
        return weight * measure(F.avg_pool2d(view.image, side))

    return term
