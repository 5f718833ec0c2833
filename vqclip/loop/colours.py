"""The eleven basic colour words as regions of colour: how far inside one a pixel lies, and which one it is in."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from vqclip.grammar import COLOURS

# Typical shades of each basic colour word (Berlin and Kay 1969), sRGB 0-255; the first is the one that things are
# recoloured to. A colour is called by the word of the nearest shade.
SHADES: Final = {
    "red": ((215, 35, 40), (170, 20, 30), (240, 80, 75)),
    "orange": ((245, 130, 30), (225, 105, 20), (255, 160, 60)),
    "yellow": ((255, 210, 50), (250, 225, 110), (255, 195, 50)),
    "green": ((60, 160, 65), (25, 95, 45), (140, 200, 70), (30, 190, 130)),
    "blue": ((45, 105, 220), (95, 175, 240), (30, 55, 130), (60, 200, 220)),
    "purple": ((140, 65, 185), (175, 130, 220), (95, 40, 130)),
    "pink": ((245, 120, 180), (250, 170, 200), (235, 65, 145)),
    "brown": ((130, 80, 45), (90, 55, 40), (170, 115, 75)),
    "black": ((25, 25, 28), (55, 55, 60)),
    "white": ((250, 250, 250), (232, 235, 238)),
    "grey": ((145, 148, 152), (105, 108, 112), (190, 193, 197)),
}
# Deep shades, by which a thing is still called when it shall have none of a colour; names are given by SHADES alone.
# A dark ground with a colour is no black one: of black's own shades only the deepest counts then.
DEEP: Final = {
    "red": ((95, 15, 22),), "yellow": ((150, 125, 30),), "green": ((20, 60, 35),), "blue": ((22, 32, 75),),
    "purple": ((58, 40, 88), (66, 46, 72)), "brown": ((62, 42, 32),), "grey": ((70, 70, 74),),
}  # fmt: skip
# CIE 15: linear sRGB to XYZ over the D65 white, then L*a*b*.
TO_XYZ: Final = ((0.4339, 0.3763, 0.1899), (0.2126, 0.7152, 0.0722), (0.0177, 0.1095, 0.8728))
_HALF: Final = (0.5, 1.0, 1.0)  # of a difference in lightness counts half: light and shade do not change the word


def to_lab(rgb: Tensor) -> Tensor:
    """(..., 3) sRGB in [0, 1] -> L*a*b* with L in [0, 100]; differentiable, black included."""
    safe = rgb.clamp_min(1e-4)
    linear = torch.where(rgb > 0.04045, ((safe + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ _constant(TO_XYZ, linear.device, linear.dtype).T
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def classify(rgb: Tensor) -> Tensor:
    """(..., 3) sRGB in [0, 1] -> index into COLOURS of the nearest shade."""
    pixels = _spread(rgb).reshape(-1, 3)
    shades, words = _table_at(pixels.device, pixels.dtype)
    distance = torch.cdist(pixels, shades)
    return words[distance.argmin(1)].reshape(rgb.shape[:-1])


def depth(image: Tensor, word: str) -> Tensor:
    """How far inside the region of a colour word each pixel lies, in units of L*a*b*; differentiable.

    The distance to the nearest shade of another word less that to the nearest of this one: positive where a pixel
    is called by the word, 0 at the border, negative outside.

    Args:
        image: (B, 3, H, W) in [0, 1]; values outside are taken as the nearest inside.
        word: one of COLOURS.

    Returns:
        (B, H, W).
    """
    pixels = _spread(image.clamp(0, 1).movedim(1, -1)).flatten(0, -2)  # (B*H*W, 3)
    shades, own, others = _sides_of(word, pixels.device, pixels.dtype)
    square = pixels.square().sum(1, keepdim=True) - 2 * pixels @ shades.T + shades.square().sum(1)
    distance = square.clamp_min(1e-3).sqrt()
    inside = distance.index_select(1, others).amin(1) - distance.index_select(1, own).amin(1)
    return inside.view(image.shape[0], *image.shape[2:])


def _spread(rgb: Tensor) -> Tensor:
    return to_lab(rgb) * _constant(_HALF, rgb.device, rgb.dtype)


# Tables are made once for each device: a step that copied them would wait for the copy.
@cache
def _constant(numbers: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)


@cache
def _table_at(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shades, words = _shades()
    return shades.to(device, dtype), words.to(device)


@cache
def _sides_of(word: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(S, 3) all shades, and which of them are a word's and which are not."""
    shades, words = _all_shades()
    own = words == COLOURS.index(word)
    return shades.to(device, dtype), own.nonzero()[:, 0].to(device), (~own).nonzero()[:, 0].to(device)


@cache
def _shades() -> tuple[Tensor, Tensor]:
    """(S, 3) scaled L*a*b* of all shades and (S,) the index of their words."""
    return _table([(word, shade) for word, shades in SHADES.items() for shade in shades])


@cache
def _all_shades() -> tuple[Tensor, Tensor]:
    """The same with the deep ones, and of black the deepest alone."""
    usual = [(word, shade) for word, shades in SHADES.items() for shade in (shades[:1] if word == "black" else shades)]
    return _table([*usual, *((word, shade) for word, shades in DEEP.items() for shade in shades)])


def _table(named: list[tuple[str, tuple[int, int, int]]]) -> tuple[Tensor, Tensor]:
    flat = torch.tensor([shade for _, shade in named]) / 255
    return _spread(flat), torch.tensor([COLOURS.index(word) for word, _ in named])
