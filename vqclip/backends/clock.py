"""Measures the seconds that a backend itself works: not what others do at its steps, nor the loading of models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vqclip.backends import OnStep
from vqclip.job import Step


class Clock:
    """Runs from its making on, but for what happens in `paused`.

    What is queued on an accelerator belongs to the work: there moments are marks in the queue, and a pause lasts from
    the end of what was queued before it. Only asking for the seconds waits for the device.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pauses = device, list[tuple[Any, Any]]()
        self._begun = self._mark()

    @property
    def seconds(self) -> float:
        """Work so far."""
        return _between(self._begun, self._mark()) - sum(_between(*pause) for pause in self._pauses)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that is not counted, whether it ends or breaks off."""
        left = self._mark()
        try:
            yield
        finally:
            self._pauses.append((left, self._mark()))

    def outside(self, on_step: OnStep) -> OnStep:
        """The same callback, not counted."""

        def report(step: Step) -> None:
            with self.paused():
                on_step(step)

        return report

    def _mark(self) -> Any:
        """This moment: seconds on the CPU, elsewhere an event that is reached when all queued before it is done."""
        if self._device.type == "cuda":
            event: Any = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        if self._device.type == "mps":
            event = torch.mps.event.Event(enable_timing=True)
            event.record()
            return event
        return time.perf_counter()


def _between(first: Any, last: Any) -> float:
    """Seconds from one moment to a later one."""
    if isinstance(first, float):
        return float(last - first)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000
