"""Score a picture with a CLIP that steered nothing: rank of the prompt among rivals, part by part, and margins.

Cosines of different models cannot be compared, ranks can; the rank of the prompt (R-precision) is the headline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.grammar import PARTS
from vqclip.job import InputError, Verdict
from vqclip.judge.rivals import BOTH, WORD, Rivals, grounded
from vqclip.perceptors import Perceptor

UNSURE = "no verdict: the judge's numbers are not finite; precision=fp32 or another judge may help"
_CLOSER = 0.85  # share of the picture that the second look shows
_WHOLE = frozenset(("colour", "ground", BOTH))  # judged by the whole picture alone: its middle holds too little ground


class Judge:
    """Asks one perceptor whether a picture shows the `include` texts rather than any of their rivals.

    Several includes stay several texts: a picture's score is the mean of their similarities, and a rival's the same
    mean with one of them swapped, so that a rival is ahead where it is nearer than the text that it replaces.

    Where it cannot read words of an include it refuses: `refusal` is the line that says so, and there are no verdicts.
    Excludes with such words are left out of `exclude` and `exclude_margin`. `notes` are the lines for the user.

    Args:
        perceptor: the judging CLIP. name: shown with every score.
        include: the texts that should win. rivals: for each of them, other texts by what they swap.
        exclude: texts that should lose to it.
        self_scored: the judge also steered the picture.
        muted: entered while the rivals are read: nobody wrote them, so that nothing is to be said of them.
    """

    def __init__(
        self,
        perceptor: Perceptor,
        name: str,
        include: Sequence[str],
        *,
        rivals: Sequence[Rivals],
        exclude: Sequence[str] = (),
        self_scored: bool = False,
        muted: AbstractContextManager[object] | None = None,
    ) -> None:
        self._perceptor, self.name, self.self_scored = perceptor, name, self_scored
        unread, lost = _unread(perceptor, include), _unread(perceptor, exclude)
        self.refusal = f"no verdict: the judge cannot read {', '.join(unread)}" if unread else ""
        missing = f"exclude margin: the judge cannot read {', '.join(lost)}" if lost else ""
        self.notes = tuple(filter(None, [self.refusal or missing]))
        if self.refusal:
            return
        legible = [text for text in exclude if not perceptor.read(text).unread]
        own = perceptor.embed_text([*include, *legible])  # (I + X, E)
        self._include, self._exclude = own[: len(include)], own[len(include) :]
        with muted or nullcontext():
            self._questions = {
                kind: _Question(perceptor, include, [each.get(kind, ()) for each in rivals], grounds=kind == "colour")
                for kind in (*PARTS, BOTH, WORD)
                if any(kind in each for each in rivals)
            }

    @torch.no_grad()
    def judge(self, image: Tensor) -> Verdict | None:
        """The verdict on one picture (3, H, W) in [0, 1]; None from a judge that refuses, or sees no finite numbers."""
        if self.refusal:
            return None
        looks = self._looks(image)  # (2, E)
        both, whole = F.normalize(looks.mean(0), dim=0), looks[0]
        ahead = {
            kind: question.ahead(whole if kind in _WHOLE else both) / len(self._include)
            for kind, question in self._questions.items()
        }
        kept = [(self._include @ both).mean()[None]]
        if len(self._exclude):
            kept.append((self._exclude @ both).max()[None])
        numbers = iter(torch.cat([*ahead.values(), *kept]).tolist())  # device sync, the only one
        gaps = {kind: list(islice(numbers, len(each))) for kind, each in ahead.items()}
        everyone = [gap for each in gaps.values() for gap in each]
        include, exclude = next(numbers), next(numbers, None)
        if not all(map(math.isfinite, [*everyone, include, *([] if exclude is None else [exclude])])):
            return None
        rank, among = _rank(everyone)
        return Verdict(
            judge=self.name,
            rank=rank,
            among=among,
            include=include,
            exclude=exclude,
            margin=-max(everyone) if everyone else 0.0,
            self_scored=self.self_scored,
            exclude_margin=None if exclude is None else include - exclude,
            parts={part: _rank(gaps[part]) for part in PARTS if part in gaps},
        )

    def curve(self, image: Tensor) -> Mapping[str, float]:
        """The verdict on an image (3, H, W) as numbers for the metrics of one step; none from a judge that refuses."""
        verdict = self.judge(image)
        if verdict is None:
            return {}
        numbers = {"rank": float(verdict.rank), "include": verdict.include, "margin": verdict.margin}
        return numbers if verdict.exclude_margin is None else numbers | {"exclude_margin": verdict.exclude_margin}

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        """What the judge sees of a picture (3, H, W) in [0, 1], whatever the prompts: unit (E,) float32.

        The mean of two looks: the whole picture, letterboxed, and its middle.
        """
        return F.normalize(self._looks(image).mean(0), dim=0)

    @torch.no_grad()
    def _looks(self, image: Tensor) -> Tensor:
        """(2, E): the whole picture and its middle, unit rows."""
        height, width = image.shape[-2:]
        views = [image[None], _middle(image[None], round(height * _CLOSER), round(width * _CLOSER))]
        size = self._perceptor.size
        return self._perceptor.embed_image(torch.cat([_letterbox(view, size) for view in views]))


class _Question:
    """The rivals that swap one kind of part, and how far they are ahead of the texts that they replace.

    `rivals` has a list for each of the `include` texts. With `grounds`, texts that name a colour and no ground are
    asked on every ground as well and count by the nearest: a colour that is not said to be the thing's or the ground's
    is taken for either, and the ground fills more of a picture.
    """

    def __init__(
        self, perceptor: Perceptor, include: Sequence[str], rivals: Sequence[Sequence[str]], *, grounds: bool
    ) -> None:
        texts = [*include, *(text for each in rivals for text in each)]
        ways = [(text, *(grounded(text) if grounds else ())) for text in texts]
        asked = [(place, way) for place, each in enumerate(ways) for way in each]
        rows = _embed(perceptor, [way for _, way in asked])
        kept = [(place, row) for (place, _), row in zip(asked, rows, strict=True) if row is not None]
        self._rows = torch.stack([row for _, row in kept])  # (A, E): ways to say the texts
        self._places = torch.tensor([place for place, _ in kept], device=self._rows.device)  # (A,) which text
        owners = [owner for owner, each in enumerate(rivals) for _ in each]  # which include a rival replaces
        self._all = len(texts)
        # Without rivals that are too long to be read, and without those of an include that is.
        read = {place for place, _ in kept}
        compared = [
            (len(include) + rival, owner)
            for rival, owner in enumerate(owners)
            if len(include) + rival in read and owner in read
        ]
        self._compared = torch.tensor(compared, dtype=torch.int64, device=self._rows.device).view(-1, 2).unbind(1)

    def ahead(self, embed: Tensor) -> Tensor:
        """(R,) similarity of each rival less that of the text that it replaces, for what is seen (E,)."""
        near = self._rows @ embed
        lost = near.new_full((self._all,), -torch.inf)
        found = lost.scatter_reduce(0, self._places, near, "amax")
        rivals, owners = self._compared
        return found[rivals] - found[owners]


def _rank(ahead: Sequence[float]) -> tuple[int, int]:
    """The prompt's rank among rivals, and the number of texts, from how far each rival is ahead of it."""
    return 1 + sum(gap > 0 for gap in ahead), 1 + len(ahead)


def _unread(perceptor: Perceptor, texts: Iterable[str]) -> list[str]:
    """The words of texts that say nothing to the judge, each once."""
    return list(dict.fromkeys(word for text in texts for word in perceptor.read(text).unread))


def _embed(perceptor: Perceptor, texts: Sequence[str]) -> list[Tensor | None]:
    """Embeddings (E,) of rivals; None for one that is too long for the judge, which is no fault of the prompt's."""
    try:
        return list(perceptor.embed_text(texts)) if texts else []
    except InputError:
        return [None] if len(texts) == 1 else [row for text in texts for row in _embed(perceptor, [text])]


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
