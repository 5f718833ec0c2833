"""Composition root of `run`: a config's pictures, each in a run folder of its own, side by side where that pays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from vqclip import config as configs
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.config import Config, Loaded
from vqclip.config.effects import notices
from vqclip.job import Result
from vqclip.record import metadata
from vqclip.run import exact, recipe
from vqclip.run.assemble import Models, job_of, load_models
from vqclip.run.device import most_threads
from vqclip.run.drawing import Contest, draw
from vqclip.run.forecasts import forecasts
from vqclip.run.inputs import check_outputs, folder_names, with_origins
from vqclip.run.progress import Progress
from vqclip.run.recording import Interrupted, Recording, Stop, film_plan

__all__ = ["Interrupted", "Stop", "make_picture", "open_run", "rerun", "run", "singles", "stop_on_signal"]

STOPPING = tuple(  # signals that end a run after its step: Ctrl+C, a closed session, a batch system's warning
    number for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if (number := getattr(signal, name, None)) is not None
)


def run(loaded: Loaded, progress: Progress, models: Models | None = None) -> list[Result]:
    """Make every picture of a config, each in a run folder of its own, models loaded once.

    Seeds of one prompt are drawn side by side where the backend can, `batch` of them at a time; of a `keep` only the
    best are left. `models` holds the models when the caller has opened them already.

    Raises:
        InputError, WeightsError, ResourceError: see `vqclip.job`; ResourceError also after a picture whose frames or
            metrics met a full disk, and what ended one of several pictures when all others are made. Interrupted: after
            a saved stop.
    """
    models = models or open_run(loaded, progress)
    groups, contest = side_by_side(loaded.config, models), Contest.of(loaded.config)
    pictures = [single for group in groups for single in group]
    with with_origins(loaded.origins):
        for single in pictures:
            models.backend.check(job_of(single))
    first, most = pictures[0], max(map(len, groups))  # all are as large
    for forecast in forecasts(models, job_of(first), pictures=most) if first.preflight else ():
        progress.note(forecast.line)
    for line in film_plan(first, job_of(first)).notes if first.video.formats else ():
        progress.note(line)
    faults: list[Exception] = []
    text, results, begun = loaded.text or configs.to_yaml(loaded.config), list[Result](), 0
    with stop_on_signal() as stop:
        for group in groups:
            numbers = [(number, len(pictures)) for number in range(begun + 1, begun + len(group) + 1)]
            begun += len(group)
            results += make_pictures(
                group, text, models, progress, stop=stop, numbers=numbers, contest=contest, faults=faults
            )
    if faults:
        raise faults[0]
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
    stop: Stop,
    number: tuple[int, int],
    shared: bool = False,
) -> Result:
    """One picture in a run folder of its own, with its page, also where it was stopped or failed.

    A stop that comes with or after the last step ends the run with a whole picture, judged as any. Raises what `run`
    does.

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
    (result,) = make_pictures([single], text, models, progress, stop=stop, numbers=[number], shared=shared)
    return result


def make_pictures(
    group: Sequence[Config],
    text: str,
    models: Models,
    progress: Progress,
    *,
    stop: Stop,
    numbers: Sequence[tuple[int, int]],
    shared: bool = False,
    contest: Contest | None = None,
    faults: list[Exception] | None = None,
) -> list[Result]:
    """The same for pictures that differ in their seeds alone, drawn side by side; those that a contest leaves.

    What ended one of several alone is added to `faults`.
    """
    for notice in models.notices(job_of(group[0])):
        models.note(notice)
    judge = models.judge_of(job_of(group[0]))  # seeds have no say
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(single, text, models, judge, stop=stop)) for single in group]
        draw(models, recordings, progress, numbers=numbers, shared=shared, contest=contest)
    if faults is not None:
        faults += (each.fault for each in recordings if each.fault is not None)
    return report(recordings, progress, numbers=numbers)


def report(recordings: Sequence[Recording], progress: Progress, *, numbers: Sequence[tuple[int, int]]) -> list[Result]:
    """Show what was made, and raise what is to be said of it: a full disk, or a signal at the end."""
    results = []
    for recording, (number, count) in zip(recordings, numbers, strict=True):
        if recording.result is not None:
            if recording is not recordings[0]:
                progress.begin(recording.job, recording.folder, count, number)
            progress.end(recording.result)
            results.append(recording.result)
    for recording in recordings:
        recording.check()
    return results


def side_by_side(config: Config, models: Models) -> list[list[Config]]:
    """The pictures of a config in the groups that are drawn together: seeds of one prompt, where the backend can."""
    every, seeds = singles(config), config.seeds
    if not isinstance(models.backend, VQGANBackend):
        return [[single] for single in every]
    most = seeds if config.keep is not None else min(config.batch, seeds)
    prompts = [every[first : first + seeds] for first in range(0, len(every), seeds)]
    return [of_one[first : first + most] for of_one in prompts for first in range(0, seeds, most)]


def singles(config: Config) -> list[Config]:
    """One complete config per picture, the seeds of each prompt in turn: what run folder and picture record."""
    pictures = [(each, number) for each in configs.pictures(config) for number in range(config.seeds)]
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
            keep=None,
            seed=(picture.seed or 0) + number,
            threads=most_threads(config),
            name=name,
        )
        for name, (picture, number) in zip(names, pictures, strict=True)
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


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """The first signal of STOPPING lets the current step finish; a second ends at once, and a third in any case.

    SIGHUP stays ignored where `nohup` has seen to that.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals can only be caught in the main thread
        return

    def request(number: int, _frame: object) -> None:
        if not stop.is_set():
            stop.number = number
            stop.set()
            return
        for each in kept:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    kept = {number: signal.signal(number, request) for number in STOPPING}
    for number, handler in kept.items():
        if handler is signal.SIG_IGN and number != signal.SIGINT:  # which shells ignore for every job behind an `&`
            signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
