"""Crops of a padded picture: the whole is mirrored, turned and shifted once a step, then square windows are cut.

Unlike crops that each have a warp of their own, all of a step see the picture from one side, and the windows reach
beyond its edges. Drawing and cutting are apart, as in `vqclip.loop.crops`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.devices import sample_at

# A window's side over the picture's short side: normal with this mean and deviation, held within these bounds.
MEAN, DEVIATION, LEAST, MOST = 1.2, 0.3, 0.43, 1.9


@dataclass(frozen=True)
class Windows:
    """One step's draw, in pixels of the picture with `margin` pixels of black on all four sides.

    `mirrored`, then `angle` (radians, clockwise about the centre), then `shift` (right, down) happen to the whole.
    `left`, `top` and `side` (N,) int64 are the squares cut from it; they lie inside and none is empty. `look` (2, 3)
    float64 is where a pixel of the moved whole looks: x, y and 1 in [-1, 1] to x, y.
    """

    margin: int
    mirrored: bool
    angle: float
    shift: tuple[int, int]
    left: Tensor
    top: Tensor
    side: Tensor
    look: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What has to lie where the picture is."""
        return self.left, self.top, self.side, self.look

    def with_tensors(self, tensors: Sequence[Tensor]) -> Windows:
        """The same windows with these in their place; another type than theirs does."""
        left, top, side, look = tensors
        return replace(self, left=left, top=top, side=side, look=look)


def draw_windows(
    u: Sequence[Tensor], *, width: int, height: int, flip: float, rotate: float, shift: float
) -> Windows:
    """Windows for a picture of `width` x `height` pixels from uniform numbers.

    Margins and sides are measured by the short side, and a window may begin anywhere on each axis from which it ends
    inside the padded picture: for a square of side H, offsets are uniform in [0, 2H - side).

    Args:
        u: seven (N,) tensors in [0, 1): side, left and top of each window; of the next ones the first number counts:
            angle, mirror, shift right, shift down.
        width: of the picture, in pixels.
        height: likewise.
        flip: probability of mirroring.
        rotate: largest angle in degrees.
        shift: the largest over the padded sides.
    """
    side, left, top, *whole = (numbers.double() for numbers in u)
    angle, mirror, right, down = (float(numbers[0]) for numbers in whole)
    margin = min(width, height) // 2
    across, along = width + 2 * margin, height + 2 * margin
    # The normal's quantile; it is -inf at 0, which the bounds take in.
    scale = (MEAN + DEVIATION * torch.special.ndtri(side)).clamp(LEAST, MOST)
    side = (scale * min(width, height)).long()
    mirrored, turned = mirror < flip, (2 * angle - 1) * math.radians(rotate)
    shifted = round((2 * right - 1) * shift * across), round((2 * down - 1) * shift * along)
    return Windows(
        margin=margin,
        mirrored=mirrored,
        angle=turned,
        shift=shifted,
        left=(left * (across - side)).long(),
        top=(top * (along - side)).long(),
        side=side,
        look=_look(turned, shifted, mirrored=mirrored, size=(across, along)),
    )


def cut_windows(image: Tensor, windows: Windows, rows: slice, *, size: int) -> Tensor:
    """The windows `rows` of (1, 3, H, W), bilinear with corners on corners: (n, 3, size, size).

    One grid looks up all windows one below the other, so that the picture is not copied for each of them.
    """
    whole = _moved(F.pad(image, [windows.margin] * 4), windows)
    steps = torch.arange(size, device=image.device, dtype=image.dtype) / (size - 1)
    left, top, span = (
        part[rows].to(image.device, image.dtype)[:, None]
        for part in (windows.left, windows.top, windows.side - 1)
    )  # fmt: skip
    x, y = (  # (n, size), in [-1, 1] between the centres of the outermost pixels
        2 * (begin + span * steps) / (length - 1) - 1
        for begin, length in ((left, whole.shape[-1]), (top, whole.shape[-2]))
    )
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    tall = sample_at(whole, grid.reshape(1, -1, size, 2), "bilinear", "border", align_corners=True)
    return tall.view(image.shape[1], -1, size, size).transpose(0, 1)


def _moved(image: Tensor, windows: Windows) -> Tensor:
    """The picture mirrored, turned and shifted, each pixel taken from the nearest one, black where there is none.

    Nearest, as torchvision's affine has it when nothing else is asked for.
    """
    look = windows.look.to(image)
    grid = F.affine_grid(look[None], list(image.shape), align_corners=False)
    return sample_at(image, grid, "nearest", "zeros", align_corners=False)


def _look(angle: float, shift: tuple[int, int], *, mirrored: bool, size: tuple[int, int]) -> Tensor:
    """Where an output pixel looks: shifted back, turned back, mirrored back; in units of half the sides."""
    (width, height), (right, down) = size, shift
    cos, sin = math.cos(angle), math.sin(angle)
    mirror = -1 if mirrored else 1
    return torch.tensor(
        [
            [mirror * cos, mirror * sin * height / width, -mirror * 2 * (cos * right + sin * down) / width],
            [-sin * width / height, cos, 2 * (sin * right - cos * down) / height],
        ],
        dtype=torch.float64,
    )
