"""The seconds of a backend are its own: callbacks, pauses and what is queued on a device."""

from __future__ import annotations

import time

import pytest
import torch

from vqclip.backends.clock import Clock
from vqclip.job import Step

CPU = torch.device("cpu")
STEP = Step(0, 1, torch.zeros(3, 2, 2), {})


class Hands:
    """A clock that only moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def test_callbacks_and_pauses_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    clock = Clock(CPU)
    report = clock.outside(lambda _step: hands.pass_(5.0))
    for _ in range(3):
        hands.pass_(0.5)
        report(STEP)
    with clock.paused():
        hands.pass_(7.0)
    hands.pass_(0.25)
    assert clock.seconds == 1.75


def test_what_a_callback_raises_passes_and_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    clock = Clock(CPU)

    def stop(_step: Step) -> None:
        hands.pass_(3.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clock.outside(stop)(STEP)
    hands.pass_(1.0)
    assert clock.seconds == 1.0


def test_what_is_queued_on_the_device_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA returns at once and works on; what is still queued when a pause begins is no part of the pause."""
    queue = Queue(monkeypatch)
    clock = Clock(torch.device("cuda"))
    queue.work(2.0)
    with clock.paused():
        queue.host(5.0)  # of which the device works for two
    queue.work(1.0)
    assert queue.waits == 0
    assert clock.seconds == pytest.approx(3.0)
    assert queue.waits > 0


class Queue:
    """A device that works off what is queued, and marks in its queue that know when they were reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.free, self.waits = 0.0, 0.0, 0
        queue = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, _stream: object) -> None:
                self.at = max(queue.now, queue.free)

            def synchronize(self) -> None:
                queue.waits += 1

            def elapsed_time(self, last: Event) -> float:
                return (last.at - self.at) * 1000

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: None)

    def work(self, seconds: float) -> None:
        self.free = max(self.now, self.free) + seconds

    def host(self, seconds: float) -> None:
        self.now += seconds
