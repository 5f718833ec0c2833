"""What a diffusion run is made of, for a forecast: one update and one decoding, of a latent of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

Work = Callable[[int, int], None]  # rows and columns of a latent


@dataclass(frozen=True)
class Pieces:
    """The networks of a backend at a job's size.

    name: for people. grid: rows and columns of the latent. stride: pixels a cell. multiple: of cells, that the networks
    can halve. batch: latents in an update, two with guidance. arriving: bytes of weights that `move` brings to the
    device. update, decode: do that piece once, on a latent of zeros.
    """

    name: str
    device: torch.device
    grid: tuple[int, int]
    stride: int
    multiple: int
    batch: int
    arriving: int
    move: Callable[[], object]
    update: Work
    decode: Work


def multiple(unet: Any) -> int:
    """The least number of cells, along a side, that every level of a unet can halve."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def nbytes(networks: Iterable[Any], dtype: torch.dtype) -> int:
    """Bytes that the weights of some networks take in a precision."""
    numbers: int = sum(value.numel() for network in networks for value in network.parameters())
    return numbers * dtype.itemsize
