"""A look at shapes that knows no CLIP: nearest drawings by oriented edges. Needs the icons of `training.data`.

A picture and every drawing of every name become histograms of edge directions (HOG, Dalal and Triggs 2005) of the
object's bounding square, so that place, size and colour do not count; a name scores by its nearest drawing. Argued for
because it has no weights: nothing was trained, so nothing can be shared with guides or judge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data import load
from training.sources import PERMISSIVE
from training.views import make_bank

SIDE, CELL, BINS = 48, 6, 9


class SecondLook:
    """Ranks names for a picture by their nearest drawing."""

    def __init__(self, names: list[str]) -> None:
        styles = tuple(package.style for package in PERMISSIVE if package.style != "emojione-monotone")
        bank = make_bank(load(styles, "concepts").only(tuple(names)), side=64, variants=0, seed=0)
        picture = bank.pixels.permute(0, 3, 1, 2).float() / 255
        white = (picture[:, :3] + 1 - picture[:, 3:]).clamp(0, 1)
        self._names = names
        self._owner = torch.tensor([names.index(truth.name) for truth in bank.truths])
        self._drawn = torch.cat([edges(cut_out(image)[None]) for image in white])

    def rank(self, image: Tensor, name: str) -> int:
        """Place of `name` among all names, 1 is best, for a picture (3, H, W) in [0, 1]."""
        small = F.interpolate(image[None], (64, 64), mode="bilinear", antialias=True, align_corners=False)[0]
        seen = torch.cat([edges(look[None]) for look in (cut_out(small), whole(small))])
        best = (seen @ self._drawn.T).amax(0)
        scores = torch.full((len(self._names),), -1.0).scatter_reduce(0, self._owner, best, "amax")
        return 1 + int((scores > scores[self._names.index(name)]).sum())


def whole(image: Tensor) -> Tensor:
    """The picture as it is, at SIDE pixels."""
    return F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0]


def cut_out(image: Tensor) -> Tensor:
    """The square around what differs from the border's median colour, at SIDE pixels."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], 1)
    away = (image - border.median(1).values[:, None, None]).abs().sum(0) > 0.35
    rows, columns = away.any(1).nonzero()[:, 0], away.any(0).nonzero()[:, 0]
    if len(rows) < 4 or len(columns) < 4:
        return whole(image)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return whole(image[:, top:bottom, left:right])


def edges(image: Tensor) -> Tensor:
    """(N, 3, SIDE, SIDE) -> (N, D) unit rows: unsigned edge directions by cell, square roots of their shares."""
    across = image[..., 1:-1, 2:] - image[..., 1:-1, :-2]
    down = image[..., 2:, 1:-1] - image[..., :-2, 1:-1]
    strongest = (across.square() + down.square()).argmax(1, keepdim=True)
    across, down = across.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]
    size = F.pad((across.square() + down.square()).sqrt(), (1, 1, 1, 1))
    angle = F.pad(torch.atan2(down, across).remainder(torch.pi) / torch.pi * BINS, (1, 1, 1, 1))
    low, share = angle.floor(), angle - angle.floor()
    bins = torch.zeros(len(image), BINS, SIDE, SIDE)
    bins.scatter_add_(1, (low.long() % BINS)[:, None], (size * (1 - share))[:, None])
    bins.scatter_add_(1, ((low.long() + 1) % BINS)[:, None], (size * share)[:, None])
    cells = F.avg_pool2d(bins, CELL).flatten(1)
    cells = cells.sqrt()
    return F.normalize(cells - cells.mean(1, keepdim=True), dim=1)
