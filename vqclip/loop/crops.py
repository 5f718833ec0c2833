"""Seeded, batched, differentiable crops: geometry x colour x erasing x noise.

Every parameter of a step is drawn on the CPU, from one generator for each picture of a batch, before any pixel is
touched, and goes to the pictures' device in one copy; cutting is then a pure function of pictures and plan, which never
waits for the device.
Knows no model and no config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.loop.augment import Chain
from vqclip.loop.devices import in_one_copy, sample_at, seeded
from vqclip.loop.padded import Windows, cut_windows, draw_windows

PADDINGS = ("border", "reflection", "grey")
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, the weights of the field's saturation jitter
_SHEETS = 4  # of 64 crops of 224 px from 512 px: 0.6 of the time of a picture for each crop, with one thread or two
_DRAWS = 20  # uniform numbers per crop; a fixed count keeps one setting from shifting the draws of another


@dataclass(frozen=True)
class CropSpec:
    """How the crops of one step are drawn.

    method: "homography" (one warp per crop), "pooled" (the whole picture, average and max pooled to
        the perceptor's size as in nerdyrodent's script, before `augment`) or "padded" (windows of the padded
        picture, see `loop.padded`: of the geometry it takes `rotate`, `flip` and `shift`, no colour, no erasing).
    count, chunk: crops a step, and how many are embedded at a time (memory; borders are fixed).
    overview: share of crops in [0, 1] that show the whole picture, letterboxed to a square.
    scale: range of a detail crop's side over the picture's short side.
    rotate: largest rotation in degrees. perspective: largest perspective term, in [0, 0.4].
    flip: probability of a horizontal flip. shift: of a padded picture, the largest over its sides.
    colour: strength of the colour matrix in [0, 0.5].
    erase: probability of an erased rectangle. pad: what lies outside the picture.
    noise: largest standard deviation of added noise, noise_end: the same at the last step (None: no change).
    augment: names of kornia augmentations applied afterwards.
    """

    method: str
    count: int
    chunk: int
    overview: float
    scale: tuple[float, float]
    rotate: float
    perspective: float
    flip: float
    colour: float
    erase: float
    noise: float
    pad: str
    augment: tuple[str, ...] = ()
    noise_end: float | None = None
    shift: float = 0.0


@dataclass(frozen=True)
class CropPlan:
    """The parameters of one step's crops of B pictures, N of each, drawn on the CPU; `to` brings them to a device.

    `homography` (B, N, 3, 3) maps output coordinates to picture coordinates, both normalised to [-1, 1]
    with pixel centres inside (align_corners=False). `side` (B, N) is the window's side in pixels.
    `colour` (B, N, 3, 4) is the affine colour map. `erased` (B, N, 4) holds left, top, right, bottom in
    [-1, 1] (empty when right <= left), `fill` (B, N) the grey of erased and outside areas, `noise` (B, N)
    the standard deviations and `seeds` (one a picture) the sources of noise and kornia draws. `chunks` are ranges of
    N. `sides` are those of the windows as numbers, and `noisy` says which crops have noise: what is decided by them is
    decided on the host. `windows`, one a picture, is what the method "padded" cuts instead.
    """

    homography: Tensor
    side: Tensor
    colour: Tensor
    erased: Tensor
    fill: Tensor
    noise: Tensor
    seeds: tuple[int, ...]
    chunks: tuple[range, ...]
    sides: tuple[tuple[float, ...], ...]
    noisy: tuple[tuple[bool, ...], ...]
    windows: tuple[Windows, ...] = ()

    @property
    def count(self) -> int:
        """Number of crops of a picture."""
        return self.fill.shape[1]

    def to(self, device: torch.device) -> CropPlan:
        """The same plan on a device, all of it in one copy."""
        if device.type == "cpu":
            return self
        names = ("homography", "side", "colour", "erased", "fill", "noise")
        cut = [tensor for window in self.windows for tensor in window.tensors]
        made = in_one_copy([*(getattr(self, name) for name in names), *cut], device)
        own: dict[str, Any] = dict(zip(names, made[: len(names)], strict=True))
        moved = iter(made[len(names) :])
        windows = (each.with_tensors([next(moved) for _ in each.tensors]) for each in self.windows)
        return replace(self, **own, windows=tuple(windows))


class Cropper:
    """Draws and cuts the crops of a step."""

    def __init__(self, spec: CropSpec) -> None:
        self.spec = spec
        self._augment = Chain(spec.augment) if spec.augment else None

    def draw(self, rngs: Sequence[torch.Generator], *, width: int, height: int, progress: float = 0.0) -> CropPlan:
        """Draw one step's parameters for pictures of `width` x `height` pixels, each from a generator of its own.

        `progress` of the run is in [0, 1].
        """
        spec, n = self.spec, self.spec.count
        fading = 0.0 if spec.noise_end is None else progress * (spec.noise_end - spec.noise)
        drawn = [(torch.rand(n, _DRAWS, generator=rng), int(torch.randint(2**62, (), generator=rng))) for rng in rngs]
        u = torch.stack([numbers for numbers, _ in drawn]).unbind(2)  # (B, N) each
        homography, side = _geometry(spec, u, width=width, height=height)
        windows: list[Windows] = []
        if spec.method == "padded":
            moves = {"flip": spec.flip, "rotate": spec.rotate, "shift": spec.shift}
            windows += (draw_windows(own[:, :7].unbind(1), width=width, height=height, **moves) for own, _ in drawn)
        noise = (spec.noise + fading) * u[9]
        return CropPlan(
            homography=homography,
            side=side,
            colour=_colour(spec.colour, u[10:14]),
            erased=_rectangle(spec.erase, u[14:19]),
            fill=u[19],
            noise=noise,
            seeds=tuple(seed for _, seed in drawn),
            chunks=tuple(range(s, min(s + spec.chunk, n)) for s in range(0, n, spec.chunk)),
            sides=tuple(tuple(own) for own in side.tolist()),
            noisy=tuple(tuple(own) for own in noise.bool().tolist()),
            windows=tuple(windows),
        )

    def cut(self, images: Tensor, plan: CropPlan, part: range, *, size: int) -> Tensor:
        """Cut the crops `part` of a plan out of each picture.

        Args:
            images: (B, 3, H, W) float32 in [0, 1], on the device of the plan.
            plan: of pictures of that size.
            part: which of the N crops of each picture, one of the plan's chunks.
            size: side of the crops in pixels.

        Returns:
            (B * len(part), 3, size, size) float32, picture after picture, nominally in [0, 1]: colour and
            noise may overshoot, and nothing is clamped, so that no gradient is lost at the bounds.
        """
        rows = slice(part.start, part.stop)
        if self.spec.method == "pooled":
            pooled = (F.adaptive_avg_pool2d(images, size) + F.adaptive_max_pool2d(images, size)) / 2
            crops = pooled[:, None].expand(-1, len(part), -1, -1, -1).flatten(0, 1)
        elif plan.windows:
            each = zip(images.split(1), plan.windows, strict=True)
            crops = _joined([cut_windows(image, windows, rows, size=size) for image, windows in each])
        else:
            crops = self._warp(images, plan, rows, size=size)
        if self._augment is not None:
            own = zip(crops.split(len(part)), plan.seeds, strict=True)
            crops = _joined([self._augment(each, seed + part.start) for each, seed in own])
        return _add_noise(crops, plan, rows)

    def _warp(self, images: Tensor, plan: CropPlan, rows: slice, *, size: int) -> Tensor:
        grid = sampling_grid(plan.homography[:, rows].flatten(0, 1), size)  # (B * n, S, S, 2)
        count = len(grid) // len(images)
        each = zip(images.split(1), grid.split(count), plan.sides, strict=True)
        crops = _joined([sample(image, own, sides[rows], outside=self.spec.pad) for image, own, sides in each])
        fill = plan.fill[:, rows].reshape(-1, 1, 1, 1)
        if self.spec.pad == "grey":
            inside = (grid.abs() <= 1).all(-1)[:, None]  # (B * n, 1, S, S)
            crops = torch.where(inside, crops, fill)
        colour = plan.colour[:, rows].flatten(0, 1)
        flat = torch.baddbmm(colour[:, :, 3:], colour[:, :, :3], crops.flatten(2))  # (B * n, 3, S*S)
        return _erase(flat.view_as(crops), plan.erased[:, rows].flatten(0, 1), fill)


def _joined(crops: list[Tensor]) -> Tensor:
    """The crops of one picture after those of another; those of a single one are not copied."""
    return crops[0] if len(crops) == 1 else torch.cat(crops)


def sampling_grid(homography: Tensor, size: int) -> Tensor:
    """Where each output pixel looks: (N, 3, 3) homographies -> (N, size, size, 2) normalised x, y."""
    axis = (torch.arange(size, device=homography.device) * 2 + 1) / size - 1  # pixel centres
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)  # (S*S, 3)
    mapped = points @ homography.mT  # (N, S*S, 3)
    return (mapped[..., :2] / mapped[..., 2:]).view(-1, size, size, 2)


def sample(image: Tensor, grid: Tensor, sides: Sequence[float], *, outside: str) -> Tensor:
    """Bilinear samples of one picture (1, 3, H, W) at N grids, from a pyramid level that does not alias.

    Four taps see a quarter of the pixels at 4x minification; so a window with a side of that many pixels is read
    from the average-pooled picture whose window is less than twice the output.
    """
    padding = "border" if outside == "grey" else outside
    highest = min(image.shape[-2:]).bit_length() - 1  # the level with one pixel along the short side
    # floor(log2(side / output)) by the exponent of the quotient, which is exact.
    levels = [min(max(0, math.frexp(side / grid.shape[1])[1] - 1), highest) for side in sides]
    crops: dict[int, Tensor] = {}
    pyramid = image
    for level in range(max(levels) + 1):
        if level:
            pyramid = F.avg_pool2d(pyramid, 2)
        chosen = [index for index, own in enumerate(levels) if own == level]
        if len(chosen) == len(levels):
            return _on_sheets(pyramid, grid, padding)
        if chosen:
            # Stacked, not indexed: a list of indices would be copied to the device, and waited for.
            where = torch.stack([grid[index] for index in chosen])
            crops |= dict(zip(chosen, _on_sheets(pyramid, where, padding).unbind(0), strict=True))
    return torch.stack([crops[index] for index in range(len(levels))])


def _on_sheets(image: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Samples of one picture at N grids, looked up on a few sheets of grids below each other.

    torch takes a picture for each grid, forward and backward: with one for each crop the gradients of 64 crops of
    512 px would fill 200 MB, and be added up. It works on several sheets at a time.
    """
    count, size = grid.shape[:2]
    sheets = max(number for number in range(1, _SHEETS + 1) if count % number == 0)
    tall = sample_at(image, grid.reshape(sheets, -1, size, 2), "bilinear", padding, align_corners=False)
    return tall.view(sheets, -1, count // sheets, size, size).transpose(1, 2).flatten(0, 1)


def _geometry(spec: CropSpec, u: tuple[Tensor, ...], *, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Window x rotation x flip x perspective as one matrix per crop, (B, N, 3, 3); windows are square in pixels."""
    n = spec.count
    index = torch.arange(n)
    # Spread overviews evenly over the indices, so that every chunk holds the same mix.
    overview = ((index + 1) * spec.overview).floor() > (index * spec.overview).floor()
    low, high = spec.scale
    detail = (low + (high - low) * u[0]) * min(width, height)
    side = torch.where(overview, (1 + 0.1 * u[0]) * max(width, height), detail)
    # A window stays inside the picture where it fits; where it does not, it is centred with 5 % play.
    centre_x, centre_y = _centre(u[1], side, width), _centre(u[2], side, height)
    zero, one = torch.zeros_like(side), torch.ones_like(side)
    window = _matrices(
        [side / width, zero, 2 * centre_x / width - 1, zero, side / height, 2 * centre_y / height - 1, zero, zero, one]
    )
    angle = (2 * u[3] - 1) * math.radians(spec.rotate)
    mirror = torch.where(u[4] < spec.flip, -1.0, 1.0)
    turn = _matrices(
        [angle.cos() * mirror, -angle.sin(), zero, angle.sin() * mirror, angle.cos(), zero, zero, zero, one]
    )
    tilt_x, tilt_y = ((2 * value - 1) * spec.perspective for value in (u[5], u[6]))
    tilt = _matrices([one, zero, zero, zero, one, zero, tilt_x, tilt_y, one])
    return window @ turn @ tilt, side


def _centre(u: Tensor, side: Tensor, length: int) -> Tensor:
    play = length - side
    return torch.where(play > 0, side / 2 + u * play, length / 2 + (u - 0.5) * 0.1 * side)


def _matrices(entries: list[Tensor]) -> Tensor:
    stacked = torch.stack(entries, dim=-1)
    return stacked.view(*stacked.shape[:-1], 3, 3)


def _colour(strength: float, u: tuple[Tensor, ...]) -> Tensor:
    """Brightness, contrast, saturation and hue as one affine map per crop: (B, N, 3, 4).

    Greys keep their hue by construction: the saturation and hue matrices have rows of sum 1. Hue is a
    rotation about the grey axis by at most strength x 180 degrees (Rodrigues' formula).
    """
    bright, contrast, saturation, hue = (2 * value - 1 for value in u)
    k = (1 + strength * contrast)[..., None, None]
    s = (1 + 2 * strength * saturation)[..., None, None]
    luma = torch.tensor(_LUMA).expand(3, 3)
    saturate = s * torch.eye(3) + (1 - s) * luma
    angle = (math.pi * strength * hue)[..., None, None]
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    rotate = angle.cos() * torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) / 3
    offset = (0.5 * (1 - k) + (strength * bright)[..., None, None]).expand(*k.shape[:-2], 3, 1)
    return torch.cat([k * (saturate @ rotate), offset], dim=-1)


def _rectangle(probability: float, u: tuple[Tensor, ...]) -> Tensor:
    """Area 5 to 25 % of the crop, aspect 1:2 to 2:1, anywhere inside; empty where not drawn."""
    area = 4 * (0.05 + 0.2 * u[1])  # of the 2 x 2 square of normalised coordinates
    aspect = (2 * u[2] - 1).exp2()
    drawn = u[0] < probability
    w, h = (torch.where(drawn, side, 0.0) for side in ((area * aspect).sqrt(), (area / aspect).sqrt()))
    left, top = -1 + u[3] * (2 - w), -1 + u[4] * (2 - h)
    return torch.stack([left, top, left + w, top + h], dim=-1)


def _erase(crops: Tensor, erased: Tensor, fill: Tensor) -> Tensor:
    size = crops.shape[-1]
    axis = (torch.arange(size, device=crops.device) * 2 + 1) / size - 1
    left, top, right, bottom = (edge[:, None] for edge in erased.unbind(1))
    columns = (axis >= left) & (axis < right)  # (n, S)
    rows = (axis >= top) & (axis < bottom)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], fill, crops)


def _add_noise(crops: Tensor, plan: CropPlan, rows: slice) -> Tensor:
    if not any(any(own[rows]) for own in plan.noisy):
        return crops
    made = []
    for own, seed in zip(crops.split(len(crops) // len(plan.seeds)), plan.seeds, strict=True):
        rng = seeded(crops.device, seed + rows.start + crops.shape[-1])
        made.append(torch.randn(own.shape, generator=rng, device=crops.device))
    return crops + _joined(made) * plan.noise[:, rows].reshape(-1, 1, 1, 1)
