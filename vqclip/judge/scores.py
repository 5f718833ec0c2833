"""The numbers of one picture and of the pictures of one prompt; reads no files and runs no model.

Every metric that a comparison knows is named here, with its direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from vqclip.job import Verdict

METRICS: Final = ("top1", "top5", "margin", "exclude_margin", "diversity", "ms_ssim", "seconds", "peak_memory_bytes")
SHARES: Final = frozenset({"top1", "top5"})  # 0 or 1 for each picture
LOWER_WINS: Final = frozenset({"seconds", "peak_memory_bytes"})
# Worth little when the judge also steered.
OF_THE_JUDGE: Final = frozenset({"top1", "top5", "margin", "exclude_margin"})

# Wang, Simoncelli, Bovik, Multiscale structural similarity for image quality assessment, Asilomar 2003.
_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
_WINDOW, _SIGMA = 11, 1.5  # px
_STABLE: Final = (0.01**2, 0.03**2)  # C1 and C2 for a range of values of 1


def picture_scores(
    verdict: Verdict | None, *, seconds: float | None, peak_memory_bytes: int | None
) -> dict[str, float]:
    """What is known of one picture, by metric; what is not known is left out.

    top1 and top5 are 1 when the judge ranks the include text first or among the first five (R-precision, once
    averaged). margin is against the best rival, exclude_margin against the nearest excluded text.
    """
    found: dict[str, float] = {}
    if verdict is not None:
        found |= {"top1": float(verdict.rank == 1), "top5": float(verdict.rank <= 5)}
        margins = {"margin": verdict.margin, "exclude_margin": verdict.exclude_margin}
        found |= {name: value for name, value in margins.items() if value is not None and math.isfinite(value)}
    if seconds is not None:
        found["seconds"] = seconds
    if peak_memory_bytes is not None:
        found["peak_memory_bytes"] = float(peak_memory_bytes)
    return found


def diversity(embeds: Tensor) -> float | None:
    """1 - mean pairwise cosine of unit embeddings (S, E) of the pictures of one prompt; None below two of them.

    0 for pictures that all look the same to the judge; never above 2.
    """
    count = len(embeds)
    if count < 2:
        return None
    rows = embeds.detach().cpu().double()
    total, itself = rows.sum(0).square().sum(), rows.square().sum()  # over all ordered pairs; of each with itself
    return 1 - float((total - itself) / (count * (count - 1)))


def structural_diversity(pictures: Sequence[Tensor]) -> float | None:
    """1 - mean pairwise MS-SSIM of pictures (3, H, W) in [0, 1]; 0 is all the same, 1 nothing in common.

    None below two pictures, and for pictures of several sizes or with a side below 11 px, which cannot be compared.
    """
    sizes = {picture.shape for picture in pictures}
    if len(pictures) < 2 or len(sizes) > 1 or min(pictures[0].shape[-2:]) < _WINDOW:
        return None
    pairs = [ms_ssim(first, second) for first, second in combinations(pictures, 2)]
    return 1 - sum(pairs) / len(pairs)


@torch.no_grad()
def ms_ssim(first: Tensor, second: Tensor) -> float:
    """Multi-scale structural similarity of two pictures (3, H, W) in [0, 1]; 1 for equal ones, never below 0.

    Wang et al. 2003 on each colour channel, then averaged: contrast and structure at each scale, luminance at the
    coarsest, an 11 px Gaussian window without padding. Five scales need sides of 161 px; smaller pictures use as many
    as fit, with the weights of those divided by their sum, so values of different sizes are not comparable. A scale
    whose mean is negative counts as 0. torchmetrics' number is another by up to 0.03 (its coarsest scale counts the
    reflected border; it also averages channels before it multiplies scales, and drops the last row of odd sides) and
    takes 50 times as long, 5.0 against 0.09 s for a pair of 256 px, so it is only tested against.

    Raises ValueError for other shapes, unequal ones, or a side below 11 px.
    """
    if first.shape != second.shape or first.ndim != 3 or first.shape[0] != 3:
        raise ValueError(f"pictures are {tuple(first.shape)} and {tuple(second.shape)}; two (3, H, W) are needed")
    weights = torch.tensor(_WEIGHTS[: _scales(min(first.shape[-2:]))], dtype=torch.float64)
    x, y = first.double(), second.double()
    likeness = []
    for scale in range(len(weights)):
        if scale:
            x, y = (F.avg_pool2d(each, 2, ceil_mode=True) for each in (x, y))
        whole, structure = _similarity(x, y)
        likeness.append(whole if scale == len(weights) - 1 else structure)
    stacked = torch.stack(likeness).clamp_min(0)  # (scales, 3)
    return float((stacked ** (weights / weights.sum())[:, None]).prod(0).mean())


def _scales(side: int) -> int:
    """How often the short side can be halved, rounding up, and still hold a window; at most five times."""
    if side < _WINDOW:
        raise ValueError(f"a side is {side} px; {_WINDOW} are needed")
    scales = 1
    while scales < len(_WEIGHTS) and (side := (side + 1) // 2) >= _WINDOW:
        scales += 1
    return scales


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure of each pair of (C, H, W), both (C,)."""
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    spread_x, spread_y, shared = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    structure = (2 * shared + _STABLE[1]) / (spread_x + spread_y + _STABLE[1])
    luminance = (2 * mean_x * mean_y + _STABLE[0]) / (mean_x**2 + mean_y**2 + _STABLE[0])
    return (luminance * structure).mean((1, 2)), structure.mean((1, 2))


def _blur(maps: Tensor) -> Tensor:
    """Gaussian mean under each whole window, (..., H, W) -> (..., H - 10, W - 10).

    Shifted sums, one axis after the other: a quarter of the time of conv2d on a CPU (75 against 290 ms for
    15 maps of 256 px in float64).
    """
    bell = [math.exp(-((place - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for place in range(_WINDOW)]
    for axis in (-2, -1):
        length = maps.shape[axis] - _WINDOW + 1
        blurred = maps.narrow(axis, 0, length) * (bell[0] / sum(bell))
        for place in range(1, _WINDOW):
            blurred.add_(maps.narrow(axis, place, length), alpha=bell[place] / sum(bell))
        maps = blurred
    return maps
