"""What the guides are to see: prompts and pictures become named loss terms over the crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip import losses
from vqclip.backends import joined
from vqclip.job import Job, Prompt
from vqclip.models import Perceptor
from vqclip.starter import concepts

Wishes = dict[str, losses.Loss]
Pictures = Sequence[tuple[Tensor, float]]


class Guidance:
    """The guides with their shares, and how far they set a prompt apart from everything else.

    Args:
        guides: the CLIP models that steer. weights: one factor per guide.
        emphasis: share of the mean embedding of everyday names that is taken off each prompt's embedding. The mean is
            what all captions have in common; pulled along with it, a picture is asked to look like any picture.
            A text direction as in StyleGAN-NADA (Gal et al. 2022), from the mean of many names instead
            of one neutral text.
        distance: a name in `losses.DISTANCES`.
        join: "apart" (each prompt a term of its own) or "features" (see `vqclip.backends.joined`).
    """

    def __init__(
        self, guides: Sequence[Perceptor], weights: Sequence[float], emphasis: float = 0.0, *,
        distance: str = "spherical", join: str = "apart",
    ) -> None:  # fmt: skip
        self._guides, self._weights, self._emphasis = guides, weights, emphasis
        self._distance, self._join = distance, join

    def wishes(self, job: Job, pictures: Pictures, *, exclude: float, extras: float) -> Wishes:
        """A term for each prompt that counts, by kind and text, and for each picture to resemble.

        Pictures are (1, 3, H, W) in [0, 1], each with a weight; `exclude` and `extras` are factors on all prompts of
        that kind, include counts 1.
        """
        if self._join == "features":
            return self._joined(job, exclude=exclude, extras=extras) | self._likenesses(pictures)
        terms: Wishes = {}
        for kind, prompts, factor, make in (
            ("include", job.include, 1.0, losses.attract),
            ("exclude", job.exclude, exclude, losses.repel),
            ("extras", job.extras, extras, losses.attract),
        ):
            for prompt in prompts:
                if prompt.weight * factor > 0:
                    terms[_unused(f"{kind}: {prompt.text}", terms)] = self._prompt(prompt, factor, make)
        return terms | self._likenesses(pictures)

    def _joined(self, job: Job, *, exclude: float, extras: float) -> Wishes:
        """A term for each include with all extras in its target, and for the excludes as one text."""
        terms: Wishes = {}
        for kind, prompt, targets in joined.targets(job, self._guides, extras=extras):
            factor, make = (exclude, losses.repel) if kind == "exclude" else (1.0, losses.attract)
            if prompt.weight * factor > 0:
                terms[_unused(f"{kind}: {prompt.text}", terms)] = self._term(targets, prompt, factor, make)
        return terms

    def _likenesses(self, pictures: Pictures) -> Wishes:
        """A term for each picture to resemble."""
        return {
            f"image {number}": losses.attract(
                [_look(guide, image) for guide in self._guides], self._weights, weight=weight, stop=None,
                distance=self._distance,
            )
            for number, (image, weight) in enumerate(pictures, start=1)
            if weight > 0
        }  # fmt: skip

    def _prompt(self, prompt: Prompt, factor: float, make: Callable[..., losses.Loss]) -> losses.Loss:
        return self._term([guide.embed_text([prompt.text]) for guide in self._guides], prompt, factor, make)

    def _term(
        self, targets: list[Tensor], prompt: Prompt, factor: float, make: Callable[..., losses.Loss]
    ) -> losses.Loss:
        if self._emphasis:
            targets = [
                F.normalize(target - self._emphasis * mean, dim=-1)
                for target, mean in zip(targets, self._shared, strict=True)
            ]
        return make(targets, self._weights, weight=prompt.weight * factor, stop=prompt.stop, distance=self._distance)

    @cached_property
    def _shared(self) -> list[Tensor]:
        """(1, E) per guide: the mean embedding of everyday names, shorter than 1 the more they differ."""
        return [guide.embed_text(list(concepts())).mean(0, keepdim=True) for guide in self._guides]


@torch.no_grad()
def _look(guide: Perceptor, image: Tensor) -> Tensor:
    """(1, E): what a guide sees in the whole of a picture (1, 3, H, W)."""
    side = (guide.size, guide.size)
    return guide.embed_image(F.interpolate(image, side, mode="bilinear", antialias=True, align_corners=False))


def _unused(name: str, taken: Wishes) -> str:
    """The same text may be asked for twice; each term keeps a curve of its own."""
    number, unique = 2, name
    while unique in taken:
        number, unique = number + 1, f"{name} ({number})"
    return unique
