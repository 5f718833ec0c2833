"""Brings any picture to the size that a pipeline can work on, and the result back to the size asked for.

Does not read files (see vqclip.images) and keeps no state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, fromarray
from torch import Tensor
from torch.nn import functional as F

from vqclip import images
from vqclip.job import InputError

FEATHER = 4  # px: the seam of a repainted part fades over twice as many pixels of the kept part


def check_pixels(pixels: Tensor, name: str, channels: int) -> None:
    """Raise InputError unless `pixels` is (1, channels, H, W) floating point in [0, 1]."""
    if pixels.ndim != 4 or pixels.shape[:2] != (1, channels) or not pixels.is_floating_point():
        given = f"{tuple(pixels.shape)} {pixels.dtype}"
        raise InputError(f"{name} is {given}; (1, {channels}, H, W) floating point is needed")
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):  # false for NaN too
        raise InputError(f"{name}: its values must lie in [0, 1]")


def whole(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """`size` (width, height) rounded up to multiples: the canvas that `surround` makes and `crop` undoes."""
    return (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)


def surround(image: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Centre (B, C, H, W) on a canvas (width, height) at least as large, repeating the border pixels."""
    wide, high = canvas[0] - image.shape[-1], canvas[1] - image.shape[-2]
    return F.pad(image, (wide // 2, wide - wide // 2, high // 2, high - high // 2), mode="replicate")


def crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle `size` (width, height) of (..., H, W), which is where `surround` puts a picture."""
    left, top = (image.shape[-1] - size[0]) // 2, (image.shape[-2] - size[1]) // 2
    return image[..., top : top + size[1], left : left + size[0]]


def prepare(image: Tensor | Image | NDArray[Any], size: tuple[int, int]) -> Tensor:
    """Any picture as (1, 3, H, W) float32 in [0, 1] of exactly `size` = (width, height), on the CPU.

    Takes PIL pictures of every mode, arrays (H, W[, C]) of uint8 or of floats in [0, 1], and tensors
    ([1,] C, H, W) of floats in [0, 1], with 1, 3 or 4 channels. Alpha is composited on white. Another size is
    filled and the middle cropped (bicubic, antialiased). Raises InputError for everything else.
    """
    pixels = _pixels(image)
    width, height = size
    scale = max(width / pixels.shape[-1], height / pixels.shape[-2])
    sides = [max(want, round(side * scale)) for want, side in zip((height, width), pixels.shape[-2:], strict=True)]
    if sides != list(pixels.shape[-2:]):
        pixels = F.interpolate(pixels, sides, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    return crop(pixels, size).contiguous()


def _pixels(image: Tensor | Image | NDArray[Any]) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1] on the CPU, in the picture's own size."""
    if isinstance(image, Image):
        return images.from_pil(image)
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim in (2, 3) and image.shape[2:] in ((), (3,), (4,)):
            return images.from_pil(fromarray(image))
        copied = torch.from_numpy(np.array(image))  # torch takes no negative strides
        image = copied.movedim(-1, 0) if copied.ndim == 3 else copied[None]
    pixels = image.detach().cpu()[None] if image.ndim == 3 else image.detach().cpu()
    channels = pixels.shape[1] if pixels.ndim == 4 else 0
    if channels not in (1, 3, 4):
        raise InputError(f"a picture is {tuple(image.shape)}; one of 1, 3 or 4 channels is needed")
    check_pixels(pixels, "a picture", channels)
    pixels = pixels.float()
    if channels == 4:
        pixels = pixels[:, :3] * pixels[:, 3:] + (1 - pixels[:, 3:])
    return pixels.expand(1, 3, -1, -1)


class Canvas:
    """The larger picture that a pipeline works on when it is asked for one of `size` = (width, height).

    Attributes:
        size: (width, height), multiples of `multiple`.
        start: the start picture in the size asked for, (1, 3, H, W), or None.
        image: the same on the canvas. cells: what is to be repainted there, (1, 1, h, w) of 0 and 1, or None.

    Args:
        cell: pixels per latent cell: pipelines look at one pixel of each to see whether to repaint it, so
            that in `cells` a cell with any white pixel is white as a whole.
        image, mask: as in `Denoising`, of any size.

    Raises:
        InputError: the mask is empty once it has the size asked for.
    """

    def __init__(
        self,
        size: tuple[int, int],
        multiple: int,
        cell: int,
        *,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        self._wanted, self.size = size, whole(size, multiple)
        self.start = None if image is None else prepare(image, size)
        self.image = None if self.start is None else surround(self.start, self.size)
        self.cells: Tensor | None = None
        if mask is None:
            return
        hole = (prepare(mask.expand(-1, 3, -1, -1), size)[:, :1] > 0.5).float()
        if not bool(hole.any()):
            raise InputError(f"mask: nothing in it is white once it has the picture's size {size[0]}x{size[1]}")
        self.cells = F.interpolate(
            F.max_pool2d(surround(hole, self.size), cell), scale_factor=float(cell), mode="nearest"
        )
        wide = F.max_pool2d(hole, 2 * FEATHER + 1, stride=1, padding=FEATHER)
        soft = F.avg_pool2d(wide, 2 * FEATHER + 1, stride=1, padding=FEATHER, count_include_pad=False)
        self._seam = torch.where(hole > 0, 1.0, soft)  # (1, 1, H, W): share of the repainted picture

    def finish(self, pixels: Tensor) -> Tensor:
        """(1, 3, h, w) of the canvas -> (3, H, W) in [0, 1], with the kept part of the start picture put back.

        The kept part that a pipeline returns has been through encoder and decoder. Here it is the start
        picture's own pixels, bit for bit from 2 * `FEATHER` pixels outside the hole on.
        """
        image = crop(pixels, self._wanted).clamp(0, 1)
        if self.cells is not None and self.start is not None:
            image = torch.lerp(self.start.to(image), image, self._seam.to(image))
        return image[0].detach()
