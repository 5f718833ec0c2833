"""Score a picture with a CLIP that steered nothing: text rank among distractors, and margins.

Cosines of different models cannot be compared, ranks can; the rank of the include text (R-precision)
is the headline.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.job import Verdict
from vqclip.models import Perceptor
from vqclip.starter import concepts

_DRAW = 2026  # seed of the distractors: the same question for every picture
_CLOSER = 0.85  # share of the picture that the second look shows


class Judge:
    """Asks one perceptor whether a picture shows `include` rather than any of the distractors.

    Args:
        perceptor: the judging CLIP. name: shown with every score.
        include: the text that should win. exclude: texts that should lose to it.
        distractors: other texts, without duplicates of `include`.
        self_scored: the judge also steered the picture.
    """

    def __init__(
        self,
        perceptor: Perceptor,
        name: str,
        include: str,
        *,
        exclude: Sequence[str] = (),
        distractors: Sequence[str],
        self_scored: bool = False,
    ) -> None:
        self._perceptor, self.name, self.self_scored = perceptor, name, self_scored
        self._texts = perceptor.embed_text([include, *distractors])  # (1 + D, E)
        self._exclude = perceptor.embed_text(list(exclude)) if exclude else None

    @torch.no_grad()
    def judge(self, image: Tensor) -> Verdict:
        """The verdict on one picture (3, H, W) in [0, 1]."""
        embed = self.embed(image)  # (E,)
        scores = self._texts @ embed
        include = float(scores[0])
        rivals = scores[1:]
        against = None if self._exclude is None else float((self._exclude @ embed).max())
        best_rival = float(rivals.max()) if len(rivals) else include
        return Verdict(
            judge=self.name,
            rank=1 + int((rivals > scores[0]).sum()),
            among=len(scores),
            include=include,
            exclude=against,
            margin=include - (best_rival if against is None else against),
            self_scored=self.self_scored,
        )

    def curve(self, image: Tensor) -> Mapping[str, float]:
        """The verdict as numbers for the metrics of one step."""
        verdict = self.judge(image)
        return {"rank": float(verdict.rank), "include": verdict.include, "margin": verdict.margin}

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """What the judge sees of a picture (3, H, W) in [0, 1], whatever the prompts: unit (E,) float32.

        The mean of two looks: the whole picture, letterboxed, and its middle.
        """
        height, width = image.shape[-2:]
        views = [image[None], _middle(image[None], round(height * _CLOSER), round(width * _CLOSER))]
        size = self._perceptor.size
        squares = torch.cat([_letterbox(view, size) for view in views])
        return F.normalize(self._perceptor.embed_image(squares).mean(0), dim=0)


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def _letterbox(image: Tensor, size: int) -> Tensor:
    """Scale the longer side to `size` and continue the borders of the shorter: true to aspect."""
    height, width = image.shape[-2:]
    longest = max(height, width)
    scaled = (max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    small = F.interpolate(image, scaled, mode="bilinear", antialias=True, align_corners=False)
    down, right = size - scaled[0], size - scaled[1]
    return F.pad(small, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")


def distractors(include: str, *, count: int = 100) -> list[str]:
    """`count` rival texts: the include text with its thing replaced by others, always the same draw.

    "a red apple on white" is rivalled by "a red house on white", so colour and background cannot
    give the answer away. A text that names no known thing is rivalled by bare names.
    """
    named = [name for name in concepts() if _find(name, include)]
    others = sorted(name for name in concepts() if name not in named and not _find(include, name))
    chosen = random.Random(_DRAW).sample(others, min(count, len(others)))  # noqa: S311  # no secret
    if not named:
        return chosen
    thing = _find(max(named, key=len), include)
    assert thing is not None
    before, after = include[: thing.start()], include[thing.end() :]
    return [_article(before, name) + name + after for name in chosen]


def _find(name: str, text: str) -> re.Match[str] | None:
    return re.search(rf"\b{re.escape(name)}\b", text, flags=re.IGNORECASE)


def _article(before: str, name: str) -> str:
    """`before` with a final "a" or "an" that fits `name`, so that grammar gives nothing away."""
    return re.sub(r"\ban? $", "an " if name[0].lower() in "aeiou" else "a ", before)
