"""Saves what a run would need to go on, so that a crash at any moment costs no more than the time since the last one.

A checkpoint is one safetensors file whose name holds its step and the hash of its bytes: it appears whole, by rename,
and any damage since is seen. Does not know what is in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vqclip.job import ResourceError
from vqclip.record.folder import to_json, write_bytes

FOLDER: Final = "checkpoints"
KEPT: Final = 3  # the newest ones
SHARE: Final = 0.01  # of a run's time that saving may take
_ABOUT: Final = "about"  # a tensor of bytes, the JSON of what is no tensor
_NAME: Final = re.compile(r"(\d{6,9})-([0-9a-f]{32})\.safetensors")
_LARGEST: Final = 4 << 30  # bytes that are read


@dataclass(frozen=True)
class Checkpoint:
    """One that was read whole: the step after which it was saved, its tensors of any shape, and JSON values beside."""

    step: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Save a checkpoint, tensors of any shape and JSON values, in `folder`, durably; drop all but the `KEPT` newest.

    Raises:
        ResourceError: it cannot be written; the ones before it stay.
    """
    text = torch.frombuffer(bytearray(to_json(dict(about)).encode()), dtype=torch.uint8)
    data = save({**{name: value.contiguous() for name, value in tensors.items()}, _ABOUT: text})
    path = folder / f"{step:06d}-{_digest(data)}.safetensors"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be made ({error.strerror})") from error
    write_bytes(path, data)
    for older in list(_found(folder))[KEPT:]:
        with suppress(OSError):
            older.unlink()
    return path


def forget(folder: Path, since: int) -> None:
    """Remove what a run that goes on from the step `since` will save anew, and what is damaged there."""
    for path in _found(folder):
        if int(path.name.partition("-")[0]) > since:
            with suppress(OSError):
                path.unlink()


def newest(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest whole checkpoint of a folder, None without any, and those after it that are damaged."""
    damaged: list[Path] = []
    for path in _found(folder):
        found = _read(path)
        if found is not None:
            return found, damaged
        damaged.append(path)
    return None, damaged


class Pace:
    """When to save: each so many steps, or seconds but never so often that it takes more than `SHARE` of the time.

    Args:
        steps: between two checkpoints, 0 for no matter. seconds: likewise; with both 0 nothing is ever due.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self._last, self._cost, self._step = time.perf_counter(), 0.0, 0

    @property
    def ever(self) -> bool:
        """Whether anything can be due."""
        return self._steps > 0 or self._seconds > 0

    def due(self, step: int) -> bool:
        """Whether to save after this step."""
        waited = time.perf_counter() - self._last
        by_steps = self._steps > 0 and step - self._step >= self._steps
        by_seconds = self._seconds > 0 and waited >= max(self._seconds, self._cost / SHARE)
        return by_steps or by_seconds

    def took(self, step: int, seconds: float) -> None:
        """Take note of a checkpoint after a step, and what it cost."""
        self._last, self._cost, self._step = time.perf_counter(), seconds, step


def _found(folder: Path) -> Iterator[Path]:
    """The checkpoints of a folder, newest first."""
    try:
        names = sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
    except OSError:
        return
    yield from sorted(names, key=lambda path: int(path.name.partition("-")[0]), reverse=True)


def _read(path: Path) -> Checkpoint | None:
    """A checkpoint, None where it is not what was written."""
    step, _, rest = path.name.partition("-")
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            return None
        data = path.read_bytes()
        if _digest(data) != rest.partition(".")[0]:
            return None
        tensors = load(data)
        about = json.loads(bytes(tensors.pop(_ABOUT).numpy()))
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return Checkpoint(int(step), tensors, about)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
