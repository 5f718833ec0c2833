"""What is done in one way on every device: a step's numbers in one copy, seeded generators, sampling of a picture.

Knows tensors alone; `docs/devices.md` says what was run where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

# Of these the pinned torch has no gradient of grid_sample.
WITHOUT_GRID_SAMPLE: Final = frozenset({"mps"})


def in_one_copy(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors of any shape as float32 on a device, in their order; the host does not wait for CUDA.

    A tensor of whole numbers below 2^24 keeps them exactly.
    """
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    if device.type == "cuda":  # from pinned memory the copy is queued; torch keeps that memory until it is made
        flat = flat.pin_memory()
    flat = flat.to(device, non_blocking=device.type == "cuda")
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """A generator that draws on a device; the numbers of one seed differ between kinds of devices."""
    return torch.Generator(device).manual_seed(seed)


def sample_at(picture: Tensor, grid: Tensor, mode: str, padding: str, *, align_corners: bool) -> Tensor:
    """What one picture shows at N grids, (N, C, h, w): the numbers of torch's grid_sample, also on devices without it.

    Args:
        picture: (1, C, H, W).
        grid: (N, h, w, 2) of x, y in [-1, 1]; it has no gradient on devices in `WITHOUT_GRID_SAMPLE`.
        mode: "bilinear" or "nearest".
        padding: "border", "reflection" or "zeros".
        align_corners: whether -1 and 1 are the centres of the outermost pixels or their outer edges.
    """
    if picture.device.type in WITHOUT_GRID_SAMPLE:
        return gathered(picture, grid, mode, padding, align_corners=align_corners)
    spread = picture.expand(len(grid), -1, -1, -1)
    return F.grid_sample(spread, grid, mode, padding, align_corners=align_corners)


def gathered(picture: Tensor, grid: Tensor, mode: str, padding: str, *, align_corners: bool) -> Tensor:
    """`sample_at`, (N, C, h, w), by looking up pixels one by one, whose gradient every device has."""
    height, width = picture.shape[-2:]
    x, y = (
        _place(grid[..., axis], length, padding, align_corners=align_corners)
        for axis, length in enumerate((width, height))
    )
    pixels = picture[0].flatten(1)  # (C, H * W)
    if mode == "nearest":
        return _look_up(pixels, x.round(), y.round(), (height, width))
    left, top = x.floor(), y.floor()
    right, low = x - left, y - top  # shares of the pixels on the right and below
    return (
        _look_up(pixels, left, top, (height, width)) * ((1 - right) * (1 - low))[:, None]
        + _look_up(pixels, left + 1, top, (height, width)) * (right * (1 - low))[:, None]
        + _look_up(pixels, left, top + 1, (height, width)) * ((1 - right) * low)[:, None]
        + _look_up(pixels, left + 1, top + 1, (height, width)) * (right * low)[:, None]
    )


def _place(at: Tensor, length: int, padding: str, *, align_corners: bool) -> Tensor:
    """Coordinates in [-1, 1] as pixels along an axis of `length`, brought inside where the padding does that."""
    pixel = (at + 1) / 2 * (length - 1) if align_corners else ((at + 1) * length - 1) / 2
    if padding == "zeros":
        return pixel
    if padding == "reflection":  # at the outermost pixels' centres, or at their outer edges
        first, span = (0.0, length - 1) if align_corners else (-0.5, length)
        away = (pixel - first).abs().remainder(2 * span) if span else torch.zeros_like(pixel)
        pixel = first + torch.minimum(away, 2 * span - away)
    return pixel.clamp(0, length - 1)


def _look_up(pixels: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H * W) at whole x, y (N, h, w) -> (N, C, h, w); 0 outside."""
    height, width = size
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    found = pixels.index_select(1, index.long().flatten()).view(-1, *x.shape).transpose(0, 1)
    return found * inside[:, None]
