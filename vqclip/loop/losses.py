"""View and the pure loss functions: prompt terms over crops, drawing terms over the picture.

Every loss is a callable `View -> (B,) tensor`, a value for each latent of a batch, made by a factory that closed over
its target and weight. Nothing here knows a model, a file or a config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.colours import depth


@dataclass(frozen=True)
class View:
    """What a loss may look at in one iteration of B latents.

    `latent` (B, C, h, w); `image` (B, 3, H, W) in [0, 1]; `embeds` holds one (B, N, E) tensor of unit
    rows per perceptor, for the crops of the current chunk (empty for picture terms); `start` (B, C, h, w), for picture
    terms, is where the latents set out from.
    """

    step: int
    latent: Tensor
    image: Tensor
    embeds: Sequence[Tensor] = ()
    start: Tensor = field(default_factory=lambda: torch.empty(0))  # fits no latent

    @property
    def none(self) -> Tensor:
        """(B,) zeros without a gradient: what a term is that does not count yet."""
        return self.image.new_zeros(len(self.image))


Loss = Callable[[View], Tensor]


@dataclass(frozen=True)
class Losses:
    """The named terms of one job.

    `crops` terms are means over crops, so that evaluating them chunk by chunk and weighting by the
    chunk's share is exact. `picture` terms see the whole picture and the latent once per step.
    """

    crops: dict[str, Loss] = field(default_factory=dict)
    picture: dict[str, Loss] = field(default_factory=dict)


def spherical_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Half the squared angle between unit vectors: theta^2 / 2, in [0, pi^2/2].

    Written as 2 arcsin(|f - t| / 2)^2 (Crowson's VQGAN-CLIP, after the spherical distance of the
    tangent-space metric), which keeps precision where f is close to t and arccos would lose it.

    Args:
        features: (..., N, E) float32, unit rows.
        targets: (M, E) float32, unit rows, or (..., M, E) with the leading sizes of the features.

    Returns:
        (..., N, M) distances.
    """
    chord = (features[..., :, None, :] - targets[..., None, :, :]).norm(dim=-1)
    # arcsin's slope is infinite at 1 (opposite vectors) and the norm's is undefined at 0: stay inside.
    half_angle: Tensor = chord.div(2).clamp(max=1 - 1e-6).arcsin()
    return 2 * half_angle.square()


def cosine_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Minus the cosine between unit vectors, in [-1, 1]: (..., N, E) and (..., M, E) -> (..., N, M)."""
    return -(features @ targets.mT)


# Name -> the distance itself, and its value where the spherical distance, in which stops are given, has that one.
DISTANCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[float], float]]] = {
    "spherical": (spherical_distance, lambda stop: stop),
    "cosine": (cosine_distance, lambda stop: -math.cos(math.sqrt(2 * stop))),
}


class _StopAt(torch.autograd.Function):
    """Forward: the value unchanged. Backward: no gradient for values already at or past the stop."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stop: float) -> Tensor:
        ctx.save_for_backward(value > stop)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (pulling,) = ctx.saved_tensors
        return grads[0] * pulling, None


def stop_at(value: Tensor, stop: float) -> Tensor:
    """`value`, of any shape, whose gradient is that of max(value, stop): zero wherever value <= stop."""
    stopped: Tensor = _StopAt.apply(value, stop)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return stopped


def attract(
    targets: Sequence[Tensor], weights: Sequence[float], *, weight: float, stop: float | None,
    distance: str = "spherical",
) -> Loss:  # fmt: skip
    """Pull the crops towards a target: weight x mean distance.

    Args:
        targets: one (M, E) tensor of unit rows per perceptor; or (B, M, E), a target for each latent of a batch.
        weights: one factor >= 0 per perceptor; they are normalised to sum 1.
        weight: factor on the term.
        stop: spherical distance at which a crop stops being pulled, None for never.
        distance: a name in `DISTANCES`.
    """
    return _prompt_term(targets, weights, weight=weight, stop=stop, distance=distance, sign=1.0)


def repel(
    targets: Sequence[Tensor], weights: Sequence[float], *, weight: float, stop: float | None,
    distance: str = "spherical",
) -> Loss:  # fmt: skip
    """Push the crops away from targets (M, E): -weight x mean distance, until it is beyond `stop`; see `attract`."""
    return _prompt_term(targets, weights, weight=weight, stop=stop, distance=distance, sign=-1.0)


def avoid(
    directions: Sequence[Tensor], stops: Sequence[Tensor], weights: Sequence[float], *, weight: float, first: int = 0
) -> Loss:
    """Push the crops off directions, each only while they are near it: weight x mean of max(0, stop - distance).

    0, with no gradient, for a picture that is near none of them.

    Args:
        directions: one (R, E) tensor of unit rows per perceptor.
        stops: one (R,) tensor of spherical distances each.
        weights: one factor >= 0 per perceptor; they are normalised to sum 1.
        weight: factor on the sum over the directions.
        first: the step at which the push begins.
    """
    shares = [w / sum(weights) for w in weights]

    def term(view: View) -> Tensor:
        total = view.none
        if view.step < first:
            return total
        for share, embeds, away, stop in zip(shares, view.embeds, directions, stops, strict=True):
            near = (stop - spherical_distance(embeds, away)).clamp_min(0)  # (B, N, R)
            total = total + share * near.mean(1).sum(1)
        return weight * total

    return term


def together(*terms: Loss) -> Loss:
    """The sum of several terms, as one with one curve."""
    return lambda view: torch.stack([term(view) for term in terms]).sum(0)


def unpaint(word: str, weight: float, *, spare: float, first: int = 0) -> Loss:
    """Push areas out of the region of a colour word: weight x mean depth inside it, in hundreds of L*a*b*.

    Args:
        word: one of `vqclip.grammar.COLOURS`.
        weight: factor on the term.
        spare: share of the picture that may be of that colour; below it nothing is pushed.
        first: the step at which the push begins.
    """

    def term(view: View) -> Tensor:
        if view.step < first:
            return view.none
        inside = depth(_areas(view.image), word).clamp_min(0)
        return weight * inside.mean((1, 2)) / 100 * ((inside > 0).float().mean((1, 2)) > spare)

    return term


def where_painted(word: str, loss: Loss, *, spare: float, first: int = 0) -> Loss:
    """A term that counts only from the step `first` on and while more than a share `spare` of the areas is of a colour.

    A guide is never quite sure of a colour; the pixels are.
    """

    def term(view: View) -> Tensor:
        if view.step < first:
            return view.none
        with torch.no_grad():
            there = (depth(_areas(view.image), word) > 0).float().mean((1, 2)) > spare
        return loss(view) * there

    return term


def paint(words: Sequence[str], weight: float, *, first: int = 0) -> Loss:
    """Pull areas into the regions of colour words, each into the nearest: weight x mean distance from it, likewise."""

    def term(view: View) -> Tensor:
        if view.step < first:
            return view.none
        areas = _areas(view.image)
        nearest = torch.stack([depth(areas, word) for word in words]).amax(0)
        return weight * (-nearest).clamp_min(0).mean((1, 2)) / 100

    return term


def _areas(image: Tensor) -> Tensor:
    """(B, 3, H, W) averaged to about 64 px along the short side: single pixels do not count."""
    return F.avg_pool2d(image, max(1, min(image.shape[-2:]) // 64))


def _prompt_term(
    targets: Sequence[Tensor], weights: Sequence[float], *, weight: float, stop: float | None, sign: float,
    distance: str,
) -> Loss:  # fmt: skip
    shares = [w / sum(weights) for w in weights]
    measure, at_spherical = DISTANCES[distance]
    end = None if stop is None else sign * at_spherical(stop)

    def term(view: View) -> Tensor:
        total = view.none
        for share, embeds, target in zip(shares, view.embeds, targets, strict=True):
            signed = sign * measure(embeds, target)
            if end is not None:
                signed = stop_at(signed, end)
            total = total + share * signed.mean((1, 2))
        return weight * total

    return term


def smooth(weight: float) -> Loss:
    """Total variation: mean absolute difference of neighbouring pixels, in both directions."""

    def term(view: View) -> Tensor:
        x = view.image
        return weight * (x.diff(dim=-1).abs().mean((1, 2, 3)) + x.diff(dim=-2).abs().mean((1, 2, 3)))

    return term


def anchor(weight: float, *, unit: float = 1.0) -> Loss:
    """Hold each latent near its start: mean squared difference, in lengths of `unit`."""

    def term(view: View) -> Tensor:
        return weight / unit**2 * (view.latent - view.start).square().mean((1, 2, 3))

    return term


def decay(weight: float, *, unit: float = 1.0) -> Loss:
    """Pull each latent towards zero: half its mean square, likewise (nerdyrodent's init term, undamped)."""

    def term(view: View) -> Tensor:
        return weight / unit**2 * view.latent.square().mean((1, 2, 3)) / 2

    return term
