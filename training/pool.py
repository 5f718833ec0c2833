"""Pictures made by the loop's own means, with what they are meant to show. Draws nothing itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from training.captions import Meaning
from training.checkpoint import write_whole
from training.views import Crops, homographies

SIDE = 80  # px, as wide as a bank's pictures, so that views have some play
KEPT = 3072  # pictures that a pool holds at most


@dataclass(frozen=True)
class Pool:
    """Pictures (N, 3, SIDE, SIDE) uint8 and what each is meant to show, or shows."""

    pixels: Tensor
    meant: list[Meaning]

    def __len__(self) -> int:
        return len(self.meant)

    def __add__(self, other: Pool) -> Pool:
        return Pool(torch.cat((self.pixels, other.pixels))[-KEPT:], (self.meant + other.meant)[-KEPT:])

    def views(self, rows: Tensor, crops: Crops, *, size: int, rng: torch.Generator) -> Tensor:
        """(B, 3, size, size) float32 in [0, 1]: crops of the chosen pictures, in no other way disturbed."""
        picture = self.pixels[rows].float() / 255
        grid = homographies(len(rows), crops, size, rng)
        return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


EMPTY = Pool(torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8), [])


def shrink(image: Tensor) -> Tensor:
    """As a pool keeps them: (B, 3, SIDE, SIDE) uint8."""
    small = F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (small * 255).round().clamp(0, 255).to(torch.uint8)


def write(path: Path, forged: Pool, redrawn: Pool) -> None:
    """Both pools as one safetensors file, replaced at once."""
    meant = {"forged": [asdict(one) for one in forged.meant], "redrawn": [asdict(one) for one in redrawn.meant]}
    write_whole(path, {"forged": forged.pixels, "redrawn": redrawn.pixels}, {"meant": json.dumps(meant)})


def read(path: Path) -> tuple[Pool, Pool]:
    """What `write` wrote; two empty pools where it never did."""
    if not path.exists():
        return EMPTY, EMPTY
    with safe_open(path, "pt") as file:
        meant = json.loads(file.metadata()["meant"])
        forged, redrawn = (
            Pool(file.get_tensor(name), [Meaning(**one) for one in meant[name]]) for name in ("forged", "redrawn")
        )
    return forged, redrawn
