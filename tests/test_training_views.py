"""Views show what their meanings say, never a thing on its own colour, and repeat with their seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.captions import BACKGROUNDS
from training.colours import SHADES, classify
from training.concepts import COLOURS
from training.data import SIDE, Icons
from training.views import Bank, Crops, make_bank, make_views

CALM = Crops(scale=(1.0, 1.0), turn=0, shift=0, perspective=0, flip=0, noise=0, erase=0, jitter=0)


def icons() -> Icons:
    """A shaded red disc in a colour style and a ring in an ink style."""
    line = np.linspace(-1, 1, SIDE)
    radius = np.hypot(line[:, None], line[None])
    disc = np.zeros((SIDE, SIDE, 4), np.uint8)
    disc[..., :3] = np.array(SHADES["red"][0]) * (1 - 0.1 * (line[:, None, None] + 1))
    disc[..., 3] = 255 * (radius < 0.6)
    ring = np.zeros((SIDE, SIDE, 4), np.uint8)
    ring[..., 3] = 255 * ((radius < 0.7) & (radius > 0.3))
    return Icons(np.stack((disc, ring)), ["disc", "ring"], ["noto", "emojione-monotone"], ["disc", "ring"])


@pytest.fixture(scope="module")
def bank() -> Bank:
    return make_bank(icons(), side=40, variants=4, seed=0)


def views(bank: Bank, crops: Crops, seed: int = 0, count: int = 40) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.arange(count) % len(bank.truths)
    image, truths = make_views(bank, rows, crops, size=32, rng=rng)
    return image, [(truth.colour, truth.background) for truth in truths]


def test_the_bank_keeps_the_original_and_adds_other_colours(bank: Bank) -> None:
    colours = [truth.colour for truth, icon in zip(bank.truths, bank.icons, strict=True) if icon == 0]
    assert colours[0] == "red"
    assert len(colours) == len(set(colours)) >= 3
    assert bank.original.sum() == 2
    assert (bank.pixels[..., :3] <= bank.pixels[..., 3:]).all()  # premultiplied


def test_pictures_are_in_range_and_repeat_with_the_seed(bank: Bank) -> None:
    first, second, other = (views(bank, Crops(), seed)[0] for seed in (5, 5, 6))
    assert first.shape == (40, 3, 32, 32)
    assert first.dtype == torch.float32
    assert 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_colour_and_background_words_are_what_the_pixels_show(bank: Bank) -> None:
    image, words = views(bank, replace(CALM, gradient=0.0))
    corner, discs = classify(image[:, :, 1, 1]), 0
    for place, (colour, background) in enumerate(words):
        assert colour != background
        assert COLOURS[corner[place]] in (background, *(("grey",) if background == "white" else ()))
        if bank.icons[place % len(bank.truths)] == 0:
            assert COLOURS[classify(image[place, :, 16, 16])] == colour
            discs += 1
    assert discs >= 10


def test_two_colour_grounds_are_left_unnamed_and_plain_ones_are_named(bank: Bank) -> None:
    assert {word for _, word in views(bank, replace(CALM, gradient=0.0))[1]} <= set(BACKGROUNDS)
    image, words = views(bank, replace(CALM, gradient=1.0, white=0.0))
    unnamed = [place for place, (_, word) in enumerate(words) if not word]
    assert len(unnamed) > 25
    assert image[unnamed][:, :, 0].std(-1).mean() + image[unnamed][:, :, :, 0].std(-1).mean() > 0.05


def test_crops_show_more_or_less_of_the_picture(bank: Bank) -> None:
    whole, part = (views(bank, replace(CALM, white=1.0, gradient=0.0, scale=(s, s)), count=1)[0] for s in (1.4, 0.7))
    assert (part[0, 1] < 0.6).float().mean() > 2 * (whole[0, 1] < 0.6).float().mean()
