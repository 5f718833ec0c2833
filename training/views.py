"""Turns icons into training pictures: colour variants, backgrounds and the optimization loop's kind of crops.

Knows what is true of each picture (name, colour, background, style) but writes no sentence about it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from training.captions import BACKGROUNDS, Meaning
from training.colours import SHADES, name_colour, recolour, tint
from training.concepts import COLOURS
from training.data import Icons
from training.sources import STYLES


@dataclass(frozen=True)
class Crops:
    """The geometry and noise of the crops: how much of the icon shows, and how strongly it is disturbed."""

    scale: tuple[float, float] = (0.7, 1.15)  # size of the window in units of the picture
    turn: float = 10.0  # degrees, either way
    shift: float = 0.08  # of the picture's side
    perspective: float = 0.12
    flip: float = 0.25
    noise: float = 0.04
    haze: float = 0.0  # share of the pictures with noise of up to `fog` on top: then only large areas can be trusted
    fog: float = 0.5
    erase: float = 0.15
    jitter: float = 0.08
    white: float = 0.35
    gradient: float = 0.15


@dataclass(frozen=True)
class Bank:
    """Every colour variant of every icon; `pixels` is (M, side, side, 4) uint8 with premultiplied alpha."""

    pixels: torch.Tensor
    truths: list[Meaning]
    icons: torch.Tensor  # (M,) which icon a variant shows; variant 0 of an icon is the untouched one
    original: torch.Tensor  # (M,) bool

    def to(self, device: torch.device) -> Bank:
        """The same with the pixels there, where the views are then made."""
        return replace(self, pixels=self.pixels.to(device))


def make_bank(icons: Icons, *, side: int, variants: int, seed: int) -> Bank:
    """Draws the colour variants once, so that a training step only has to look them up.

    Args:
        icons: named concepts.
        side: pixels of a variant; a little more than the crops have.
        variants: recoloured copies per icon, each towards another colour word; 0 keeps the originals alone.
        seed: chooses the colours.
    """
    rng = np.random.default_rng(seed)
    pixels, truths, owners, original = [], [], [], []
    for place, (label, style) in enumerate(zip(icons.names, icons.styles, strict=True)):
        rgba = torch.from_numpy(np.ascontiguousarray(icons.pixels[place])).float() / 255
        versions = _variants(rgba, ink=STYLES[style].ink, count=variants, rng=rng)
        for number, (version, colour) in enumerate(versions):
            pixels.append(_shrink(version, side))
            truths.append(Meaning(label, colour, "", STYLES[style].words))
            owners.append(place)
            original.append(number == 0)
    return Bank(torch.stack(pixels), truths, torch.tensor(owners), torch.tensor(original))


def _variants(rgba: torch.Tensor, *, ink: bool, count: int, rng: np.random.Generator) -> list[tuple[torch.Tensor, str]]:
    words = [str(word) for word in rng.permutation(COLOURS)]
    if ink:
        return [(tint(rgba, word, int(rng.integers(9))), word) for word in words[: count + 1]]
    own = name_colour(rgba[None])[0]
    versions = [(rgba, own)]
    if name_colour(rgba[None], 0.4)[0]:
        for word in [word for word in words if word != own][:count]:
            turned = recolour(rgba, word)
            if name_colour(turned[None])[0] == word:  # keep only what a second look calls by that name
                versions.append((turned, word))
    return versions


def _shrink(rgba: torch.Tensor, side: int) -> torch.Tensor:
    premultiplied = torch.cat((rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]), -1).permute(2, 0, 1)[None]
    small = F.interpolate(premultiplied, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return (small[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8)


def make_views(
    bank: Bank, rows: torch.Tensor, crops: Crops, *, size: int, rng: torch.Generator
) -> tuple[torch.Tensor, list[Meaning]]:
    """Pictures of the chosen variants and what is true of each.

    Args:
        bank: colour variants.
        rows: (B,) int64 into the bank.
        crops: geometry and noise.
        size: side of the square pictures.
        rng: CPU generator; one seed gives the same pictures on every device.

    Returns:
        (B, 3, size, size) float32 in [0, 1] and B meanings. A two-colour background is left unnamed.
    """
    device = bank.pixels.device
    picture = bank.pixels[rows.to(device)].permute(0, 3, 1, 2).float() / 255
    grid = homographies(len(rows), crops, size, rng).to(device)
    warped = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    truths = [bank.truths[row] for row in rows.tolist()]
    ground, words = _grounds(truths, crops, size, rng)
    image = warped[:, :3] + (1 - warped[:, 3:]) * ground.to(device)
    image = disturb(image, crops, rng)
    return image, [replace(truth, background=word) for truth, word in zip(truths, words, strict=True)]


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=rng) * (high - low) + low


def homographies(count: int, crops: Crops, size: int, rng: torch.Generator) -> torch.Tensor:
    """(B, size, size, 2) sampling grids: a turned, shifted, slightly tilted square window on the picture."""
    scale = _uniform((count,), *crops.scale, rng)
    turn = _uniform((count,), -crops.turn, crops.turn, rng) * math.pi / 180
    shift = _uniform((count, 2), -1, 1, rng) * 2 * crops.shift
    flip = torch.where(torch.rand(count, generator=rng) < crops.flip, -1.0, 1.0)
    tilt = _uniform((count, 2), -crops.perspective, crops.perspective, rng)
    matrix = torch.zeros(count, 3, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = scale * turn.cos() * flip, -scale * turn.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = scale * turn.sin() * flip, scale * turn.cos()
    matrix[:, :2, 2], matrix[:, 2, :2], matrix[:, 2, 2] = shift, tilt, 1.0
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3) @ matrix.transpose(1, 2)
    return (points[..., :2] / points[..., 2:]).reshape(count, size, size, 2)


def _shades(words: list[str], rng: torch.Generator) -> torch.Tensor:
    """(B, 3) one shade of each colour word, moved a little."""
    picks = torch.randint(0, 60, (len(words),), generator=rng).tolist()
    flat = [SHADES[word][pick % len(SHADES[word])] for word, pick in zip(words, picks, strict=True)]
    return (torch.tensor(flat) / 255 + _uniform((len(words), 3), -0.05, 0.05, rng)).clamp(0, 1)


def _grounds(truths: list[Meaning], crops: Crops, size: int, rng: torch.Generator) -> tuple[torch.Tensor, list[str]]:
    """Backgrounds (B, 3, size, size) with their names; a thing never stands on a ground of its own colour."""
    kinds = torch.rand(len(truths), generator=rng).tolist()
    picks = torch.randint(0, 110, (2, len(truths)), generator=rng).tolist()
    first, second, words = [], [], []
    for truth, kind, one, two in zip(truths, kinds, *picks, strict=True):
        free = [word for word in BACKGROUNDS if word != truth.colour]
        plain = kind < crops.white and truth.colour != "white"
        word = "white" if plain else free[one % len(free)]
        mixed = not plain and kind > 1 - crops.gradient
        first.append(word)
        second.append(free[two % len(free)] if mixed else word)
        words.append("" if mixed and second[-1] != word else word)
    start, end = _shades(first, rng), _shades(second, rng)
    same = torch.tensor([one == two for one, two in zip(first, second, strict=True)])
    end = torch.where(same[:, None], start, end)
    white = torch.tensor([word == "white" for word in words]) & (torch.rand(len(words), generator=rng) < 0.7)
    start, end = (torch.where(white[:, None], 1.0, colour) for colour in (start, end))
    angle = _uniform((len(truths), 1, 1), 0, 2 * math.pi, rng)
    line = torch.linspace(-0.5, 0.5, size)
    ramp = (line[None, None] * angle.cos() + line[None, :, None] * angle.sin() + 0.5).clamp(0, 1)[:, None]
    return start[:, :, None, None] * (1 - ramp) + end[:, :, None, None] * ramp, words


def disturb(image: torch.Tensor, crops: Crops, rng: torch.Generator) -> torch.Tensor:
    """Brightness and contrast, noise, and one erased rectangle on some of the pictures (N, 3, S, S), then `cloud`."""
    count, device, size = len(image), image.device, image.shape[-1]
    gain = 1 + _uniform((count, 3, 1, 1), -crops.jitter / 2, crops.jitter / 2, rng)
    bias = _uniform((count, 1, 1, 1), -crops.jitter, crops.jitter, rng) / 2
    noise = torch.randn(image.shape, generator=rng) * _uniform((count, 1, 1, 1), 0, crops.noise, rng)
    image = image * gain.to(device) + (bias + noise).to(device)
    corner, side = torch.rand(count, 2, generator=rng), _uniform((count, 2), 0.1, 0.35, rng)
    side = side * (torch.rand(count, 1, generator=rng) < crops.erase)
    line = torch.arange(size) / size
    hole = (line >= corner[..., None]) & (line < (corner + side)[..., None])
    mask = (hole[:, 0, :, None] & hole[:, 1, None, :])[:, None].to(device)
    whole = torch.where(mask, torch.rand(count, 3, 1, 1, generator=rng).to(device), image).clamp(0, 1)
    return cloud(whole, crops, rng)


def cloud(image: torch.Tensor, crops: Crops, rng: torch.Generator) -> torch.Tensor:
    """Strong noise, not clipped, on a share of the pictures (N, 3, H, W): edges drown in it, the
    colour of areas does not.

    Without it guides look at outlines alone and leave the inside of things as it was.
    """
    if not crops.haze:
        return image
    count = len(image)
    strength = _uniform((count, 1, 1, 1), 0, crops.fog, rng) * (torch.rand(count, 1, 1, 1, generator=rng) < crops.haze)
    return image + (torch.randn(image.shape, generator=rng) * strength).to(image.device)
