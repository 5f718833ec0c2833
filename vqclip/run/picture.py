"""Composition root: config -> models -> jobs -> recorders. The one place that joins the parts."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vqclip import config as configs
from vqclip.backends import Opening
from vqclip.compare.variants import flat
from vqclip.config import Config, Loaded
from vqclip.config.effects import notices
from vqclip.job import InputError, Job, Result, Step
from vqclip.record import folder as folders
from vqclip.record import metadata
from vqclip.record.pace import VideoPlan
from vqclip.record.pace import plan as plan_video
from vqclip.record.recorder import Recorder
from vqclip.report.page import write_run_page
from vqclip.run import exact, recipe
from vqclip.run.assemble import Models, job_of, load_models
from vqclip.run.forecasts import forecasts
from vqclip.run.inputs import check_outputs, folder_names, with_origins
from vqclip.run.memory import forget_peak, held
from vqclip.run.progress import Progress


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; everything made so far lies in `folder`."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__(f"interrupted; the result so far is in {folder}")
        self.folder = folder


def run(loaded: Loaded, progress: Progress, models: Models | None = None) -> list[Result]:
    """Make every picture of a config, each in a run folder of its own, models loaded once.

    `models` holds the models when the caller has opened them already.

    Raises:
        InputError, WeightsError, ResourceError: see `vqclip.job`. Interrupted: after a saved stop.
    """
    models = models or open_run(loaded, progress)
    pictures = singles(loaded.config)
    with with_origins(loaded.origins):
        for single in pictures:
            models.backend.check(job_of(single))
    for forecast in forecasts(models, job_of(pictures[0])) if pictures[0].preflight else ():  # the others are as large
        progress.note(forecast.line)
    for line in _film(pictures[0], job_of(pictures[0])).notes if pictures[0].video.formats else ():
        progress.note(line)
    results = []
    with stop_on_signal() as stop:
        for number, single in enumerate(pictures, start=1):
            text = loaded.text or configs.to_yaml(loaded.config)
            folder = (number, len(pictures))
            results.append(make_picture(single, text, models, progress, stop=stop, number=folder))
    return results


def open_run(loaded: Loaded, progress: Progress) -> Models:
    """The models of a run; before that, what has no effect is said, and what cannot be is refused with key and line.

    Raises:
        InputError: an output folder that is taken, and as `load_models`. WeightsError, ResourceError: as that.
    """
    for line in notices(loaded.origins, [loaded.config]):
        progress.note(line)
    with with_origins(loaded.origins):
        check_outputs(loaded.config)
        return load_models(loaded.config, progress.note)


def make_picture(
    single: Config,
    text: str,
    models: Models,
    progress: Progress,
    *,
    stop: threading.Event,
    number: tuple[int, int],
    shared: bool = False,
) -> Result:
    """One picture in a run folder of its own, with its page.

    Args:
        single: a complete config of one picture.
        text: the config as the user gave it.
        models: opened for it.
        progress: is shown every step.
        stop: set by a signal.
        number: which picture this is, from 1, and of how many.
        shared: the process also works for others, so that the memory which it holds says nothing of this picture;
            on CUDA it is counted by tensors, which does.

    Raises:
        InputError: what these models cannot draw. ResourceError: no room in memory or on the disk.
        Interrupted: by `stop`, what was made so far saved.
    """
    job, digest = job_of(single), configs.digest(single)
    for notice in models.notices(job):
        models.note(notice)
    folder = folders.claim(Path(single.outputs), name=single.name, slug_from=job.title, digest=digest)
    folders.write_text(folder / "config.yaml", text)
    folders.write_text(folder / "config.resolved.yaml", configs.to_yaml(single))
    progress.begin(job, folder, number[1], number[0])
    result = _record(single, job, models, folder=folder, progress=progress, stop=stop, shared=shared)
    write_run_page(folder)
    progress.end(result)
    return result


def _film(config: Config, job: Job) -> VideoPlan:
    shown = config.video
    return plan_video(
        job.steps, seconds=shown.seconds, fps=shown.fps, every=shown.every, hold=shown.hold, smooth=shown.smooth
    )


def singles(config: Config) -> list[Config]:
    """One complete config per picture: what a run folder and the picture itself record."""
    pictures = configs.pictures(config)
    names = [config.name] * len(pictures) if config.name is None else folder_names(config.name, len(pictures))
    return [
        replace(
            config,
            include=picture.include,
            exclude=picture.exclude,
            extras=picture.extras,
            prompts=(),
            variants=(),
            seeds=1,
            seed=picture.seed or 0,
            threads=torch.get_num_threads(),
            name=name,
        )
        for name, picture in zip(names, pictures, strict=True)
    ]


def rerun(picture: Path, overrides: Sequence[str], progress: Progress, *, trust: bool = False) -> list[Result]:
    """Repeat a run from the metadata of its picture; what may make the pixels differ is said.

    Args:
        picture: a PNG, or a film, that carries its recipe.
        overrides: `key.sub=value`, the user's own words.
        progress: is shown every step.
        trust: take paths and other people's models from the picture too, see `recipe.from_metadata`.

    Raises:
        InputError: no readable picture, metadata that is not a valid config, or one that asks for too much.
    """
    found = metadata.read(picture)
    loaded, lines = recipe.from_metadata(found, picture, overrides, trust=trust)
    for line in lines:
        progress.note(line)
    models = open_run(loaded, progress)
    before, now = ({**each["weights"], **each["files"]} for each in (found, models.facts))
    for role in now:
        if role in before and before[role] != now[role]:
            progress.note(f"{role} is not the file that made this picture; the pixels will differ")
    differ = exact.differences(
        found["machine"], exact.machine(models.facts), found["versions"], models.facts["versions"]
    )  # fmt: skip
    if differ:
        progress.note(differ)
    return run(loaded, progress, models)


def _record(
    config: Config, job: Job, models: Models, *, folder: Path, progress: Progress, stop: threading.Event, shared: bool
) -> Result:
    """One picture: the backend works, the recorder writes, the judge looks."""
    judge = models.judge_of(job)
    shown = config.video
    facts = {**models.facts, "config": configs.to_mapping(config), "seed": job.seed, "notices": models.notices(job)}
    recorder = Recorder(
        folder,
        job,
        plan=_film(config, job),
        formats=shown.formats,
        keep_frames=shown.keep,
        log_every=config.log_every,
        score=judge.curve if judge and not judge.refusal else None,
        score_every=config.score_every,
        facts=facts,
        scale=shown.scale,
    )
    recorder.recipe |= {"config": recipe.to_metadata(config, facts), "machine": exact.machine(facts)}
    recorder.warnings += judge.notes if judge else ()

    def on_step(step: Step) -> None:
        if isinstance(step, Opening):
            recorder.opening(step)
            if stop.is_set():
                recorder.warnings.append(f"stopped at step {step.index} of {step.total} of the start picture")
                raise Interrupted(folder)
            return
        terms = recorder.step(step)
        if terms is not None and not math.isfinite(sum(terms.values())):
            raise InputError(f"the loss is not a number at step {step.index}; a lower optimizer.lr may help")
        progress.step(step, terms)
        if stop.is_set():
            raise Interrupted(folder)

    device = torch.device(models.facts["device"])
    its_own = forget_peak(device) and not (shared and device.type == "cpu")
    with recorder, exact.deterministic() as undetermined:
        result = models.backend.generate(job, on_step)
        peak = held(device)[1] if its_own else None
        result = replace(result, folder=folder, verdict=judge.judge(result.image) if judge else None)
        recorder.warnings += exact.warning(undetermined)
        recorder.finish(result, facts={**result.facts, "peak_memory_bytes": peak, "changed": _changed(config)})
    return result


def _changed(config: Config) -> dict[str, Any]:
    """Dotted key -> default value, for every setting that is not the default."""
    default, now = (flat(configs.to_mapping(each)) for each in (Config(), config))
    return {key: before for key, before in default.items() if now[key] != before}


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM lets the current step finish; a second SIGINT ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals can only be caught in the main thread
        return

    def request(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    kept = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
