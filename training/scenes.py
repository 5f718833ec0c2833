"""Composes the VQGAN's training pictures: icons of any set, recoloured and placed on plain, mixed and cloudy grounds.

Knows no names and no captions: the VQGAN only has to draw what it is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import Icons
from training.sources import STYLES


@dataclass(frozen=True)
class Palette:
    """How often each kind of picture comes, as shares of 1."""

    white: float = 0.3
    gradient: float = 0.15
    clouds: float = 0.1  # smooth random colours behind the icon
    empty: float = 0.06  # clouds with no icon: what the optimization loop starts from
    second: float = 0.3  # another icon over the first
    recoloured: float = 0.3


@dataclass(frozen=True)
class Stock:
    """Icons as (N, 128, 128, 4) uint8 with straight alpha, and (N,) bool: drawn in one colour."""

    pixels: Tensor
    ink: Tensor


def make_stock(icons: Icons, device: torch.device) -> Stock:
    """All icons on one device; an H200 and a CPU hold the 13,000 of them (0.9 GB) alike."""
    ink = torch.tensor([STYLES[style].ink for style in icons.styles])
    return Stock(torch.from_numpy(icons.pixels).to(device), ink)


def compose(stock: Stock, count: int, size: int, rng: torch.Generator, *, canvas: int = 128) -> Tensor:
    """Random training pictures.

    Args:
        stock: where the icons come from.
        count: B.
        size: side of the pictures in pixels.
        rng: CPU generator; every number is drawn from it.
        canvas: side in pixels of the whole scene that each picture is a window of; icons fill half of it or more.

    Returns:
        (B, 3, size, size) float32 in [0, 1] on the stock's device.
    """
    palette, device = Palette(), stock.pixels.device
    rows = torch.randint(len(stock.pixels), (2, count), generator=rng)
    window = _window(count, size / canvas, rng)
    image = draw_grounds(count, size, rng, palette).to(device)
    shown = torch.stack((
        torch.rand(count, generator=rng) >= palette.empty, torch.rand(count, generator=rng) < palette.second,
    )) & (torch.rand(count, generator=rng) >= palette.empty)  # fmt: skip
    for layer, seen in zip(rows, shown, strict=True):
        icon = _colour(stock, layer, palette, rng)
        grid = _place(count, size, window, rng).to(device)
        drawn = F.grid_sample(icon, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        drawn = drawn * seen.to(device)[:, None, None, None]
        image = image * (1 - drawn[:, 3:]) + drawn[:, :3]
    return image.clamp(0, 1)


def present(stock: Stock, rows: Tensor, size: int, rng: torch.Generator, *, white: bool) -> Tensor:
    """(B, 3, size, size) in [0, 1]: the icons of `rows` whole and upright, for measuring, on white or on colours."""
    icon = _premultiply(stock.pixels[rows.to(stock.pixels.device)])
    if size != icon.shape[-1]:
        icon = F.interpolate(icon, (size, size), mode="bilinear", align_corners=False, antialias=True)
    ground = torch.ones(len(rows), 3, size, size) if white else draw_grounds(len(rows), size, rng, Palette(white=0))
    return (ground.to(icon.device) * (1 - icon[:, 3:]) + icon[:, :3]).clamp(0, 1)


def draw_clouds(count: int, size: int, rng: torch.Generator) -> Tensor:
    """(B, 3, size, size) smooth random colours in [0, 1], 2 to 8 blobs along a side, of any contrast."""
    fields = []
    for _ in range(count):
        cells = int(torch.randint(2, 9, (), generator=rng))
        coarse = torch.rand(1, 3, cells, cells, generator=rng)
        field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
        fields.append(0.5 + (0.3 + float(torch.rand((), generator=rng))) * (field - 0.5))
    return torch.cat(fields).clamp(0, 1)


def draw_grounds(count: int, size: int, rng: torch.Generator, palette: Palette) -> Tensor:
    """(B, 3, size, size) grounds: white, one colour, a ramp between two colours, or clouds."""
    kind = torch.rand(count, generator=rng)
    white = kind < palette.white
    mixed = kind > 1 - palette.gradient
    clouds = (kind >= palette.white) & (kind < palette.white + palette.clouds)
    start, end = (_colours(count, rng) for _ in range(2))
    end = torch.where(mixed[:, None], end, start)
    angle = torch.rand(count, 1, 1, generator=rng) * 2 * math.pi
    line = torch.linspace(-0.5, 0.5, size)
    ramp = (line[None, None] * angle.cos() + line[None, :, None] * angle.sin() + 0.5).clamp(0, 1)[:, None]
    ground = start[:, :, None, None] * (1 - ramp) + end[:, :, None, None] * ramp
    ground[clouds] = draw_clouds(int(clouds.sum()), size, rng) if clouds.any() else ground[clouds]
    ground[white] = 1.0
    return ground


def _colours(count: int, rng: torch.Generator) -> Tensor:
    """(B, 3) any colour, the corners of the cube (pure red, black, ...) a little more often."""
    return (torch.rand(count, 3, generator=rng) * 1.3 - 0.15).clamp(0, 1)


def _colour(stock: Stock, rows: Tensor, palette: Palette, rng: torch.Generator) -> Tensor:
    """(B, 4, 128, 128) premultiplied icons; some with swapped channels and gains, one-colour sets in any colour."""
    count, device = len(rows), stock.pixels.device
    icon = stock.pixels[rows.to(device)]
    ink = stock.ink[rows] & (torch.rand(count, generator=rng) < 0.9)
    turned = torch.rand(count, generator=rng) < palette.recoloured
    order = torch.rand(count, 3, generator=rng).argsort(1)
    order = torch.where(turned[:, None], order, torch.arange(3))
    gain = torch.where(turned[:, None], 0.6 + 0.6 * torch.rand(count, 3, generator=rng), 1.0)
    pixels = _premultiply(icon)
    order, gain = (each.to(device)[:, :, None, None] for each in (order, gain))
    colour = torch.take_along_dim(pixels[:, :3], order, 1) * gain
    tint = _colours(count, rng).to(device)[:, :, None, None] * pixels[:, 3:]
    colour = torch.where(ink.to(device)[:, None, None, None], tint, torch.minimum(colour, pixels[:, 3:]))
    return torch.cat((colour, pixels[:, 3:]), 1)


def _premultiply(icon: Tensor) -> Tensor:
    pixels = icon.permute(0, 3, 1, 2).float() / 255
    return torch.cat((pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]), 1)


def _window(count: int, share: float, rng: torch.Generator) -> tuple[Tensor, float]:
    """Centres (B, 2) of the windows in scene coordinates [-1, 1], and their half size."""
    share = min(share, 1.0)
    return (torch.rand(count, 2, generator=rng) * 2 - 1) * (1 - share), share


def _place(count: int, size: int, window: tuple[Tensor, float], rng: torch.Generator) -> Tensor:
    """(B, size, size, 2) sampling grids into the icon, which is scaled, turned, flipped and shifted in the scene."""
    centre, half = window
    scale = 0.5 + 0.65 * torch.rand(count, 1, 1, generator=rng)  # icon's side in units of the scene's
    turn = (torch.rand(count, 1, 1, generator=rng) * 2 - 1) * math.pi / 6
    flip = torch.where(torch.rand(count, 1, 1, generator=rng) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=rng) * 2 - 1) * 0.35
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * half
    x = (line[None, None, :] + (centre - shift)[:, 0, None, None]) / scale
    y = (line[None, :, None] + (centre - shift)[:, 1, None, None]) / scale
    return torch.stack(((x * turn.cos() - y * turn.sin()) * flip, x * turn.sin() + y * turn.cos()), -1)
