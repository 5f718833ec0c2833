"""Ways of making a picture from a Job, behind one protocol: Backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from vqclip.job import Job, Result, Step

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[Step], None]


class Opening(Step):
    """A step of the backend that makes another one's start: no part of the record, but a place to stop at."""

    def __init__(self, step: Step) -> None:
        vars(self).update(index=step.index, total=step.total, terms=step.terms, step=step)

    step: Step

    @cached_property
    def image(self) -> Tensor:
        """The start so far, (3, H, W) float32 in [0, 1]; decoded when somebody looks."""
        return self.step.image


class Backend(Protocol):
    """Makes a picture from a job; its models are loaded once and serve many jobs."""

    def check(self, job: Job) -> None:
        """Raise InputError for a job that these models cannot take, before any work is done."""

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Make the picture, calling `on_step` at every step, the last one included; before them at every `Opening`.

        What `on_step` raises ends the work and passes through.
        """
