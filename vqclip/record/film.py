"""Turns the pictures of steps into the frames of a film that grows calmly; knows numbers, no file and no encoder.

Steps are drawn with new noise and new crops each, and for a while with several tries, so that shown one by one
they strobe. Here a frame is a mean over the steps before it, which narrows to the last step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vqclip.record.pace import VideoPlan

Frame = NDArray[np.uint8]  # (H, W, 3)
POLES: Final = 2  # running means in a row: one alone lets the noise of each step through as a flicker
FADE: Final = 0.5  # seconds from the mean to the final picture, where a run ended before the mean had narrowed


class Film:
    """Sends the frames of `plan` to `send`, as they become known.

    Constant memory and constant work a step: two running means and the one that was shown last, float32. Means are
    of pixel values as stored; in linear light what is bright would bleed over every edge that moves.
    """

    def __init__(self, plan: VideoPlan, send: Callable[[Frame], None]) -> None:
        self._plan, self._send = plan, send
        self._means: list[NDArray[np.float32]] = []
        self._before: NDArray[np.float32] | None = None
        self._step, self._place = 0, 0.0
        self._sent = 0  # frames

    def show(self, picture: Frame, step: int, total: int) -> None:
        """Take the picture of a step of 0..`total`, (H, W, 3) uint8; steps come in order."""
        now, until = picture.astype(np.float32), self._plan.place(step, total)
        if self._before is None:
            self._means = [now.copy() for _ in range(POLES)]
            self._before, self._place = now, until
        reach = self._plan.reach(step, total)
        share = 1 - math.exp(-max(1, step - self._step) / reach) if reach > 0 else 1.0
        for mean in self._means:
            mean += share * (now - mean)
            now = mean
        self._step = step
        between = self._plan.smooth > 0 and until > self._place
        while self._sent < self._plan.moving and self._sent <= until + 1e-9:
            part = min(max((self._sent - self._place) / (until - self._place), 0), 1) if between else 1.0
            if not between and self._sent < until - 1e-9:
                self._emit(self._before)  # each step as it is, until the next one's time has come
            else:
                self._emit(now if part == 1 else self._before + np.float32(part) * (now - self._before))
        self._before, self._place = now.copy(), until

    def end(self, final: Frame | None = None) -> None:
        """Send what is left: the last step, or the `final` picture where that is another, stays for the hold."""
        if self._before is None:
            return
        last = _whole(self._before)
        goal = last if final is None or final.shape != last.shape else final
        held = self._plan.held
        fades = 0 if np.array_equal(goal, last) else min(held, round(FADE * self._plan.fps)) or 1
        for number in range(1, fades + 1):
            self._emit(self._before + np.float32(number / fades) * (goal - self._before))
        for _ in range(held - fades):
            self._emit(goal)
        self._before, self._means = None, []

    def _emit(self, values: NDArray[np.float32] | Frame) -> None:
        self._send(_whole(values))
        self._sent += 1


def _whole(values: NDArray[np.float32] | Frame) -> Frame:
    whole: Frame = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return whole
