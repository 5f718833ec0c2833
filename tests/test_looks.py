"""Looks: words whose meaning can be measured, and terms whose descent brings a picture to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from vqclip.loop.looks import NAMES, appear, look_of
from vqclip.loop.losses import View


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("flat", "flat"), (" Flat. ", "flat"), ("Pastel colours", "pastel"), ("grayscale", "greyscale"),
        ("a flat tyre", None), ("dark horse", None), ("one colour", "one colour"), ("oil painting", None), ("", None),
    ],
)  # fmt: skip
def test_looks_are_read_from_texts_that_name_nothing_else(text: str, look: str | None) -> None:
    assert look_of(text) == look


def picture() -> Tensor:
    """A shaded picture (1, 3, 64, 64) of two hues with an edge between them."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 64, 64, generator=rng) * 0.08 + 0.2
    image[:, 0, :, :40] += 0.4
    image[:, 2, :, 40:] += 0.35
    return image + torch.linspace(0, 0.2, 64).view(1, 1, 64, 1)


def descended(look: str, image: Tensor) -> Tensor:
    term = appear(look, 1.0)
    for _ in range(40):
        image = image.detach().requires_grad_()
        (slope,) = torch.autograd.grad(term(View(0, image, image)), image)
        assert torch.isfinite(slope).all()
        image = (image - 0.02 * slope / slope.abs().max().clamp_min(1e-9)).clamp(0, 1)
    return image.detach()


def saturation(image: Tensor) -> float:
    return float(rgb_to_hsv(image)[:, 1].mean())


def grain(image: Tensor) -> float:
    steps = image.diff(dim=-2).abs()
    return float(steps[steps < 0.1].mean())


@pytest.mark.parametrize(
    ("look", "measure", "sign"),
    [
        ("greyscale", saturation, -1), ("vivid", saturation, 1), ("pastel", saturation, -1), ("flat", grain, -1),
        ("dark", lambda image: float(image.mean()), -1), ("bright", lambda image: float(image.mean()), 1),
        ("one colour", lambda image: float((image[:, 2, :, 40:] - image[:, 0, :, 40:]).mean()), -1),
    ],
)  # fmt: skip
def test_descent_brings_the_look(look: str, measure: Callable[[Tensor], float], sign: int) -> None:
    before, after = picture(), descended(look, picture())
    assert sign * (measure(after) - measure(before)) > 0.05 * abs(measure(before))


def test_flatness_keeps_edges() -> None:
    before, after = picture(), descended("flat", picture())
    edges = [float((image[:, :, :, 39] - image[:, :, :, 40]).abs().mean()) for image in (before, after)]
    assert edges[1] > 0.8 * edges[0]


@pytest.mark.parametrize("look", NAMES)
def test_weights_scale_and_terms_wait_for_their_step(look: str) -> None:
    image = picture()
    one, two = (float(appear(look, weight)(View(0, image, image))) for weight in (1.0, 2.0))
    assert two == pytest.approx(2 * one)
    assert one > 0
    assert [float(appear(look, 1.0, first=3)(View(step, image, image))) > 0 for step in (2, 3)] == [False, True]
