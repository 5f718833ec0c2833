"""The guide's own pictures: made by the shipped loop, kept in a pool, learnt as negatives beside redrawn drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import forgeries, pool
from training.captions import Meaning
from training.data import Icons
from training.forgeries import Hands, forge, make, redraw
from training.mirages import Mirages
from training.pool import EMPTY, SIDE, Pool, read, shrink, write
from training.recipes import RECIPES
from training.views import Crops, make_bank
from vqclip.weights.load import STARTER

CPU = torch.device("cpu")
APPLE, CAR = Meaning("apple", "red", "white", "flat"), Meaning("car", "blue", "", "flat")


def flat(*shades: int) -> Pool:
    """One plain picture of each shade, meant as an apple."""
    pixels = torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)
    return Pool(pixels.contiguous(), [APPLE] * len(shades))


@pytest.fixture(scope="module")
def hands() -> Hands:
    return Hands.load(STARTER / "guide-rn.safetensors", CPU)


def test_forging_comes_nearer_to_the_captions(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgeries, "_SEEN_FROM", 0)
    captions = ["a red heart on a white background", "a yellow star"]
    drawn = list(forge(hands, captions, torch.Generator().manual_seed(3)))
    assert all(image.shape == (2, 3, 128, 128) and 0 <= image.min() <= image.max() <= 1 for image in drawn)
    wishes = hands.guide.embed_text(captions)
    first, last = ((hands.guide.embed_image(torch.nn.functional.avg_pool2d(image, 2)) * wishes).sum(1)
                   for image in (drawn[0], drawn[-1]))  # fmt: skip
    assert (last > first + 0.2).all()


def test_redrawing_keeps_the_picture(hands: Hands) -> None:
    image = torch.ones(1, 3, 128, 128)
    image[:, 1:, 32:96, 32:96] = 0.1  # a red square on white
    again = redraw(hands, image, torch.Generator().manual_seed(1))
    assert (again - image).abs().mean() < 0.08
    assert not torch.equal(again, hands.generator.decode(hands.generator.encode(image)))


def test_a_model_that_rejects_gets_as_many_of_both(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgeries, "_BATCH", 2)
    monkeypatch.setattr(forgeries, "_STEPS", 5)
    monkeypatch.setattr(forgeries, "_SEEN_FROM", 0)
    icons = Icons(np.full((1, 128, 128, 4), 200, np.uint8), ["apple"], ["noto"], ["apple"])
    bank = make_bank(icons, side=128, variants=0, seed=0)
    forged, redrawn = make(hands, bank, 5, RECIPES["guide-rn"], seed=1)
    assert len(forged) == len(redrawn) == 6  # two stages and the end, of two captions
    alone = make(hands, bank, 3, RECIPES["judge"], seed=1)
    assert [len(each) for each in alone] == [0, 4]
    assert {one.name for one in (*forged.meant, *redrawn.meant)} <= {"apple", ""}


def test_a_pool_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT", 3)
    both = flat(1, 2) + flat(3, 4)
    assert both.pixels[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert len(both) == 3
    assert len(EMPTY + flat(5)) == 1


def test_views_of_a_pool_are_crops_in_range() -> None:
    views = flat(0, 255).views(torch.tensor([1, 0, 1]), Crops(), size=32, rng=torch.Generator().manual_seed(0))
    assert views.shape == (3, 3, 32, 32)
    assert torch.equal(views.mean((1, 2, 3)).round(), torch.tensor([1.0, 0.0, 1.0]))


def test_pools_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pool.safetensors"
    assert [len(each) for each in read(path)] == [0, 0]
    image = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    write(path, flat(7), Pool(shrink(image), [APPLE, CAR]))
    forged, redrawn = read(path)
    assert forged.meant == [APPLE]
    assert forged.pixels.unique().tolist() == [7]
    assert redrawn.meant == [APPLE, CAR]
    assert torch.equal(redrawn.pixels, shrink(image))
    assert not list(path.parent.glob("*.part"))


def test_most_chains_that_begin_anew_begin_with_a_forgery() -> None:
    mirages = Mirages.start(400, 16, [CAR], 3, CPU)
    grey = torch.full((5, 3, 16, 16), 0.5)
    mirages.draw(400, torch.rand(4, 3, 16, 16), [CAR], (grey, [APPLE] * 5))
    forged = torch.tensor([one == APPLE for one in mirages.meant])
    assert 0.08 < forged.float().mean() < 0.25
    assert (mirages.pixels[forged] == 0.5).all()
