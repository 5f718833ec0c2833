"""Colours are named as people name them, and recolouring ends at the colour that was asked for."""

from __future__ import annotations

import pytest
import torch

from training.colours import SHADES, from_lab, measure, name_colour, recolour, tint, to_lab
from training.concepts import COLOURS


def disc(rgb: tuple[int, int, int], side: int = 32) -> torch.Tensor:
    """A shaded disc with a dark outline, straight alpha."""
    line = torch.linspace(-1, 1, side)
    radius = (line[:, None] ** 2 + line[None] ** 2).sqrt()
    shade = (1 - 0.25 * (line[:, None] + 1) / 2)[..., None]
    colour = (torch.tensor(rgb) / 255 * shade).expand(side, side, 3).clone()
    colour[radius > 0.82] = 0.08
    return torch.cat((colour, (radius < 0.92).float()[..., None]), -1)


def test_lab_and_back_is_the_identity_inside_the_gamut() -> None:
    rgb = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    assert torch.allclose(from_lab(to_lab(rgb)), rgb, atol=2e-3)
    assert torch.allclose(to_lab(torch.ones(1, 3)), torch.tensor([[100.0, 0, 0]]), atol=0.3)


@pytest.mark.parametrize("word", COLOURS)
def test_typical_shades_are_called_by_their_word(word: str) -> None:
    assert name_colour(disc(SHADES[word][0])[None]) == [word]


def test_a_picture_of_two_equal_halves_has_no_colour() -> None:
    half = disc((215, 35, 40))
    half[:, 16:, :3] = torch.tensor((45, 105, 220)) / 255
    word, share = measure(half[None])
    assert share.item() < 0.6
    assert name_colour(half[None], 0.6) == [""]
    assert COLOURS[word] in ("red", "blue")


@pytest.mark.parametrize("source", ["red", "green", "yellow", "grey"])
@pytest.mark.parametrize("target", ["blue", "purple", "orange", "black", "green", "pink"])
def test_recolouring_ends_at_the_asked_colour(source: str, target: str) -> None:
    before = disc(SHADES[source][0])
    after = recolour(before, target)
    assert name_colour(after[None]) == [target]
    assert torch.equal(after[..., 3], before[..., 3])
    assert 0 <= after.min() and after.max() <= 1


def test_recolouring_keeps_what_has_another_colour() -> None:
    picture = disc((215, 35, 40))
    picture[12:18, 12:18, :3] = torch.tensor((45, 105, 220)) / 255
    after = recolour(picture, "yellow")
    assert torch.allclose(after[12:18, 12:18, :3], picture[12:18, 12:18, :3], atol=0.05)


def test_tint_colours_all_ink_and_leaves_the_shape() -> None:
    before = disc((0, 0, 0))
    after = tint(before, "green")
    assert name_colour(after[None]) == ["green"]
    assert torch.equal(after[..., 3], before[..., 3])
