"""Describes tensors that lie in a file, checks that they fit into it, and reads those that are wanted.

Knows no file format: a format hands over where each storage lies and how to open it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from vqclip.job import ResourceError

LIMIT = 16 << 30  # bytes of tensors that one file may bring into memory; the largest in use have 1.4e9
_LARGEST_SIDE = 1 << 40
_MOST_AXES = 16
_PIECE = 1 << 20  # bytes read at once


class RefusedError(Exception):
    """Why a file is not read, in one line and without its name."""


@dataclass(frozen=True)
class Storage:
    """A run of `count` numbers in a file, named by `key`."""

    key: str
    dtype: torch.dtype
    count: int

    def __post_init__(self) -> None:
        if not _is_size(self.count):
            raise RefusedError("a storage has an impossible size")

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Region:
    """A tensor as a view of a storage: offset and strides in elements. It lies inside the storage, or is refused.

    A tensor with more elements than its storage (a broadcast one) is refused too: a file of a few bytes
    could claim any amount of memory with it.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = len(self.shape)
        if axes > _MOST_AXES or len(self.stride) != axes or not all(map(_is_size, self._sizes())):
            raise RefusedError("a tensor has an impossible shape")
        if self.count == 0:
            return
        last = self.offset + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        if last >= self.storage.count or self.count > self.storage.count:
            raise RefusedError(f"a tensor of shape {list(self.shape)} exceeds its {self.storage.count} stored numbers")

    def _sizes(self) -> tuple[int, ...]:
        return (self.offset, *self.shape, *self.stride)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Opened:
    """A file whose description was read and whose tensors were not.

    `content` has a Region for every tensor; `open_storage` gives the file, or a part of it, at the first
    byte of a storage; `metadata` is what a safetensors header says besides.
    """

    content: Any
    open_storage: Callable[[Storage], IO[bytes]]
    metadata: Mapping[str, str]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_SIDE


def damaged(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first item of a state dict that holds a NaN or an infinity, None for sound weights.

    CLIP's own mask, which TorchScript archives keep, is minus infinity above its diagonal. One pass without another
    tensor: 88 million numbers, a ViT-B/32's guide or a VQGAN, take some 15 ms.
    """
    for name, value in tensors:
        if not value.is_floating_point() or not value.numel() or name.endswith("attn_mask"):
            continue
        if not all(math.isfinite(float(end)) for end in value.detach().aminmax()):
            return name
    return None


def read_regions(
    regions: Mapping[str, Region], open_storage: Callable[[Storage], IO[bytes]], *, limit: int
) -> dict[str, Tensor]:
    """The state dict of `regions` in memory, contiguous; each storage is read once.

    Args:
        regions: where each tensor lies, by name.
        open_storage: gives a source that holds at least the bytes of that storage.
        limit: bytes that all storages together, and all tensors together, may take.

    Raises:
        RefusedError: more than `limit`, or a source that ends early. ResourceError: no memory for it.
    """
    storages = dict.fromkeys(region.storage for region in regions.values())  # in the order of the file
    total = max(
        sum(storage.nbytes for storage in storages),
        sum(region.count * region.storage.dtype.itemsize for region in regions.values()),
    )
    if total > limit:
        raise RefusedError(f"{total} bytes of tensors; at most {limit} are read")
    loaded = {storage: _read(storage, open_storage(storage)) for storage in storages}
    return {
        name: loaded[region.storage].as_strided(region.shape, region.stride, region.offset).contiguous()
        for name, region in regions.items()
    }


def _read(storage: Storage, source: IO[bytes]) -> Tensor:
    try:
        numbers = torch.empty(storage.count, dtype=storage.dtype)
    except RuntimeError as error:  # how torch says so
        raise ResourceError(f"no memory for a tensor of {storage.nbytes / 1e6:.0f} MB; close other programs") from error
    room = memoryview(numbers.view(torch.uint8).numpy().data)
    done = 0
    while done < len(room):
        piece = source.read(min(_PIECE, len(room) - done))
        if not piece:
            raise RefusedError("ends in the middle of a tensor; fetch it again")
        room[done : done + len(piece)] = piece
        done += len(piece)
    return numbers
