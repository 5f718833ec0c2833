"""Lets a backend draw what recordings record: one picture, or several side by side of which the best may go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from vqclip import images
from vqclip.backends import Opening
from vqclip.backends.clock import Clock
from vqclip.backends.vqgan.backend import Drawing, VQGANBackend
from vqclip.backends.vqgan.population import Leaders
from vqclip.config import Config
from vqclip.job import InputError, Result, Step, Steps, WeightsError
from vqclip.record.folder import write_bytes
from vqclip.run import exact
from vqclip.run.assemble import Models
from vqclip.run.memory import forget_peak, held
from vqclip.run.progress import Progress
from vqclip.run.recording import Recording

SHEET = "population.png"  # in the folder of each picture that was kept: all of them, as they were compared
_COLUMNS = 4


@dataclass(frozen=True)
class Contest:
    """Of pictures side by side the best `keep` go on after a `share` of their steps, as guides or judge say."""

    keep: int
    by: str
    share: float

    @classmethod
    def of(cls, config: Config) -> Contest | None:
        """What a config asks for, None where all seeds are wanted."""
        return None if config.keep is None else cls(config.keep, config.keep_by, config.keep_share)


def draw(
    models: Models,
    recordings: Sequence[Recording],
    progress: Progress,
    *,
    numbers: Sequence[tuple[int, int]],
    shared: bool = False,
    contest: Contest | None = None,
) -> None:
    """Draw the picture of each recording and finish it there; what a contest leaves behind is discarded.

    Where the numbers of one of several pictures fail, it ends alone. To be called within the recordings.

    Args:
        models: opened for them.
        recordings: open, of jobs that differ in their seeds alone; one where the backend has a loop of its own.
        progress: is shown the steps of the first that is left.
        numbers: which pictures these are, of how many.
        shared: see `picture.make_picture`.
        contest: which of them are left, None for all.

    Raises:
        InputError, WeightsError: numbers that are not finite, in the last picture left. Interrupted: a signal came.
    """
    backend, first = models.backend, recordings[0]
    number, count = numbers[0]
    progress.begin(first.job, first.folder, count, number)
    if len(recordings) > 1:
        seeds = ", ".join(str(each.job.seed) for each in recordings)
        progress.note(f"side by side: seeds {seeds}")
    device = torch.device(models.facts["device"])
    its_own = forget_peak(device) and not (shared and device.type == "cpu") and len(recordings) == 1
    with exact.deterministic() as undetermined:
        if isinstance(backend, VQGANBackend):
            found = _Together(backend, recordings, progress, contest).draw()
        else:
            found = [(first, backend.generate(first.job, partial(_follow, first, progress)), {})]
        peak = held(device)[1] if its_own else None
        for recording, result, facts in found:
            recording.finish(result, undetermined=undetermined, peak=peak, facts=facts)


def _follow(recording: Recording, progress: Progress, step: Step) -> None:
    """A step of a backend that has a loop of its own."""
    if isinstance(step, Opening):
        recording.recorder.opening(step)
    else:
        progress.step(step, recording.on_step(step))
    if recording.stopped(step):
        raise recording.stop(step)


Found = list[tuple[Recording, Result, Mapping[str, Any]]]


class _Together:
    """One drawing for several recordings; knows which of them are left."""

    def __init__(
        self, backend: VQGANBackend, recordings: Sequence[Recording], progress: Progress, contest: Contest | None
    ) -> None:
        self._left, self._progress, self._contest = list(recordings), progress, contest
        since = recordings[0].since
        self._drawing = Drawing(
            backend, [each.job for each in recordings], saved=None if since is None else since.tensors
        )
        self._clock = Clock(backend.generator.device)
        self._standing = Leaders(1)
        self._facts: dict[str, Any] = {}

    def draw(self) -> Found:
        """Every step of all of them; what those came to that are left in the end."""
        if len(self._left) > 1:
            self._facts["side_by_side"] = [each.job.seed for each in self._left]
        for steps in self._drawing:
            with self._clock.paused():
                steps = self._record(steps)
                if self._contest is not None and steps.index >= round(self._contest.share * steps.total):
                    steps = self._choose(steps, self._contest)
        values = {name: each.float().tolist() for name, each in steps.terms.items()}  # device sync
        return [
            (
                recording,
                Result(
                    recording.job, steps.images[row].cpu(), {name: each[row] for name, each in values.items()},
                    steps.index, self._clock.seconds,
                ),
                self._facts,
            )
            for row, recording in enumerate(self._left)
        ]  # fmt: skip

    def _record(self, steps: Steps) -> Steps:
        """Write a step down in each folder; what is left of it without those whose numbers fail."""
        failed: list[tuple[Recording, Exception]] = []
        rows, shown = [], None
        for row, recording in enumerate(self._left):
            try:
                terms = recording.on_step(steps[row], partial(self._save, row))
            except (InputError, WeightsError) as error:
                failed.append((recording, error))
                if len(failed) == len(self._left):
                    raise
                continue
            rows.append(row)
            shown = shown or (steps[row], terms)
        for recording, problem in failed:
            recording.fail(problem)
            self._progress.note(f"{recording.folder}: {problem}")
        if failed:
            steps = self._keep(steps, rows)
        if self._contest is not None:
            self._standing.of(steps)
        if shown is not None:
            self._progress.step(*shown)
            if self._left[0].stopped(shown[0]):
                ends = [each.stop(steps[row], partial(self._save, row)) for row, each in enumerate(self._left)]
                raise ends[0]
        return steps

    def _save(self, row: int) -> tuple[float, Mapping[str, torch.Tensor]]:
        return self._clock.seconds, self._drawing.saved(row)

    def _choose(self, steps: Steps, contest: Contest) -> Steps:
        """End the contest: the best go on, the others are left behind."""
        self._contest = None
        judge = self._left[0].judge
        if contest.by == "judge" and (judge is None or judge.refusal):
            self._progress.note("the judge cannot read the prompt; the guides choose")
            contest = replace(contest, by="guides")
        ranked = self._ranked(steps, contest.by)
        rows = sorted(row for _, row in ranked[: contest.keep])
        scores = {self._left[row].job.seed: score for score, row in ranked}
        kept = [self._left[row].job.seed for row in rows]
        self._facts |= {
            "population": {"by": contest.by, "step": steps.index, "scores": scores, "kept": kept}
        }
        self._progress.note(
            f"{len(rows)} of {len(self._left)} seeds go on after step {steps.index}, by the {contest.by}: "
            f"{', '.join(map(str, kept))}"
        )
        labels = [
            f"seed {each.job.seed}  {scores[each.job.seed]:.3f}{'  kept' if row in rows else ''}"
            for row, each in enumerate(self._left)
        ]
        sheet = images.to_png(images.grid(list(steps.images.cpu()), _COLUMNS, labels))
        for row, recording in enumerate(self._left):
            if row in rows:
                write_bytes(recording.folder / SHEET, sheet)
            else:
                recording.discard()
        return self._keep(steps, rows)

    def _ranked(self, steps: Steps, by: str) -> list[tuple[float, int]]:
        """Scores, larger is better, with the rows that they belong to, best first."""
        if by == "judge":
            scores = [_score(recording, steps.images[row]) for row, recording in enumerate(self._left)]
        else:
            scores = [-loss for loss in self._standing.recent.nan_to_num(nan=1e9).tolist()]
        return sorted(((score, row) for row, score in enumerate(scores)), key=lambda each: (-each[0], each[1]))

    def _keep(self, steps: Steps, rows: list[int]) -> Steps:
        """Go on with some of the pictures."""
        self._drawing.keep(rows)
        if self._standing.recent.dim():
            self._standing.keep(rows)
        self._left = [self._left[row] for row in rows]
        return steps.rows(torch.tensor(rows, device=steps.images.device))


def _score(recording: Recording, image: torch.Tensor) -> float:
    """How the judge likes a picture: its margin over the best rival."""
    verdict = recording.judge.judge(image) if recording.judge else None
    return -1e9 if verdict is None else verdict.margin
