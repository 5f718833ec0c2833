"""One backend's picture as the start of another. Knows neither of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from vqclip.backends import Backend, OnStep, Opening
from vqclip.job import Job, Result


class Chain:
    """Makes the start picture with `first`, then the result with the backend that `then` builds around it.

    Args:
        first: makes the start, with the job's prompts, size and seed.
        then: (1, 3, H, W) in [0, 1] -> the backend that goes on from it.
        last: the same backend without a picture, to check jobs before any work.
        steps: updates of `first`; a job's own steps are those of `last`.
    """

    def __init__(self, first: Backend, then: Callable[[Tensor], Backend], last: Backend, steps: int) -> None:
        self._first, self._then, self._last, self._steps = first, then, last, steps

    def check(self, job: Job) -> None:
        """Raise InputError for a job that one of the two cannot take."""
        self._first.check(self._job(job))
        self._last.check(job)

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Make both pictures; `on_step` sees the second one's steps, which begin with the first one's result.

        Before these it sees each step of the first one as an `Opening`, so that it can end the work there too.
        """
        made = self._first.generate(self._job(job), lambda step: on_step(Opening(step)))
        result = self._then(made.image[None]).generate(job, on_step)
        facts = {**result.facts, "start": {"seconds": made.seconds, "steps": made.steps, **made.facts}}
        return replace(result, seconds=made.seconds + result.seconds, facts=facts)

    def stages(self, job: Job) -> list[tuple[Backend, Job]]:
        """Both backends with what each of them makes."""
        return [(self._first, self._job(job)), (self._last, job)]

    def _job(self, job: Job) -> Job:
        return replace(job, steps=self._steps)

