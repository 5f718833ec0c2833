"""The judge: ranks in all and by part, margins, words that it cannot read, views true to aspect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.grammar import parse
from vqclip.job import InputError, Job, Prompt, Reading
from vqclip.judge.judge import Judge
from vqclip.judge.rivals import rivals
from vqclip.run.assemble import judge_for


class Colours:
    """A perceptor whose embedding is the mean colour; the first known word of a text is its colour.

    Other words cannot be read, and texts of more than `longest` words are refused.
    """

    size = 16
    longest = 20
    names = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}

    def __init__(self) -> None:
        self.asked: list[str] = []

    def read(self, text: str) -> Reading:
        known = [word for word in text.split() if word in self.names]
        return Reading(" ".join(known), unread=tuple(word for word in text.split() if word not in known))

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        if any(len(text.split()) > self.longest for text in texts):
            raise InputError("too long")
        self.asked += texts
        firsts = [next((word for word in text.split() if word in self.names), "white") for text in texts]
        return F.normalize(torch.tensor([self.names[word] for word in firsts]), dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        self.seen = crops
        return F.normalize(crops.mean((2, 3)) + 1e-6, dim=1)


def flat(*colour: float, height: int = 32, width: int = 32) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, height, width)


RIVALS = [{"thing": ["green", "blue", "white"]}]


@pytest.mark.parametrize(
    ("colour", "rank"), [((1.0, 0.0, 0.0), 1), ((0.6, 0.5, 0.5), 2), ((0.3, 0.9, 0.1), 3), ((0.0, 0.9, 0.9), 4)]
)
def test_rank_counts_the_rivals_that_fit_better(colour: tuple[float, ...], rank: int) -> None:
    verdict = Judge(Colours(), "test", ["red"], rivals=RIVALS).judge(flat(*colour))
    assert verdict is not None
    assert (verdict.rank, verdict.among) == (rank, 4)
    assert verdict.parts == {"thing": (rank, 4)}


def test_parts_are_ranked_among_texts_that_differ_in_nothing_else() -> None:
    asked = [{"thing": ["blue"], "colour": ["green", "blue"], "both": ["green"]}]
    verdict = Judge(Colours(), "test", ["red"], rivals=asked).judge(flat(0.5, 0.9, 0.1))
    assert verdict is not None
    assert (verdict.rank, verdict.among) == (3, 5)  # green twice
    assert verdict.parts == {"thing": (1, 2), "colour": (2, 3)}


def test_colours_are_judged_by_the_whole_picture_and_things_by_its_middle_as_well() -> None:
    picture = flat(1.0, 1.0, 1.0, height=40, width=40).clone()
    picture[:, 3:37, 3:37] = torch.tensor([1.0, 0.2, 0.2])[:, None, None]
    asked = [{"thing": ["white"], "colour": ["white"], "ground": ["white"], "word": ["white"]}]
    verdict = Judge(Colours(), "test", ["red"], rivals=asked).judge(picture)
    assert verdict is not None
    assert verdict.parts == {"thing": (1, 2), "colour": (2, 2), "ground": (2, 2)}
    assert verdict.rank == 3


class Scenes(Colours):
    """Sees the colours of middle and rim apart, the rim larger; a colour that a text leaves open is taken for both."""

    def read(self, text: str) -> Reading:
        return Reading(text)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        said = [parse(text) for text in texts]
        both = [(each.word("colour") or "", each.word("ground") or each.word("colour") or "") for each in said]
        rows = [[value for word in words for value in self.names.get(word, (0.6, 0.6, 0.6))] for words in both]
        return F.normalize(torch.tensor(rows), dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        rim = crops.clone()
        rim[..., 4:12, 4:12] = 0
        rows = torch.cat([crops[..., 6:10, 6:10].mean((2, 3)), 1.5 * rim.sum((2, 3)) / 192], 1)
        return F.normalize(rows + 1e-6, dim=1)


@pytest.mark.parametrize(
    ("text", "first"),
    [("something red", True), ("something blue", False), ("something red on a blue background", True)],
)
def test_a_colour_without_a_ground_is_asked_on_every_ground(text: str, *, first: bool) -> None:
    """Red on blue: taken for either, blue would be nearer than red."""
    picture = flat(0.0, 0.0, 1.0, height=16, width=16).clone()
    picture[:, 4:12, 4:12] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    colour = rivals(text)["colour"]
    verdict = Judge(Scenes(), "test", [text], rivals=[{"colour": colour}]).judge(picture)
    assert verdict is not None
    rank, among = verdict.parts["colour"]
    assert (rank == 1, among) == (first, 11)


def test_the_margins_are_against_rivals_and_against_excludes() -> None:
    picture = flat(0.8, 0.2, 0.4)
    unit = F.normalize(torch.tensor([0.8, 0.2, 0.4]), dim=0)
    plain = Judge(Colours(), "test", ["red"], rivals=[{"thing": ["green", "blue"]}]).judge(picture)
    against = Judge(Colours(), "test", ["red"], exclude=["green", "white"], rivals=RIVALS).judge(picture)
    assert plain is not None
    assert against is not None
    assert (plain.exclude, plain.exclude_margin) == (None, None)
    assert plain.margin == pytest.approx(float(unit[0] - unit[2]), abs=1e-4)
    white = float(unit.sum() / 3**0.5)
    assert against.exclude == pytest.approx(white, abs=1e-4)
    assert against.exclude_margin == pytest.approx(against.include - white, abs=1e-4)
    assert against.margin == pytest.approx(against.include - white, abs=1e-4)  # white is the best rival as well
    assert against.rank == 2  # excludes do not change the rank


def test_several_includes_are_judged_one_by_one() -> None:
    """Half red and half blue: both are there, and a rival has to be nearer than the text that it replaces."""
    asked = [{"colour": ["green"]}, {"colour": ["white", "red"]}]
    verdict = Judge(Colours(), "test", ["red", "blue"], rivals=asked).judge(flat(0.6, 0.0, 0.8))
    assert verdict is not None
    assert verdict.include == pytest.approx(0.7, abs=1e-4)
    assert (verdict.rank, verdict.among) == (2, 4)  # white is nearer than blue
    assert verdict.margin == pytest.approx((0.8 - 1.4 / 3**0.5) / 2, abs=1e-4)
    assert verdict.parts == {"colour": (2, 4)}


def test_words_that_cannot_be_read_leave_no_verdict() -> None:
    judge = Judge(Colours(), "test", ["red", "Tokyo blue"], exclude=["seven"], rivals=[])
    assert judge.judge(flat(1.0, 0.0, 0.0)) is None
    assert judge.curve(flat(1.0, 0.0, 0.0)) == {}
    assert judge.refusal == "no verdict: the judge cannot read Tokyo"
    assert judge.notes == (judge.refusal,)
    assert judge.embed(flat(1.0, 0.0, 0.0)).shape == (3,)  # what it sees needs no words


def test_excludes_that_cannot_be_read_give_no_exclude_margin() -> None:
    judge = Judge(Colours(), "test", ["red"], exclude=["seven", "green"], rivals=RIVALS)
    verdict = judge.judge(flat(1.0, 0.0, 0.0))
    assert verdict is not None
    assert verdict.exclude == pytest.approx(0.0, abs=1e-4)  # green alone
    assert judge.notes == ("exclude margin: the judge cannot read seven",)
    lost = Judge(Colours(), "test", ["red"], exclude=["seven"], rivals=RIVALS).judge(flat(1.0, 0.0, 0.0))
    assert lost is not None
    assert (lost.exclude, lost.exclude_margin) == (None, None)


def test_rivals_are_read_aside_and_those_too_long_are_left_out() -> None:
    eye, inside = Colours(), []

    @contextmanager
    def muted() -> Iterator[None]:
        before = len(eye.asked)
        yield
        inside.extend(eye.asked[before:])

    eye.longest = 2
    asked = [{"thing": ["green", "a b white", "a blue"]}]
    verdict = Judge(eye, "test", ["red"], exclude=["green"], rivals=asked, muted=muted()).judge(flat(1.0, 0.0, 0.0))
    assert verdict is not None
    assert verdict.among == 3
    assert inside == ["red", "green", "a blue"]
    assert eye.asked == ["red", "green", *inside]


def test_a_job_is_judged_by_its_prompts_and_what_cannot_be_read_is_said_once() -> None:
    refusing = judge_for(Job((Prompt("red"), Prompt("Tokyo"))), Colours(), "test")
    assert refusing.notes == ("no verdict: the judge cannot read Tokyo",)
    unasked = judge_for(Job((Prompt("red"), Prompt("Tokyo", 0.0))), Colours(), "test")
    verdict = unasked.judge(flat(1.0, 0.0, 0.0))
    assert verdict is not None
    assert verdict.parts["colour"] == (1, 11)
    assert unasked.notes == ()


def test_the_curve_repeats_the_verdict() -> None:
    one = Judge(Colours(), "test", ["red"], exclude=["blue"], rivals=RIVALS)
    verdict, curve = one.judge(flat(1.0, 0.0, 0.0)), one.curve(flat(1.0, 0.0, 0.0))
    assert verdict is not None
    assert curve == {
        "rank": 1.0, "include": verdict.include, "margin": verdict.margin, "exclude_margin": verdict.exclude_margin,
    }  # fmt: skip
    plain = Judge(Colours(), "test", ["red"], rivals=RIVALS).curve(flat(1.0, 0.0, 0.0))
    assert list(plain) == ["rank", "include", "margin"]


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64), (100, 30)])
def test_views_are_true_to_aspect(shape: tuple[int, int]) -> None:
    """A centred square keeps its aspect in the letterboxed view; nothing is cut off."""
    height, width = shape
    picture = torch.zeros(3, height, width)
    side = min(shape) // 2
    top, left = (height - side) // 2, (width - side) // 2
    picture[:, top : top + side, left : left + side] = 1
    perceptor = Colours()
    Judge(perceptor, "test", ["white"], rivals=[{"thing": ["red"]}]).judge(picture)
    mask = perceptor.seen[0, 0] > 0.5
    assert perceptor.seen.shape == (2, 3, 16, 16)
    assert abs(int(mask.any(0).sum()) - int(mask.any(1).sum())) <= 1
