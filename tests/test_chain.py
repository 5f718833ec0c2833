"""One backend's picture as another's start, told by two backends that only keep what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vqclip.backends import OnStep, Opening
from vqclip.backends.chain import Chain
from vqclip.backends.diffusion import Guess
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
    openings, own = seen[:21], seen[21:]
    assert all(isinstance(step, Opening) for step in openings)
    assert [(step.index, step.total) for step in openings] == [(index, 20) for index in range(21)]
    assert torch.allclose(openings[7].image, torch.full((3, 4, 4), 0.07))
    assert [step.index for step in own] == [0, 1, 2, 3]
    assert not any(isinstance(step, Opening) for step in own)
    assert torch.allclose(own[0].image, torch.full((3, 4, 4), 0.2))
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


@pytest.mark.parametrize("opening", [True, False])
def test_an_interrupt_in_either_passes_through_at_once(opening: bool) -> None:
    seen: list[Step] = []

    def stop(step: Step) -> None:
        seen.append(step)
        if isinstance(step, Opening) is opening and step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Chain(Painter(), Painter, Painter(), steps=2).generate(JOB, stop)
    assert len(seen) == (2 if opening else 3 + 2)


def test_a_picture_of_the_start_is_decoded_when_somebody_looks() -> None:
    asked: list[int] = []

    def decode() -> Tensor:
        asked.append(1)
        return torch.ones(3, 4, 4)

    step = Opening(Guess(4, 9, decode))
    assert (step.index, step.total, asked) == (4, 9, [])
    assert torch.equal(step.image, torch.ones(3, 4, 4))
    assert asked == [1]
