"""Chooses which steps a film looks at, how long it is and when each step is shown; plain arithmetic, no pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from vqclip.job import InputError

SECONDS: Final = 8.0
HOLD: Final = 1.5
FPS: Final = 25  # 4 hundredths of a second a frame: exact in GIF too
PICTURES: Final = 240  # at least so many steps are looked at, where there are so many: enough to remake a longer film
EARLY: Final = 2 / 3  # of the film goes by the steps done, the rest by those to come, each share to the power ...
EASE: Final = 0.6  # ... of this: the first sixth of the steps takes a quarter of the film, and its end comes to rest
_TIME: Final = 0.45  # seconds of film over which steps are averaged ...
_STEPS: Final = 4.0  # ... though never less than so many steps ...
_SHARE: Final = 15  # ... nor more than this part of the run


@dataclass(frozen=True)
class VideoPlan:
    """A film: `moving` frames from the first step to the last, then `held` ones of the final picture.

    Looks at every `every`-th step and the last. `smooth` scales the averaging over neighbouring steps; 0 shows
    each step as it is, without in-between frames. `notes` say in a line each what could not be as asked.
    """

    every: int
    fps: float
    moving: int
    held: int
    smooth: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the whole film."""
        return (self.moving + self.held) / self.fps

    def wants(self, step: int, total: int) -> bool:
        """Whether the film looks at step number `step` of 0..`total`."""
        return step % self.every == 0 or step == total

    def place(self, step: int, total: int) -> float:
        """Which frame, in 0..moving - 1 and between frames too, shows this step: the first and the last take longer."""
        share = 1.0 if step >= total else step / total
        return (self.moving - 1) * (EARLY * math.pow(share, EASE) + (1 - EARLY) * (1 - math.pow(1 - share, EASE)))

    def reach(self, step: int, total: int) -> float:
        """Over how many steps the film averages at this one: few at first, 0 at the end."""
        if step >= total:
            return 0.0
        most = min(total / _SHARE, max(_STEPS, _TIME * total * self.fps / self.moving))
        return self.smooth * min(most * math.sqrt(1 - step / total), step / 2)


def plan(
    steps: int,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    every: int | None = None,
    hold: float | None = None,
    smooth: float = 1.0,
) -> VideoPlan:
    """The film of `steps` updates that lasts `seconds` (8 when not given), the `hold` (1.5) at its end included.

    The length is the nearest whole number of frames. A hold takes half of the film at most. Raises InputError for
    a value outside steps >= 0, seconds 0.1..3600, fps 1..120, every >= 1, hold 0..60, smooth 0..10.
    """
    limits: dict[str, tuple[float | None, float, float]] = {
        "steps": (steps, 0, math.inf),
        "video.seconds": (seconds, 0.1, 3600),
        "video.fps": (fps, 1, 120),
        "video.every": (every, 1, math.inf),
        "video.hold": (hold, 0, 60),
        "video.smooth": (smooth, 0, 10),
    }
    for name, (value, low, high) in limits.items():
        if value is not None and not low <= value <= high:
            raise InputError(f"{name}: {value}; a number from {low:g} to {high:g} is needed")
    wished = SECONDS if seconds is None else seconds
    stays = HOLD if hold is None else hold
    rate = FPS if fps is None else fps
    frames = max(1, round(wished * rate))
    held = min(round(stays * rate), frames // 2)
    notes = []
    if abs(frames / rate - wished) > 0.05:
        notes.append(f"video.seconds: {wished:g} s at {rate:g} frames a second become {frames / rate:.3g} s")
    if stays - held / rate > max(0.05, 0.51 / rate):  # more than the rounding to whole frames
        notes.append(
            f"video.hold: {stays:g} s is more than half of {frames / rate:.3g} s; the end stays {held / rate:.3g} s"
        )
    if every is None:
        every = max(1, math.ceil(steps / max(PICTURES, frames - held)))
    return VideoPlan(every, rate, frames - held, held, smooth, tuple(notes))
