"""What a run reports while it works: the protocol of every display, and one that shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vqclip.job import Job, Result, Step


class Progress(Protocol):
    """What a run reports. `terms` are floats, or None for a step that was not logged."""

    def note(self, message: str) -> None:
        """Something the user should know, one line."""

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        """Picture `number` (from 1) of `total_pictures` starts."""

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        """One iteration is over. `step.terms` stay unread: they are on the device."""

    def end(self, result: Result) -> None:
        """The picture is finished and written."""


class Silent:
    """Shows nothing."""

    def note(self, message: str) -> None:
        pass

    def begin(self, job: Job, folder: Path, total_pictures: int, number: int) -> None:
        pass

    def step(self, step: Step, terms: Mapping[str, float] | None) -> None:
        pass

    def end(self, result: Result) -> None:
        pass
