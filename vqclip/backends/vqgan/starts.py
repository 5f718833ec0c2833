"""Sizes and pictures that a run of the loop sets out from: halves, enlargements, blurred colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def half(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """About half of (width, height), in whole latent cells, at least four of them."""
    width, height = (max(4, round(side / 2 / stride)) * stride for side in size)
    return width, height


def enlarge(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, h, w) -> (B, 3, H, W) for `size` = (width, height), bicubic, in [0, 1]."""
    return F.interpolate(image, size[::-1], mode="bicubic", align_corners=False).clamp(0, 1)


def smooth_colours(size: tuple[int, int], cells: int, contrast: float, *, rng: torch.Generator) -> Tensor:
    """Random colours, bicubically blurred: (1, 3, H, W) in [0, 1], about `cells` blobs along the short side.

    Starting from blobs rather than from random codes gives one object instead of texture: the eye of
    a CLIP can then agree with whole regions before it sees detail.
    """
    width, height = size
    short = min(size)
    rows, columns = (max(2, round(cells * side / short)) for side in (height, width))
    coarse = torch.rand(1, 3, rows, columns, generator=rng)
    colours = 0.5 + contrast * (F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False) - 0.5)
    return colours.clamp(0, 1)
