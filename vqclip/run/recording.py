"""One picture's run folder while it is made: claimed and held, recorded, judged, saved in between, with its page."""

from __future__ import annotations

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from vqclip import config as configs
from vqclip.backends import Opening
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.compare.variants import flat
from vqclip.config import Config
from vqclip.job import InputError, Job, ResourceError, Result, Step, WeightsError
from vqclip.judge.judge import UNSURE, Judge
from vqclip.record import folder as folders
from vqclip.record import presence
from vqclip.record.checkpointing import Checkpoint, Pace
from vqclip.record.pace import VideoPlan
from vqclip.record.pace import plan as plan_video
from vqclip.record.recorder import Recorder
from vqclip.report.page import write_run_page
from vqclip.run import exact, recipe
from vqclip.run.assemble import Models, job_of

_BROKEN = "the picture holds numbers that are not finite"
_CURE = "the weights of generator or denoiser overflow; precision=fp32 or other weights may help"
Save = Callable[[], tuple[float, Mapping[str, Tensor]]]


class Stop(threading.Event):
    """Set by the first signal; `number` tells by which."""

    number: int = signal.SIGINT


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; everything made so far lies in `folder`. `number` is the signal's."""

    def __init__(
        self, folder: Path | None, *, whole: bool = False, number: int = signal.SIGINT, resumable: bool = False
    ) -> None:
        made = "the picture was finished and is" if whole else "the result so far is"
        more = f"; `vqclip resume {folder}` goes on" if resumable else ""
        super().__init__(f"interrupted; {made} in {folder}{more}")
        self.folder, self.number = folder, number


class Recording:
    """Use it as a context manager around the work, with `on_step` at every step and `finish` at the end.

    Whatever ends the block, the folder says what was made. A second signal ends at once, without a page.

    Args:
        single: a complete config of one picture. text: the config as the user gave it.
        judge: of its prompts, None for none; several seeds share one, for making it embeds a hundred texts.
        stop: set by a signal.
        folder: of an interrupted run that goes on, None for a new one. since: the checkpoint that it goes on from.

    Raises:
        InputError, ResourceError: see `folder.claim` and `Recorder`.
    """

    def __init__(
        self, single: Config, text: str, models: Models, judge: Judge | None, *, stop: Stop,
        folder: Path | None = None, since: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        self.config, self.job, self.since = single, job_of(single), since
        self.judge, self._models, self._stop, self._text = judge, models, stop, text
        self._resumed = folder is not None
        self._saved: int | None = None  # the step after which the last checkpoint was made
        self._seconds: float = since.about["seconds"] if since else 0.0
        self.folder = folder or folders.claim(
            Path(single.outputs), name=single.name, slug_from=self.job.title, digest=configs.digest(single)
        )
        self._pace = Pace(single.checkpoint.every, single.checkpoint.seconds)
        self.result: Result | None = None
        self.fault: Exception | None = None  # what ended this one of several
        self._held, self._over = ExitStack(), False

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(presence.held(self.folder, "this run"))
            held.enter_context(presence.beating(self.folder / "run.json"))
            if not self._resumed:
                folders.write_text(self.folder / "config.yaml", self._text)
                folders.write_text(self.folder / "config.resolved.yaml", configs.to_yaml(self.config))
            self._open()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over:
            return
        self._over = True
        with self._held:
            self.recorder.__exit__(kind, error, trace)
            if error is None:
                write_run_page(self.folder)
            elif isinstance(error, Interrupted | Exception):
                with suppress(InputError, ResourceError, OSError):  # what went wrong first says more
                    write_run_page(self.folder)

    def fail(self, error: Exception) -> None:
        """End this one for an error, before the block does."""
        self.fault = error
        self.__exit__(type(error), error, None)

    def discard(self) -> None:
        """Leave nothing of this picture: others were better."""
        self._over = True
        with self._held:
            self.recorder.discard()
            shutil.rmtree(self.folder, ignore_errors=True)

    def on_step(self, step: Step, save: Save | None = None) -> Mapping[str, float] | None:
        """Record a step, and save a checkpoint where one is due; the terms where they were logged.

        Args:
            step: the next one.
            save: tells the seconds so far and what the rest of the run depends on, None where a backend cannot.

        Raises:
            InputError, WeightsError: numbers that are not finite. ResourceError: see `Recorder.step`.
        """
        terms = self.recorder.step(step)
        if terms is not None and not math.isfinite(sum(terms.values())):
            raise _diverged(step, terms)
        if save is not None and step.index < step.total and self._pace.due(step.index):
            self._save(step.index, save)
        return terms

    def stopped(self, step: Step) -> bool:
        """Whether a signal ends the work here: the last step is always finished."""
        return self._stop.is_set() and (isinstance(step, Opening) or step.index < step.total)

    def stop(self, step: Step, save: Save | None = None) -> Interrupted:
        """End the work after a step, with a checkpoint where there can be one; returns what is to be raised."""
        if isinstance(step, Opening):
            self.recorder.warnings.append(f"stopped at step {step.index} of {step.total} of the start picture")
        elif save is not None and self._saved != step.index and self._pace.ever:
            self._save(step.index, save)
        return Interrupted(self.folder, number=self._stop.number, resumable=self._saved is not None)

    def finish(self, result: Result, *, undetermined: set[str], peak: int | None, facts: Mapping[str, Any]) -> Result:
        """Judge a result and write it down with facts for run.json; returns it with verdict and folder.

        Raises:
            WeightsError: its numbers are not finite. ResourceError: it cannot be written.
        """
        if not bool(torch.isfinite(result.image).all()):
            raise WeightsError(f"{_BROKEN} after the last step; {_CURE}")
        judge = self.judge
        verdict = judge.judge(result.image) if judge else None
        seconds = self._seconds + result.seconds
        result = replace(result, job=self.job, folder=self.folder, verdict=verdict, seconds=seconds)
        if judge and not judge.refusal and verdict is None:
            self.recorder.warnings.append(UNSURE)
            self._models.note(UNSURE)
        self.recorder.warnings += exact.warning(undetermined)
        more = {"peak_memory_bytes": peak, "changed": _changed(self.config)}
        self.recorder.finish(result, facts={**result.facts, **facts, **more})
        self.result = result
        return result

    def check(self) -> None:
        """After the block: raise ResourceError for what a full disk has cost, Interrupted for a signal at the end.

        Of a picture that was left behind or failed there is nothing to be said.
        """
        if self.result is None:
            return
        if self.recorder.shortage:
            raise ResourceError(f"{self.recorder.shortage}; free some")
        if self._stop.is_set():
            raise Interrupted(self.folder, whole=True, number=self._stop.number)

    def _open(self) -> None:
        config, models, judge = self.config, self._models, self.judge
        mapping, shown = configs.to_mapping(config), config.video
        facts = {**models.facts, "config": mapping, "seed": self.job.seed, "notices": models.notices(self.job)}
        self.recorder = Recorder(
            self.folder,
            self.job,
            plan=film_plan(config, self.job),
            formats=shown.formats,
            keep_frames=shown.keep,
            log_every=config.log_every,
            score=judge.curve if judge and not judge.refusal else None,
            score_every=config.score_every,
            facts=facts,
            scale=shown.scale,
        )
        try:
            self.recorder.recipe |= {"config": recipe.to_metadata(config, facts), "machine": exact.machine(facts)}
            self.recorder.resumable = self._pace.ever and isinstance(models.backend, VQGANBackend)
            if self._resumed:
                self.recorder.go_on(self.since)
            else:
                self.recorder.warnings += judge.notes if judge else ()
        except BaseException:
            self.recorder.discard()  # nothing was recorded: the folder stays as it was
            raise

    def _save(self, step: int, save: Save) -> None:
        """Write a checkpoint; one that cannot be written costs nothing but itself."""
        begun = time.perf_counter()
        facts = self._models.facts
        seconds, tensors = save()
        about = {"config": configs.to_mapping(self.config), "seconds": self._seconds + seconds}
        about |= {"versions": facts["versions"]}
        about |= {"weights": facts["weights"], "files": facts["files"], "machine": exact.machine(facts)}
        try:
            self.recorder.save(step, tensors, about)
            self._saved = step
        except ResourceError as error:
            line = f"no checkpoint after step {step}: {error}"
            if not any(each.startswith("no checkpoint") for each in self.recorder.warnings):
                self.recorder.warnings.append(line)
        self._pace.took(step, time.perf_counter() - begun)


def film_plan(config: Config, job: Job) -> VideoPlan:
    """The film that a config asks for."""
    shown = config.video
    return plan_video(
        job.steps, seconds=shown.seconds, fps=shown.fps, every=shown.every, hold=shown.hold, smooth=shown.smooth
    )


def _diverged(step: Step, terms: Mapping[str, float]) -> InputError | WeightsError:
    """Who is to blame for a loss that is not a number, as far as a step shows it."""
    if not bool(torch.isfinite(step.image).all()):
        return WeightsError(f"{_BROKEN} at step {step.index}; {_CURE}")
    if step.index == 0:  # nothing was learnt yet, so that no rate can be too high
        term = next(name for name, value in terms.items() if not math.isfinite(value))
        return WeightsError(
            f"the loss {term!r} is not a number before the first update: the weights of a guide overflow; "
            "precision=fp32 or other guides may help"
        )
    return InputError(f"the loss is not a number at step {step.index}; a lower optimizer.lr may help")


def _changed(config: Config) -> dict[str, Any]:
    """Dotted key -> default value, for every setting that is not the default."""
    default, now = (flat(configs.to_mapping(each)) for each in (Config(), config))
    return {key: before for key, before in default.items() if now[key] != before}
