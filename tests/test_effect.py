"""Include, exclude and extras do their work, measured in pixels (HSV), not by any CLIP."""

from __future__ import annotations

import math
import os

import pytest
import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from vqclip.config import from_mapping
from vqclip.job import Job, Prompt, Step
from vqclip.run.picture import Models, load_models

SEEDS = 10 * int(os.environ.get("VQCLIP_SOAK", "1"))
STEPS = 20
SIZE = (64, 64)  # pixels; a run takes three quarters of what it takes at 128
HUES = {"green": (80, 165), "blue": (190, 265)}  # degrees


def share(image: Tensor, colour: str) -> float:
    """Share of pixels (3, H, W) that are plainly of a colour: right hue, not pale, not dark."""
    hue, saturation, value = rgb_to_hsv(image[None])[0]
    low, high = HUES[colour]
    degrees = hue * 180 / math.pi
    return float(((degrees >= low) & (degrees <= high) & (saturation > 0.3) & (value > 0.25)).float().mean())


@pytest.fixture(scope="module")
def models() -> Models:
    recipe = {"include": "heart", "judge": None, "tries": 1}  # the size is the job's own
    return load_models(from_mapping(recipe, source="test"))


def ends(models: Models, seed: int, **sections: str) -> tuple[Tensor, Tensor]:
    """First and last picture of a short run with one prompt per named section."""
    prompts = {section: (Prompt(text),) for section, text in sections.items()}
    seen: list[Step] = []
    models.backend.generate(Job(**prompts, size=SIZE, steps=STEPS, seed=seed), seen.append)
    return seen[0].image, seen[-1].image


@pytest.fixture(scope="module")
def blue_hearts(models: Models) -> list[tuple[Tensor, Tensor]]:
    """First and last picture of "blue heart" by seed, for all tests that begin from it."""
    return [ends(models, seed, include="blue heart") for seed in range(SEEDS)]


def test_including_a_colour_raises_its_share(blue_hearts: list[tuple[Tensor, Tensor]]) -> None:
    assert sum(share(last, "blue") > share(first, "blue") for first, last in blue_hearts) >= 0.9 * SEEDS


def test_excluding_a_colour_lowers_its_share(models: Models) -> None:
    """With one try and 20 steps two of ten seeds come without any green: nothing is there to push out."""
    pairs = []
    for seed in range(SEEDS):
        _, without = ends(models, seed, include="a leaf")
        _, excluded = ends(models, seed, include="a leaf", exclude="green")
        pairs.append((share(without, "green"), share(excluded, "green")))
    plain = [pair for pair in pairs if pair[0] > 0.05]
    assert len(plain) >= 0.6 * SEEDS
    assert sum(after < before for before, after in plain) >= 0.9 * len(plain)
    assert sum(after for _, after in pairs) < sum(before for before, _ in pairs) / 2


def test_an_extra_adds_what_it_names(models: Models, blue_hearts: list[tuple[Tensor, Tensor]]) -> None:
    def greener(seed: int) -> bool:
        _, with_extra = ends(models, seed, include="blue heart", extras="a green background")
        return share(with_extra, "green") > share(blue_hearts[seed][1], "green")

    assert sum(greener(seed) for seed in range(SEEDS)) >= 0.9 * SEEDS


def test_pictures_are_finite_and_differ_from_their_start(blue_hearts: list[tuple[Tensor, Tensor]]) -> None:
    for first, last in blue_hearts:
        assert bool(torch.isfinite(last).all())
        assert float((first - last).abs().mean()) > 0.02
