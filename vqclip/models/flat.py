"""Flat files, a description and then the numbers: safetensors, and what torch.save wrote before version 1.6.

Checks that the description covers the file exactly. Which tensors are wanted is the caller's affair.
"""

from __future__ import annotations

import json
from math import prod
from typing import IO, Any

import torch

from vqclip.models import pickles
from vqclip.models.tensors import Opened, RefusedError, Region, Storage

_LARGEST_HEADER = 2 << 20  # bytes of a safetensors header; 1000 tensors need 0.1 MB
_LONGEST_SIDE = 1 << 40
_MOST_AXES = 8
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def open_safetensors(file: IO[bytes]) -> Opened:
    """Header length in 8 bytes, JSON header, then the tensors without gaps.

    Format: https://github.com/huggingface/safetensors#format. Raises RefusedError.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LARGEST_HEADER, size - 8):
        raise RefusedError(f"a safetensors header of {length} bytes in a file of {size}; at most {_LARGEST_HEADER}")
    header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise RefusedError("a safetensors header with odd metadata")
    content, starts, end = {}, {}, 0
    entries = {key: _Entry(key, entry) for key, entry in header.items()}
    for key, entry in sorted(entries.items(), key=lambda item: item[1].span):
        if entry.span[0] != end:
            raise RefusedError(f"{key[:80]!r} overlaps another tensor or leaves a gap before it")
        content[key], starts[key], end = entry.region, 8 + length + end, entry.span[1]
    if 8 + length + end != size:
        raise RefusedError(f"is {size} bytes long, but its header describes {8 + length + end}; fetch it again")
    return Opened(content, lambda storage: _at(file, starts[storage.key]), metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RefusedError("a safetensors header with a key twice")
    return made


class _Entry:
    """One tensor of a safetensors header: where it lies (`span`, in bytes) and what it is (`region`)."""

    def __init__(self, key: str, entry: Any) -> None:
        dtype = _DTYPES.get(entry["dtype"])
        start, stop = self.span = tuple(entry["data_offsets"])
        shape = tuple(entry["shape"][: _MOST_AXES + 1])
        if dtype is None:
            raise RefusedError(f"{key[:80]!r} has a dtype that is not supported")
        whole = all(type(number) is int and 0 <= number <= _LONGEST_SIDE for number in (*shape, start, stop))
        if not whole or len(shape) > _MOST_AXES:
            raise RefusedError(f"{key[:80]!r} has an impossible shape or place")
        if stop - start != prod(shape) * dtype.itemsize:
            raise RefusedError(f"{key[:80]!r} has {stop - start} bytes, which does not fit its shape {list(shape)}")
        steps = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        self.region = Region(Storage(key, dtype, prod(shape)), 0, shape, steps)


def open_legacy(file: IO[bytes]) -> Opened:
    """Five pickles (magic number, version, machine, content, order of the storages), then the storages.

    Each storage is preceded by its count in 8 bytes. Raises RefusedError.
    """
    if pickles.parse(file) != _LEGACY_MAGIC or pickles.parse(file) != _LEGACY_VERSION:
        raise RefusedError("a pickle, but no checkpoint of torch")
    machine, storages = pickles.parse(file), dict[str, Storage]()
    if not isinstance(machine, dict) or not machine.get("little_endian"):
        raise RefusedError("written on a big-endian machine, which is not supported")
    content, order = pickles.parse(file, storages), pickles.parse(file)
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order) or set(order) != set(storages):
        raise RefusedError("a torch checkpoint without all of its parts")
    starts, size = {}, 0
    for key in order:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise RefusedError("a torch checkpoint whose tensors have another size than it says, or that was cut off")
        starts[key] = file.tell()
        size = file.seek(storage.nbytes, 1)
    if starts and size > file.seek(0, 2):
        raise RefusedError("ends in the middle of a tensor; fetch it again")
    return Opened(content, lambda storage: _at(file, starts[storage.key]), {})


def _at(file: IO[bytes], start: int) -> IO[bytes]:
    file.seek(start)
    return file
