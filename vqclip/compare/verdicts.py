"""What became of each cell, and the verdict on its picture: remembered where the same judge made it, else made now.

Averages and compares nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vqclip import images
from vqclip.compare.cells import Cell, state
from vqclip.compare.finished import Run, read_run
from vqclip.compare.variants import steering
from vqclip.config.document import clean
from vqclip.job import InputError, Job, Verdict
from vqclip.judge.judge import UNSURE, Judge
from vqclip.weights.likeness import alike

JudgeOf = Callable[[Job], Judge | None]


@dataclass(frozen=True)
class Found:
    """A cell and what lies in its folder; `verdict` is None until a judge has looked, `refusal` says why it cannot."""

    cell: Cell
    at: tuple[int, int]  # variant and prompt, as numbers
    status: str  # done, failed or missing
    run: Run | None = None
    error: str | None = None
    verdict: Verdict | None = None
    self_scored: bool = False
    refusal: str = ""


def find(cell: Cell, at: tuple[int, int]) -> Found:
    """What became of a cell; only a finished run of its job and config, its picture undamaged, is done."""
    made = state(cell)
    if made == "missing":
        return Found(cell, at, "failed" if cell.error else "missing", error=cell.error)
    try:
        run = read_run(cell.folder)
    except InputError as error:
        return Found(cell, at, "failed", error=str(error).removeprefix(clean(str(cell.folder))).lstrip("/: "))
    match made:
        case "done":
            return Found(cell, at, "done", run)
        case "stale":
            return Found(cell, at, "failed", error="its folder holds a run of another job or config")
        case _ if run.status == "done":
            return Found(cell, at, "failed", run, "final.png is not the file that run.json describes")
    return Found(cell, at, "failed", run, run.error or f"{run.status} after {run.steps or 0} of {run.job.steps} steps")


def cached(judge_of: JudgeOf | None) -> JudgeOf:
    """One judge for all seeds and variants of a prompt: making one embeds a hundred texts."""
    made: dict[tuple[tuple[str, ...], ...], Judge | None] = {}

    def ask(job: Job) -> Judge | None:
        key = tuple(tuple(prompt.text for prompt in prompts) for prompts in (job.include, job.exclude))
        if judge_of is not None and key not in made:
            made[key] = judge_of(job)
        return made.get(key)

    return ask


def own_judge(found: Sequence[Found]) -> str:
    """SHA-256 of the judge that the runs have in common; "" when none was judged, InputError when there are several."""
    runs = [each.run for each in found if each.status == "done" and each.run and each.run.verdict]
    by = {run.weights["judge"]: run for run in runs if "judge" in run.weights}
    if len(by) > 1:
        one, other, *_ = by.values()
        both = " and ".join(clean(str(run.folder)) for run in (one, other))
        raise InputError(f"{both} were scored by different judges; name one judge for all")
    return next(iter(by), "")


def judged(found: Found, sha256: str, ask: JudgeOf, *, sketch: str = "") -> Found:
    """With the verdict of the judge `sha256`, made or remembered; without pictures only what steered is looked at.

    A verdict by older rules, which asked something else, is made anew where there is a judge to ask. `sketch`: the
    judge's sketch, where it is known.
    """
    run = found.run
    if run is None or not sha256:
        return found
    steered = sha256 in steering(run.weights).values() or _saved_again(run, sketch)
    verdict, refusal = None, ""
    if found.status == "done":
        verdict = run.verdict if run.weights.get("judge") == sha256 else None
        steered = steered or (verdict is not None and verdict.self_scored)
        if (verdict is None or run.former) and (judge := ask(run.job)):
            verdict = judge.judge(picture(run))
            refusal = judge.refusal or ("" if verdict else UNSURE)
        verdict = verdict and replace(verdict, self_scored=steered)
    return replace(found, verdict=verdict, self_scored=steered, refusal=refusal)


def _saved_again(run: Run, sketch: str) -> bool:
    """Whether one of the CLIPs behind a run is the judge in another file."""
    mine = sketch or run.sketches.get("judge", "")
    return any(alike(mine, each) for each in steering(run.sketches).values()) if mine else False


def judge_name(found: Sequence[Found], ask: JudgeOf) -> str:
    """What the judge is called: by itself, or by the verdicts that it left."""
    if judge := ask(found[0].cell.job):
        return judge.name
    return next((each.verdict.judge for each in found if each.verdict), "")


def picture(run: Run) -> torch.Tensor:
    """final.png as (3, H, W) float32 in [0, 1]."""
    return images.from_pil(images.read(run.folder / "final.png"))[0]
