"""Ways of making a picture from a Job, behind one protocol: Backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vqclip.job import Job, Result, Step

OnStep = Callable[[Step], None]


class Backend(Protocol):
    """Makes a picture from a job; its models are loaded once and serve many jobs."""

    def check(self, job: Job) -> None:
        """Raise InputError for a job that these models cannot take, before any work is done."""

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Make the picture, calling `on_step` at every step, the last one included.

        What `on_step` raises ends the work and passes through.
        """
