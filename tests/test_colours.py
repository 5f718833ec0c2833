"""Regions of colour words: which word a pixel gets, and how deep inside its region it lies."""

from __future__ import annotations

import colorsys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqclip.grammar import COLOURS
from vqclip.loop import losses
from vqclip.loop.colours import DEEP, SHADES, classify, depth, to_lab
from vqclip.loop.losses import View

CHANNEL = st.integers(0, 255)


def flat(rgb: tuple[int, int, int], side: int = 8) -> torch.Tensor:
    return (torch.tensor(rgb) / 255)[None, :, None, None].expand(1, 3, side, side).clone()


def test_the_words_are_those_of_captions() -> None:
    assert tuple(SHADES) == COLOURS


@pytest.mark.parametrize("word", COLOURS)
def test_every_shade_is_called_by_its_word_and_lies_inside_its_region(word: str) -> None:
    usual = SHADES[word][:1] if word == "black" else SHADES[word]
    for shade in (*usual, *DEEP.get(word, ())):
        inside = {other: float(depth(flat(shade), other).mean()) for other in COLOURS}
        assert [other for other, value in inside.items() if value > 0] == [word]
    for shade in SHADES[word]:
        assert COLOURS[int(classify(torch.tensor(shade) / 255))] == word


@given(st.tuples(CHANNEL, CHANNEL, CHANNEL))
def test_a_pixel_lies_in_one_region_at_most(rgb: tuple[int, int, int]) -> None:
    values = [float(depth(flat(rgb, 1), word)) for word in COLOURS]
    assert sum(value > 1e-3 for value in values) <= 1
    assert max(values) >= -1e-3


def test_lab_of_known_colours() -> None:
    """White, black, and sRGB red of CIE 15: L* 53.2, a* 80.1, b* 67.2."""
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert torch.allclose(to_lab(rgb), torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.2, 80.1, 67.2]]), atol=0.3)


def test_depth_and_its_gradient_are_finite_everywhere() -> None:
    corners = torch.tensor([[r, g, b] for r in (0.0, 1) for g in (0.0, 1) for b in (0.0, 1)])
    image = torch.cat((corners.T.view(1, 3, 1, 8), flat(SHADES["red"][0], 8)[:, :, :1]), 2).requires_grad_()
    for word in COLOURS:
        depth(image, word).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("word", ["yellow", "blue", "green", "black", "white"])
def test_descending_the_depth_leaves_the_region(word: str) -> None:
    image = flat(SHADES[word][0], 64).requires_grad_()
    term = losses.unpaint(word, 1.0, spare=0.01)
    before = float(term(View(0, image, image)))
    for _ in range(60):
        (slope,) = torch.autograd.grad(term(View(0, image, image)), image)
        image = (image - 0.02 * slope / slope.abs().max().clamp_min(1e-12)).detach().clamp(0, 1).requires_grad_()
    assert before > 0
    assert float(term(View(0, image, image))) < before / 10


def test_a_little_of_a_colour_is_spared() -> None:
    image = flat(SHADES["white"][0], 64)
    image[..., :6, :6] = flat(SHADES["red"][0], 6)  # 0.9 %
    assert float(losses.unpaint("red", 1.0, spare=0.01)(View(0, image, image))) == 0
    assert float(losses.unpaint("red", 1.0, spare=0.005)(View(0, image, image))) > 0


def test_hues_are_called_as_people_call_them() -> None:
    for degrees, word in ((0, "red"), (30, "orange"), (50, "yellow"), (120, "green"), (220, "blue"), (280, "purple")):
        rgb = colorsys.hsv_to_rgb(degrees / 360, 0.85, 0.9)
        assert COLOURS[int(classify(torch.tensor(rgb)))] == word


def test_a_dark_ground_with_a_colour_is_no_black_one() -> None:
    for rgb in ((60, 42, 34), (62, 44, 78), (70, 70, 72)):
        assert float(depth(flat(rgb), "black").max()) < 0 < float(depth(flat((20, 20, 22)), "black").min())


def test_a_term_counts_only_where_its_colour_is() -> None:
    image = flat(SHADES["white"][0], 64).requires_grad_()
    loss = losses.where_painted("red", lambda view: view.image.sum(), spare=0.02)
    value = loss(View(0, image, image))
    value.backward()
    assert float(value.detach()) == 0
    assert image.grad is not None
    assert not image.grad.any()
    red = flat(SHADES["red"][0], 64)
    assert float(loss(View(0, red, red))) == pytest.approx(float(red.sum()))
