"""Include, exclude and extras do their work, measured in pixels (HSV), not by any CLIP."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from vqclip.config import from_mapping
from vqclip.job import Job, Prompt, Step
from vqclip.run.picture import Models, load_models

SEEDS = 10 * int(os.environ.get("VQCLIP_SOAK", "1"))
STEPS = 20
HUES = {"yellow": (40, 70), "green": (80, 165), "blue": (190, 265)}  # degrees


def share(image: Tensor, colour: str) -> float:
    """Share of pixels (3, H, W) that are plainly of a colour: right hue, not pale, not dark."""
    hue, saturation, value = rgb_to_hsv(image[None])[0]
    low, high = HUES[colour]
    degrees = hue * 180 / math.pi
    return float(((degrees >= low) & (degrees <= high) & (saturation > 0.3) & (value > 0.25)).float().mean())


@pytest.fixture(scope="module")
def models() -> Models:
    recipe = {"include": "heart", "judge": None, "tries": 1}  # the size is the job's own, 128 px
    return load_models(from_mapping(recipe, source="test"))


def ends(models: Models, seed: int, **sections: str) -> tuple[Tensor, Tensor]:
    """First and last picture of a short run with one prompt per named section."""
    prompts = {section: (Prompt(text),) for section, text in sections.items()}
    seen: list[Step] = []
    models.backend.generate(Job(**prompts, steps=STEPS, seed=seed), seen.append)
    return seen[0].image, seen[-1].image


def wins(better: Callable[[int], bool]) -> int:
    return sum(better(seed) for seed in range(SEEDS))


def test_including_a_colour_raises_its_share(models: Models) -> None:
    def bluer(seed: int) -> bool:
        first, last = ends(models, seed, include="blue heart")
        return share(last, "blue") > share(first, "blue")

    assert wins(bluer) >= 0.9 * SEEDS


def test_excluding_a_colour_lowers_its_share(models: Models) -> None:
    """With one try and 20 steps three of ten seeds come without any yellow: nothing is there to push out."""
    pairs = []
    for seed in range(SEEDS):
        _, without = ends(models, seed, include="yellow star")
        _, excluded = ends(models, seed, include="yellow star", exclude="yellow")
        pairs.append((share(without, "yellow"), share(excluded, "yellow")))
    plain = [pair for pair in pairs if pair[0] > 0.05]
    assert len(plain) >= 0.6 * SEEDS
    assert sum(after < before for before, after in plain) >= 0.9 * len(plain)
    assert sum(after for _, after in pairs) < sum(before for before, _ in pairs) / 2


def test_an_extra_adds_what_it_names(models: Models) -> None:
    def greener(seed: int) -> bool:
        _, without = ends(models, seed, include="heart")
        _, with_extra = ends(models, seed, include="heart", extras="a green background")
        return share(with_extra, "green") > share(without, "green")

    assert wins(greener) >= 0.9 * SEEDS


def test_pictures_are_finite_and_differ_from_their_start(models: Models) -> None:
    first, last = ends(models, 0, include="blue heart")
    assert bool(torch.isfinite(last).all())
    assert float((first - last).abs().mean()) > 0.02
