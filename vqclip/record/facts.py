"""Turns what happened in a run into plain values for run.json; writes nothing itself."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqclip.job import Job
from vqclip.record import checkpointing


def described(job: Job) -> dict[str, Any]:
    """The job as JSON values, with its one-line title."""
    return {"title": job.title, **asdict(job)}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` but run.json, hidden ones and checkpoints, by its path inside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        beside = path.name == "run.json" or path.name.startswith(".") or path.parent == folder / checkpointing.FOLDER
        if path.is_file() and not beside:
            with open(path, "rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def finite(value: float) -> float | None:
    """The number, or None for NaN and Inf, which JSON cannot say."""
    return value if math.isfinite(value) else None


def one_line(error: BaseException) -> str:
    """Kind and message of an error, at most about 500 characters."""
    said = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
