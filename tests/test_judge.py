"""The judge: ranks, margins, fair distractors, views true to aspect."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.compare.judge import Judge, distractors
from vqclip.starter import concepts


class Colours:
    """A perceptor whose embedding is the mean colour: texts are colour names, so ranks are known."""

    size = 16
    names = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.tensor([self.names[text] for text in texts]), dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        self.seen = crops
        return F.normalize(crops.mean((2, 3)) + 1e-6, dim=1)


def flat(*colour: float, height: int = 32, width: int = 32) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, height, width)


RIVALS = ["green", "blue", "white"]


@pytest.mark.parametrize(
    ("colour", "rank"), [((1.0, 0.0, 0.0), 1), ((0.6, 0.5, 0.5), 2), ((0.3, 0.9, 0.1), 3), ((0.0, 0.9, 0.9), 4)]
)
def test_rank_counts_the_rivals_that_fit_better(colour: tuple[float, ...], rank: int) -> None:
    verdict = Judge(Colours(), "test", "red", distractors=RIVALS).judge(flat(*colour))
    assert (verdict.rank, verdict.among) == (rank, 4)


def test_margin_is_include_minus_exclude_or_minus_the_best_rival() -> None:
    picture = flat(0.8, 0.2, 0.4)
    unit = F.normalize(torch.tensor([0.8, 0.2, 0.4]), dim=0)
    plain = Judge(Colours(), "test", "red", distractors=["green", "blue"]).judge(picture)
    assert plain.exclude is None
    assert plain.margin == pytest.approx(float(unit[0] - unit[2]), abs=1e-4)
    against = Judge(Colours(), "test", "red", exclude=["green", "white"], distractors=RIVALS).judge(picture)
    assert against.exclude == pytest.approx(float(unit.sum() / 3**0.5), abs=1e-4)
    assert against.margin == pytest.approx(against.include - against.exclude)
    assert against.rank == 2  # white fits better than red; exclude texts do not change the rank


def test_the_curve_repeats_the_verdict() -> None:
    one = Judge(Colours(), "test", "red", distractors=RIVALS)
    verdict, curve = one.judge(flat(1.0, 0.0, 0.0)), one.curve(flat(1.0, 0.0, 0.0))
    assert curve == {"rank": 1.0, "include": verdict.include, "margin": verdict.margin}


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64), (100, 30)])
def test_views_are_true_to_aspect(shape: tuple[int, int]) -> None:
    """A centred square keeps its aspect in the letterboxed view; nothing is cut off."""
    height, width = shape
    picture = torch.zeros(3, height, width)
    side = min(shape) // 2
    top, left = (height - side) // 2, (width - side) // 2
    picture[:, top : top + side, left : left + side] = 1
    perceptor = Colours()
    Judge(perceptor, "test", "white", distractors=["red"]).judge(picture)
    mask = perceptor.seen[0, 0] > 0.5
    assert perceptor.seen.shape == (2, 3, 16, 16)
    assert abs(int(mask.any(0).sum()) - int(mask.any(1).sum())) <= 1


def test_distractors_differ_only_in_the_thing() -> None:
    rivals = distractors("a red apple on a white background")
    assert len(rivals) == len(set(rivals)) == 100
    for text in rivals:
        assert text.startswith("a red ")
        assert text.endswith(" on a white background")
        assert "apple" not in text.split()
    assert rivals == distractors("a red apple on a white background")


def test_distractors_have_the_right_article() -> None:
    rivals = distractors("an apple")
    assert all(text.startswith("an ") == (text.split(" ", 1)[1][0] in "aeiou") for text in rivals)
    assert any(text.startswith("a ") for text in rivals)


def test_unknown_things_are_rivalled_by_bare_names() -> None:
    assert set(distractors("zebrafish at noon")) <= set(concepts())


def test_count_is_honoured() -> None:
    assert len(distractors("apple", count=7)) == 7
