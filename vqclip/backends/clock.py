"""Measures the seconds that a backend itself works: not what others do at its steps, nor the loading of models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vqclip.backends import OnStep
from vqclip.job import Step


class Clock:
    """Runs from its making on, but for what happens in `paused`.

    Args:
        device: where the work is done; what is queued there belongs to the work, so that a pause waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._away = device, 0.0
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Work so far."""
        self._settle()
        return time.perf_counter() - self._begun - self._away

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that is not counted, whether it ends or breaks off."""
        self._settle()
        left = time.perf_counter()
        try:
            yield
        finally:
            self._settle()
            self._away += time.perf_counter() - left

    def outside(self, on_step: OnStep) -> OnStep:
        """The same callback, not counted."""

        def report(step: Step) -> None:
            with self.paused():
                on_step(step)

        return report

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
