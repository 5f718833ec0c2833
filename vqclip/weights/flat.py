"""Flat files, a description and then the numbers: safetensors, and what torch.save wrote before version 1.6.

Sees to it that the description covers the file exactly. Which tensors are wanted is the caller's affair.
"""

from __future__ import annotations

import json
from math import prod
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from vqclip.weights import pickles
from vqclip.weights.tensors import Opened, RefusedError, Region, Storage

_LARGEST_HEADER = 2 << 20  # bytes of a safetensors header; 1000 tensors need 0.1 MB
_MOST_AXES = 8
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def open_safetensors(file: IO[bytes]) -> Opened:
    """What the safetensors library, which refuses gaps, overlaps and wrong sizes, finds in a file that has a name.

    Kept here are two checks that the library has not: it reads headers of 100 MB, and of a key that is there twice,
    which another reader may take for another tensor, the last. Numbers are read as those of other formats, for the
    library maps the file, which must then stay as it is while the model is used. Raises RefusedError.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LARGEST_HEADER, size - 8):
        raise RefusedError(f"a safetensors header of {length} bytes in a file of {size}; at most {_LARGEST_HEADER}")
    content, starts, end = {}, {}, 8 + length
    try:
        with safe_open(file.name, "np") as library:
            metadata = library.metadata() or {}
            for key in library.offset_keys():  # in the order of the file, which leaves no gaps
                region = content[key] = _region(key, library.get_slice(key))
                starts[key], end = end, end + region.storage.nbytes
    except SafetensorError as error:
        said = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise RefusedError(f"no sound safetensors file ({said}); fetch it again") from error
    json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    return Opened(content, lambda storage: _at(file, starts[storage.key]), metadata)


def _region(key: str, found: Any) -> Region:
    """One tensor of a safetensors file, which is a storage of its own."""
    dtype, shape = _DTYPES.get(found.get_dtype()), tuple(found.get_shape())
    if dtype is None:
        raise RefusedError(f"{key[:80]!r} has a dtype that is not supported")
    if len(shape) > _MOST_AXES:
        raise RefusedError(f"{key[:80]!r} has {len(shape)} axes; at most {_MOST_AXES} are read")
    steps = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Region(Storage(key, dtype, prod(shape)), 0, shape, steps)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RefusedError("a safetensors header with a key twice")
    return made


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
