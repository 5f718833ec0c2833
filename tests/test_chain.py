"""One backend's picture as another's start, told by two backends that only keep what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vqclip.backends import OnStep
from vqclip.backends.chain import Chain
from vqclip.job import InputError, Job, Prompt, Result, Step


@dataclass
class Painter:
    """Fills the picture with one grey, brighter than its start."""

    start: Tensor | None = None
    jobs: list[Job] = field(default_factory=list)
    refuses: bool = False

    def check(self, job: Job) -> None:
        if self.refuses:
            raise InputError("not this one")

    def generate(self, job: Job, on_step: OnStep) -> Result:
        self.jobs.append(job)
        base = torch.zeros(3, 4, 4) if self.start is None else self.start[0]
        for index in range(job.steps + 1):
            on_step(Step(index, job.steps, base + index / 100, {}))
        return Result(job, base + job.steps / 100, {}, job.steps, 1.0, facts={"seed": job.seed})


JOB = Job((Prompt("apple"),), steps=3, seed=5)


def test_the_second_goes_on_from_the_first() -> None:
    first, last, seen = Painter(), Painter(), list[Step]()
    result = Chain(first, Painter, last, steps=20).generate(JOB, seen.append)
    assert [job.steps for job in first.jobs] == [20]
    assert first.jobs[0].seed == 5
    assert [step.index for step in seen] == [0, 1, 2, 3]  # of the second alone
    assert torch.allclose(seen[0].image, torch.full((3, 4, 4), 0.2))
    assert torch.allclose(result.image, torch.full((3, 4, 4), 0.23))
    assert result.facts["start"]["steps"] == 20
    assert result.facts["seed"] == 5
    assert result.seconds == 2.0  # of both


@pytest.mark.parametrize("which", [0, 1])
def test_either_can_refuse_a_job(which: int) -> None:
    painters = [Painter(), Painter()]
    painters[which].refuses = True
    with pytest.raises(InputError, match="not this one"):
        Chain(painters[0], Painter, painters[1], steps=2).check(JOB)


def test_an_interrupt_in_the_second_passes_through() -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Chain(Painter(), Painter, Painter(), steps=2).generate(JOB, stop)
