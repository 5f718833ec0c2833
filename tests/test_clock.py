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
    """CUDA returns at once and works on; a pause that did not wait would count that as the callback's time."""
    hands = Hands(monkeypatch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: hands.pass_(2.0))
    clock = Clock(torch.device("cuda"))
    with clock.paused():
        pass
    assert clock.seconds == 4.0  # before the pause and at the end
