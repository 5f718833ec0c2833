"""Chooses which steps become frames and how fast they play; plain arithmetic, no frame is touched here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from vqclip.job import InputError

SECONDS: Final = 8.0
FPS_RANGE: Final = (10, 30)  # what `plan` chooses from; an explicit value may lie in 1..120


@dataclass(frozen=True)
class VideoPlan:
    """Which steps become frames (`every` n-th and the last), frames a second, seconds the last one stays."""

    every: int
    fps: float
    hold: float

    def wants(self, step: int, total: int) -> bool:
        """Whether step number `step` of 0..`total` is a frame."""
        return step % self.every == 0 or step == total

    def frames(self, steps: int) -> int:
        """How many frames a run of `steps` updates has, the held ones not counted."""
        return 1 + math.ceil(steps / self.every)


def plan(
    steps: int,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    every: int | None = None,
    hold: float = 1.0,
) -> VideoPlan:
    """Choose frames and pace so that the video of `steps` updates lasts about `seconds` (8 when not given).

    Short runs show every step; `every` grows when even 30 (or the given `fps`) frames a second are too
    slow for the rest. Explicit `every` and `fps` win, and the length follows. Raises InputError for a
    value outside steps >= 0, seconds 0..3600 (not 0), fps 1..120, every >= 1, hold 0..60.
    """
    limits: dict[str, tuple[float | None, float, float]] = {
        "steps": (steps, 0, math.inf),
        "video.seconds": (seconds, 0.1, 3600),
        "video.fps": (fps, 1, 120),
        "video.every": (every, 1, math.inf),
        "video.hold": (hold, 0, 60),
    }
    for name, (value, low, high) in limits.items():
        if value is not None and not low <= value <= high:
            raise InputError(f"{name}: {value}; a number from {low:g} to {high:g} is needed")
    wished = SECONDS if seconds is None else seconds
    if every is None:
        most = max(2, round(wished * (FPS_RANGE[1] if fps is None else fps)))
        every = max(1, math.ceil(steps / (most - 1)))
    if fps is None:
        frames = VideoPlan(every, 1, 0).frames(steps)
        fps = min(max(round(frames / wished), FPS_RANGE[0]), FPS_RANGE[1])
    return VideoPlan(every, fps, hold)
