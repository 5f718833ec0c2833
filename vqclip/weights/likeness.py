"""Recognises a model that was saved again: by the numbers of its tensors, whatever their file, names and precision.

A sketch holds the least of the hashes of all tensors (the bottom-k sketch of A. Z. Broder, On the resemblance and
containment of documents, 1997), so that models which share a tower are recognised too, and fits on one line. It says
nothing on purpose: whoever changes every tensor a little is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vqclip.weights import flat
from vqclip.weights.regular import opened
from vqclip.weights.tensors import RefusedError, Region

KEPT: Final = 48  # hashes in a sketch
SHARED: Final = 3  # hashes in common that no two models have by chance; two tables of sines and cosines may
SMALLEST: Final = 1024  # numbers in a tensor that tells models apart
LOOKED_AT: Final = 4096  # of the first numbers of a tensor
_DIGITS: Final = 12  # of a hash: 48 bits


def sketch(state: Mapping[str, Tensor]) -> str:
    """Hashes of the larger tensors of a state dict, separated by spaces; like those of its copy in half precision."""
    return _sketch((value.numel(), value.detach().reshape(-1)[:LOOKED_AT].cpu()) for value in state.values())


def sketch_files(folder: Path) -> str:
    """The sketch of the safetensors files in a folder, of which only the first numbers of each tensor are read.

    Empty where there is none, or one that cannot be read: whoever loads it says so.
    """
    try:
        return _sketch(part for path in sorted(folder.glob("*.safetensors")) for part in _beginnings(path))
    except (OSError, RefusedError, ValueError, KeyError, TypeError):
        return ""


def alike(one: str, other: str) -> bool:
    """Whether two sketches are of the same model, or of models that share a tower."""
    first, second = set(one.split()), set(other.split())
    return len(first & second) >= max(1, min(SHARED, len(first), len(second)))


def _sketch(parts: Iterable[tuple[int, Tensor]]) -> str:
    found: set[str] = set()
    for count, numbers in parts:
        if count < SMALLEST or not numbers.is_floating_point() or bool((numbers == numbers[0]).all()):
            continue
        for rounded in (numbers.to(torch.float16), numbers.to(torch.bfloat16)):
            content = rounded.view(torch.int16).numpy().tobytes()
            found.add(hashlib.sha256(count.to_bytes(8, "little") + content).hexdigest()[:_DIGITS])
    return " ".join(sorted(found)[:KEPT])


def _beginnings(path: Path) -> Iterator[tuple[int, Tensor]]:
    """How many numbers each tensor of a file has, and the first of them."""
    with opened(path) as file:
        found = flat.open_safetensors(file)
        regions: Mapping[str, Region] = found.content
        for region in regions.values():
            kind, count = region.storage.dtype, region.storage.count
            data = found.open_storage(region.storage).read(min(count, LOOKED_AT) * kind.itemsize)
            if data:
                yield count, torch.frombuffer(bytearray(data), dtype=kind)
