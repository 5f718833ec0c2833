"""Composition root of `resume`: goes on with a run that was interrupted, in its own folder, to the same end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqclip import config as configs
from vqclip.compare.variants import flat
from vqclip.job import InputError, Result
from vqclip.record import checkpointing, presence
from vqclip.record.checkpointing import Checkpoint
from vqclip.record.recorder import clear
from vqclip.report.page import write_run_page
from vqclip.run import exact
from vqclip.run.assemble import Models, job_of, load_models
from vqclip.run.drawing import draw
from vqclip.run.forecasts import forecasts
from vqclip.run.inputs import status_of
from vqclip.run.picture import report, stop_on_signal
from vqclip.run.progress import Progress
from vqclip.run.recording import Recording

RESOLVED = "config.resolved.yaml"


def resume(folders: Sequence[Path], progress: Progress, *, changed: bool = False) -> list[Result]:
    """Finish interrupted runs, one after the other.

    On the same machine, with the same versions and threads, each ends with the pixels, metrics and frames of a run that
    was never interrupted. It goes on from its newest whole checkpoint; without any it begins anew in its folder, as
    the other backends, which make none, always do.

    Args:
        folders: run folders.
        progress: is shown what goes on, and every step.
        changed: go on although settings or weights are others than at the checkpoint.

    Raises:
        InputError: no run folder, a run that is done or that a process works on, or other settings or weights.
            WeightsError, ResourceError, Interrupted: see `picture.run`.
    """
    for folder in folders:
        _check(folder)
    results = []
    for place, folder in enumerate(folders, start=1):
        results += _resume(folder, progress, (place, len(folders)), changed=changed)
    return results


def _check(folder: Path) -> None:
    """Refuse what is no interrupted run; one that lacks nothing but its page is."""
    if not (folder / RESOLVED).is_file():
        raise InputError(f"{folder}: not the folder of a run that was begun; one with {RESOLVED} is needed")
    if presence.in_use(folder):
        raise InputError(f"{folder}: another process works on this run")
    if status_of(folder) == "done" and (folder / "report.html").exists():
        raise InputError(f"{folder}: this run is done; `vqclip rerun {folder / 'final.png'}` repeats it")


def _resume(folder: Path, progress: Progress, number: tuple[int, int], *, changed: bool) -> list[Result]:
    if status_of(folder) == "done":
        with presence.held(folder, "this run"):
            clear(folder)
            shutil.rmtree(folder / checkpointing.FOLDER, ignore_errors=True)
            write_run_page(folder)
        progress.note(f"{folder}: the picture was done; its page is made")
        return []
    config = configs.load(folder / RESOLVED).config
    since, damaged = checkpointing.newest(folder / checkpointing.FOLDER)
    for path in damaged:
        progress.note(f"{path}: damaged; it is left out")
    models = load_models(config, progress.note)
    said = list(_differences(since, configs.to_mapping(config), models))
    if said and not changed:
        raise InputError(f"{folder}: {'; '.join(said)}; --changed goes on nevertheless")
    job = job_of(config)
    models.backend.check(job)
    for forecast in forecasts(models, job) if config.preflight else ():
        progress.note(forecast.line)
    where = f"step {since.step} of {job.steps}" if since else "its beginning: there is no checkpoint"
    progress.note(f"{folder}: goes on from {where}")
    if since is not None:
        then, now = since.about, models.facts
        differ = exact.differences(then["machine"], exact.machine(now), then["versions"], now["versions"])
        for line in filter(None, [*said, differ]):
            progress.note(line)
    with stop_on_signal() as stop:
        judge = models.judge_of(job)
        with Recording(config, "", models, judge, stop=stop, folder=folder, since=since) as recording:
            try:
                draw(models, [recording], progress, numbers=[number])
            except (KeyError, ValueError) as error:
                if since is None or isinstance(error, InputError):
                    raise
                raise InputError(f"{folder}: the checkpoint does not fit these models ({error})") from error
        return report([recording], progress, numbers=[number])


def _differences(since: Checkpoint | None, config: Mapping[str, Any], models: Models) -> Iterator[str]:
    """What is another now than at the checkpoint, one line each."""
    if since is None:
        return
    was, now = flat(since.about["config"]), flat(config)
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            yield f"{key} was {was.get(key)!r} and is {now.get(key)!r}"
    before = {**since.about["weights"], **since.about["files"]}
    for role, digest in {**models.facts["weights"], **models.facts["files"]}.items():
        if before.get(role) != digest:
            yield f"{role} is another file than before"
