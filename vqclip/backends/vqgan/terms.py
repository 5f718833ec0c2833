"""What the guides are to see: prompts and pictures become named loss terms over crops and picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.backends.vqgan import joined
from vqclip.backends.vqgan.exclusion import GONE, THERE, Away, Role, away, colours_in, roles
from vqclip.job import Job, Prompt
from vqclip.loop import losses
from vqclip.loop.looks import appear, look_of
from vqclip.perceptors import Perceptor
from vqclip.starter import concepts

Terms = dict[str, losses.Loss]
Pictures = Sequence[tuple[Tensor, float]]
# Weight of the push from "not there" on to "as little of it as can be". With 0.5 a key without a cactus loses its own
# shape (its rank 3 becomes 18) and a strawberry without a peach hers (1 to 89); with 0.2 none of six did.
_GENTLE = 0.25
SPARE = 0.03  # share of a picture that may be of an excluded colour: a highlight, a rim, what comes and goes


@dataclass(frozen=True)
class Push:
    """How hard a term along directions counts, from which step on, and (K, E) per guide what it leaves alone."""

    weight: float
    first: int
    keep: Sequence[Tensor]


class Guidance:
    """The guides with their shares, and how far they set a prompt apart from everything else.

    Args:
        guides: the CLIP models that steer. weights: one factor per guide.
        emphasis: share of the mean embedding of everyday names that is taken off each prompt's embedding. The mean is
            what all captions have in common; pulled along with it, a picture is asked to look like any picture.
            A text direction as in StyleGAN-NADA (Gal et al. 2022), from the mean of many names instead
            of one neutral text.
        distance: of pulls and plain pushes, a name in `losses.DISTANCES`.
    """

    def __init__(
        self, guides: Sequence[Perceptor], weights: Sequence[float], emphasis: float = 0.0, *,
        distance: str = "spherical",
    ) -> None:  # fmt: skip
        self._guides, self._weights, self._emphasis, self._distance = guides, weights, emphasis, distance

    def said(self, text: str) -> str:
        """A text as the first guide reads it: "crimson" is "red" to the starter guide; "" where it reads nothing."""
        return self._guides[0].read(text).text

    def _read(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts of which a guide reads something: an empty text steers, but nowhere that was asked for."""
        return [prompt for prompt in prompts if any(guide.read(prompt.text).text for guide in self._guides)]

    def pulls(self, kind: str, prompts: Sequence[Prompt], factor: float = 1.0) -> Terms:
        """A term for each prompt of a kind ("include", "extras") that counts: towards its text."""
        return self._terms(kind, prompts, factor, losses.attract)

    def resembles(self, pictures: Pictures) -> Terms:
        """A term for each picture (1, 3, H, W) in [0, 1] that the result should resemble, with its weight."""
        found = {}
        for number, (image, weight) in enumerate(pictures, start=1):
            if weight > 0:
                targets = [_look(guide, image) for guide in self._guides]
                found[f"image {number}"] = losses.attract(
                    targets, self._weights, weight=weight, stop=None, distance=self._distance
                )
        return found

    def pushes(self, job: Job, factor: float) -> Terms:
        """A term for each exclude: away from its text alone, without end or up to its stop."""
        return self._terms("exclude", self._read(job.exclude), factor, losses.repel)

    def roles_off(self, job: Job, factor: float, *, settled: int) -> Terms:
        """A term for each exclude: away from every role of its words, each while it is there.

        The pushes begin at the step `settled`, when the picture has taken its shape: colours that come and go before
        are no part of it, and a picture without the excluded one comes out nearly as it would have. What is no colour
        is also pushed gently on: a part of a thing has no clear border between there and gone. A prompt's own stop
        replaces both ends.
        """
        terms: Terms = {}
        keep = self._kept(job)
        for prompt in self._read(job.exclude):
            if prompt.weight * factor > 0:
                push = Push(prompt.weight * factor, settled, keep)
                terms[_unused(f"exclude: {prompt.text}", terms)] = self._push(job, prompt, push)
        return terms

    def _push(self, job: Job, prompt: Prompt, push: Push) -> losses.Loss:
        said, include = self.said(prompt.text), [self.said(each.text) for each in job.include]
        stop = prompt.stop
        if stop is not None:
            return self._along(roles(said, include), push, lambda way: way.at(stop))
        colours = colours_in(said)
        if not colours:
            found, gentle = roles(said, include), replace(push, weight=push.weight * _GENTLE)
            return losses.together(
                self._along(found, push, lambda way: way.stops(THERE)),
                self._along(found, gentle, lambda way: way.stops(GONE)),
            )
        each = (self._along(roles(word, include), push, lambda way: way.stops(THERE)) for word in colours)
        return losses.together(
            *(
                losses.where_painted(word, term, spare=SPARE, first=push.first)
                for word, term in zip(colours, each, strict=True)
            )
        )

    def _along(self, found: Sequence[Role], push: Push, stops: Callable[[Away], Tensor]) -> losses.Loss:
        """A push off the directions of roles, up to the stops of each guide."""
        ways = [away(guide, found, kept) for guide, kept in zip(self._guides, push.keep, strict=True)]
        lines = [way.directions for way in ways]
        return losses.avoid(lines, [stops(way) for way in ways], self._weights, weight=push.weight, first=push.first)

    def extras(self, job: Job, factor: float) -> Terms:
        """A term for each extra that is no look: a look goes with any thing, so the picture alone is asked for it.

        As a target of its own it pulls the thing out of shape: the starter guide's "flat" roses are white boxes.
        """
        return self._terms("extras", [each for each in self._read(job.extras) if not is_look(each.text)], factor,
                           losses.attract)  # fmt: skip

    def _kept(self, job: Job) -> list[Tensor]:
        """(K, E) per guide: what the includes pull towards, for directions to leave alone."""
        rows = [self._targets(prompt.text) for prompt in job.include]
        return [torch.cat(each) for each in zip(*rows, strict=True)]

    def joined(self, job: Job, *, exclude: float, extras: float) -> Terms:
        """A term for each include with all extras in its target, and for the excludes as one text; see `joined`."""
        terms: Terms = {}
        for kind, prompt, targets in joined.targets(job, self._guides, extras=extras):
            factor, make = (exclude, losses.repel) if kind == "exclude" else (1.0, losses.attract)
            if prompt.weight * factor > 0:
                terms[_unused(f"{kind}: {prompt.text}", terms)] = self._term(
                    self._set_apart(targets), prompt, factor, make
                )
        return terms

    def _terms(
        self, kind: str, prompts: Sequence[Prompt], factor: float, make: Callable[..., losses.Loss]
    ) -> Terms:
        terms: Terms = {}
        for prompt in prompts:
            if prompt.weight * factor > 0:
                term = self._term(self._targets(prompt.text), prompt, factor, make)
                terms[_unused(f"{kind}: {prompt.text}", terms)] = term
        return terms

    def _term(
        self, targets: list[Tensor], prompt: Prompt, factor: float, make: Callable[..., losses.Loss]
    ) -> losses.Loss:
        return make(targets, self._weights, weight=prompt.weight * factor, stop=prompt.stop, distance=self._distance)

    def _targets(self, text: str) -> list[Tensor]:
        """(1, E) per guide: what a prompt pulls towards."""
        return self._set_apart([guide.embed_text([text]) for guide in self._guides])

    def _set_apart(self, targets: list[Tensor]) -> list[Tensor]:
        if not self._emphasis:
            return targets
        return [
            F.normalize(target - self._emphasis * mean, dim=-1)
            for target, mean in zip(targets, self._shared, strict=True)
        ]

    @cached_property
    def _shared(self) -> list[Tensor]:
        """(1, E) per guide: the mean embedding of everyday names, shorter than 1 the more they differ."""
        return [guide.embed_text(list(concepts())).mean(0, keepdim=True) for guide in self._guides]


def is_look(text: str) -> bool:
    """Whether an extra speaks of the whole picture's colours or edges: a look, or several colours."""
    return look_of(text) is not None or len(colours_in(text)) > 1


def areas(
    job: Job, *, exclude: float, extras: float, settled: int, said: Callable[[str], str] = str
) -> Terms:
    """Terms over the picture itself for prompts that name nothing but colours.

    An excluded colour leaves the picture's areas, from the step `settled` on: a guide sees colours of things and of
    grounds, and calls a patch beside the thing neither. An extra of several colours ("red and yellow") is the
    palette of all of it, and one that names a look ("flat", "black and white") is that look.
    """
    terms: Terms = {}
    for prompt in job.exclude:
        for word in colours_in(prompt.text) or colours_in(said(prompt.text)):
            if prompt.weight * exclude > 0:
                term = losses.unpaint(word, prompt.weight * exclude, spare=SPARE, first=settled)
                terms[_unused(f"exclude: {word} (area)", terms)] = term
    for prompt in job.extras:
        weight, look, palette = prompt.weight * extras, look_of(prompt.text), colours_in(prompt.text)
        if weight > 0 and (look or len(palette) > 1):
            term = appear(look, weight, first=settled) if look else losses.paint(palette, weight, first=settled)
            terms[_unused(f"extras: {prompt.text} (area)", terms)] = term
    return terms


@torch.no_grad()
def _look(guide: Perceptor, image: Tensor) -> Tensor:
    """(1, E): what a guide sees in the whole of a picture (1, 3, H, W)."""
    side = (guide.size, guide.size)
    return guide.embed_image(F.interpolate(image, side, mode="bilinear", antialias=True, align_corners=False))


def _unused(name: str, taken: Terms) -> str:
    """The same text may be asked for twice; each term keeps a curve of its own."""
    number, unique = 2, name
    while unique in taken:
        number, unique = number + 1, f"{name} ({number})"
    return unique
