"""Names the dominant colour of an icon and turns icons into other colours; knows nothing of captions."""

from __future__ import annotations

import torch

from vqclip.grammar import COLOURS
from vqclip.loop.colours import SHADES, TO_XYZ, classify, to_lab

_TO_XYZ = torch.tensor(TO_XYZ)


def from_lab(lab: torch.Tensor) -> torch.Tensor:
    """L*a*b* -> (..., 3) sRGB, clipped to [0, 1]."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), -1)
    xyz = torch.where(f > 0.2069, f**3, (f - 16 / 116) / 7.787)
    linear = (xyz @ torch.linalg.inv(_TO_XYZ).T).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear)


def measure(rgba: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The dominant colour of pictures.

    Args:
        rgba: (N, H, W, 4) float in [0, 1], straight alpha.

    Returns:
        (N,) int64 index into COLOURS and (N,) its share of the opaque area. Black counts half: outlines are
        part of the drawing style.
    """
    words = classify(rgba[..., :3]).flatten(1)
    weight = rgba[..., 3].flatten(1) * torch.where(words == COLOURS.index("black"), 0.5, 1.0)
    area = torch.zeros(len(rgba), len(COLOURS)).scatter_add_(1, words, weight)
    share, word = (area / area.sum(1, keepdim=True).clamp_min(1e-6)).max(1)
    return word, share


def name_colour(rgba: torch.Tensor, least: float = 0.5) -> list[str]:
    """The colour word of each of (N, H, W, 4) pictures as in `measure`, "" where none fills that share of it."""
    words, shares = measure(rgba)
    return [
        COLOURS[word] if share >= least else "" for word, share in zip(words.tolist(), shares.tolist(), strict=True)
    ]


def recolour(rgba: torch.Tensor, target: str) -> torch.Tensor:
    """One icon with its dominant colour turned into another.

    Pixels near the dominant colour's hue (or, for black, white and grey, near its lightness) move to the
    target's hue and take its lightness on average; the drawing's own light and shade stay as differences.

    Args:
        rgba: (H, W, 4) float in [0, 1], straight alpha.
        target: a word of COLOURS.
    """
    lab = to_lab(rgba[..., :3])
    word, _ = measure(rgba[None])
    inside = (classify(rgba[..., :3]) == word) & (rgba[..., 3] > 0.5)
    centre = lab[inside].mean(0) if inside.any() else lab.mean((0, 1))
    goal = to_lab(torch.tensor(SHADES[target][0]) / 255)
    chroma, centre_chroma = lab[..., 1:].norm(dim=-1), centre[1:].norm()
    if centre_chroma > 15:
        turn = (lab[..., 1:] @ centre[1:]) / (chroma * centre_chroma).clamp_min(1e-3)  # cosine of the hue angle
        weight = torch.sigmoid((turn - 0.8) * 25) * torch.sigmoid((chroma - 12) * 0.5)
        strength = (chroma / centre_chroma).clamp(0.3, 1.3)
    else:
        off = ((lab[..., 0] - centre[0]).abs() - 22) * 0.3 + (chroma - 15) * 0.3
        weight, strength = torch.sigmoid(-off), torch.ones_like(chroma)
    contrast = 0.5 if target in ("black", "white") else 0.8
    lightness = goal[0] + contrast * (lab[..., 0] - centre[0])
    turned = torch.stack((lightness.clamp(3, 99), goal[1] * strength, goal[2] * strength), -1)
    mixed = lab + weight[..., None] * (turned - lab)
    return torch.cat((from_lab(mixed), rgba[..., 3:]), -1)


def tint(rgba: torch.Tensor, target: str, shade: int = 0) -> torch.Tensor:
    """A one-colour drawing (..., 4) in [0, 1] in another ink; only alpha carries its shape."""
    ink = torch.tensor(SHADES[target][shade % len(SHADES[target])]) / 255
    return torch.cat((ink.expand(*rgba.shape[:-1], 3), rgba[..., 3:]), -1)
