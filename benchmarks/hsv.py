"""Colour words as regions of HSV: what checks of colours in pictures count by, and the loop does not."""

from __future__ import annotations

import math

import torch
from kornia.color import rgb_to_hsv
from torch import Tensor

from vqclip.grammar import COLOURS


def masks(image: Tensor) -> Tensor:
    """(11, H, W) bool: which pixels of (3, H, W) in [0, 1] are plainly of each of `COLOURS`; some are of none."""
    hue, saturation, value = rgb_to_hsv(image[None].clamp(0, 1))[0]
    degrees = hue * 180 / math.pi
    vivid = (saturation > 0.3) & (value > 0.25)
    brown = vivid & (degrees > 10) & (degrees < 45) & (value < 0.65)
    rosy = ((degrees >= 345) | (degrees < 12)) & (saturation < 0.6) & (value > 0.8)
    pink = vivid & (((degrees >= 300) & (degrees < 345)) | rosy)
    found = {
        "red": vivid & ((degrees < 12) | (degrees >= 345)) & ~pink & ~brown,
        "orange": vivid & (degrees >= 12) & (degrees < 40) & ~brown,
        "yellow": vivid & (degrees >= 40) & (degrees <= 70) & ~brown,
        "green": vivid & (degrees > 70) & (degrees < 165),
        "blue": vivid & (degrees >= 165) & (degrees < 265),
        "purple": vivid & (degrees >= 265) & (degrees < 300),
        "pink": pink,
        "brown": brown,
        "black": value < 0.2,
        "white": (value > 0.85) & (saturation < 0.12),
        "grey": (saturation < 0.15) & (value >= 0.2) & (value <= 0.85),
    }
    return torch.stack([found[word] for word in COLOURS])


def colour_shares(image: Tensor) -> dict[str, float]:
    """Share of the pixels that are plainly of each colour."""
    return dict(zip(COLOURS, masks(image).flatten(1).float().mean(1).tolist(), strict=True))


def overlaps(first: Tensor, second: Tensor) -> tuple[float, float]:
    """What two pictures have in common of their colours inside and on the rim, an eighth of the sides wide, in [0, 1].

    The sum of the smaller shares of the eleven words and of what has no word.
    """
    rim = torch.ones(first.shape[-2:], dtype=torch.bool)
    down, right = first.shape[-2] // 8, first.shape[-1] // 8
    rim[down:-down, right:-right] = False
    found = []
    for region in (~rim, rim):
        shares = [masks(image)[:, region].float().mean(1) for image in (first, second)]
        rest = [float(1 - each.sum()) for each in shares]
        found.append(float(torch.minimum(*shares).sum()) + min(rest))
    return found[0], found[1]


def thing_and_ground(image: Tensor) -> tuple[str, str]:
    """The commonest colour of a picture's rim, an eighth of its sides wide, and of what has another one inside."""
    found = masks(image)
    rim = torch.ones(image.shape[-2:], dtype=torch.bool)
    down, right = image.shape[-2] // 8, image.shape[-1] // 8
    rim[down:-down, right:-right] = False
    ground = int(found[:, rim].sum(1).argmax())
    inside = found[:, ~rim].sum(1)
    inside[ground] = 0
    return COLOURS[int(inside.argmax())], COLOURS[ground]
