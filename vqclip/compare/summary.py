"""Turns the run folders of a comparison into report.json: what was made, how it scored, which differences hold.

Reads and scores pictures; makes none, and draws no page.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Final

import torch

from vqclip.compare.cells import Cell
from vqclip.compare.finished import Run, read_run
from vqclip.compare.variants import LEFT_OUT, as_text, differences, settings
from vqclip.compare.verdicts import Found, JudgeOf, cached, find, judge_name, judged, own_judge, picture
from vqclip.config.document import clean
from vqclip.job import InputError, Job, Prompt
from vqclip.judge.scores import (
    LOWER_WINS,
    METRICS,
    OF_THE_JUDGE,
    SHARES,
    diversity,
    picture_scores,
    structural_diversity,
)
from vqclip.judge.statistics import Key, duel, estimate
from vqclip.record.folder import write_json

__all__ = ["Run", "read_run", "summarise", "write_report"]

SCHEMA: Final = 1
_PARTS: Final = ("include", "exclude", "extras")
_LONGEST: Final = 500  # characters of an error

Table = dict[str, dict[int, dict[Key, float]]]  # metric -> variant -> (prompt, what else must be equal) -> value


def summarise(
    cells: Sequence[Cell],
    *,
    root: Path,
    title: str,
    created: str,
    judge_of: JudgeOf | None = None,
    judge_sha256: str = "",
    judge_sketch: str = "",
) -> dict[str, Any]:
    """The content of report.json as JSON values.

    Verdicts are taken from run.json where the same judge file made them, else made from final.png by `judge_of`, whose
    file has the hash `judge_sha256`. Without it the runs' own judge is reported, and diversity by embedding is left
    out, for there is no model to ask. A score is self-scored when the judge's file is among those that steered, or
    when its sketch `judge_sketch` is like one of theirs.

    Variants and prompts are numbered in the order of their first cell; `seed` of a cell is the seed itself. `folder`
    is relative to `root`. A metric that nothing was measured for has no line in `summary`, a pair of variants
    without common prompts and seeds none in `pairs`. The exclude margins of two variants are paired where both
    excluded the same texts. A cell whose prompt the judge cannot read has no score; `unjudged` says why. A difference
    on a score of the judge is never decided when one of the two is self-scored.

    Raises InputError: no cells; two for one variant, prompt and seed; a final.png that no decoder takes; without
    `judge_of`, runs of different judges; with it, prompts that the judge cannot take. ValueError: one without its hash.
    """
    if (judge_of is None) != (judge_sha256 == ""):
        raise ValueError("judge_of and judge_sha256 belong together: both or none")
    if not cells:
        raise InputError("nothing to compare; at least one run is needed")
    names, rows = _numbered(cell.variant for cell in cells), _numbered(cell.row for cell in cells)
    found = sorted((find(cell, (names[cell.variant], rows[cell.row])) for cell in cells), key=_order)
    for before, after in pairwise(found):
        if _order(before) == _order(after):
            one, other = (clean(str(each.cell.folder)) for each in (after, before))
            raise InputError(f"{one}: the same variant, prompt and seed as {other}")
    ask = cached(judge_of)
    sha256 = judge_sha256 if judge_of else own_judge(found)
    found = [judged(each, sha256, ask, sketch=judge_sketch) for each in found]
    table = _tabulate(found, ask)
    variants = _variants(found, len(names))
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "title": title,
        "created": created,
        "judge": {"name": judge_name(found, ask), "sha256": sha256} if sha256 else None,
        "variants": variants,
        "prompts": [_prompt([each.cell.job for each in found if each.at[1] == row]) for row in range(len(rows))],
        "seeds": sorted({cell.job.seed for cell in cells}),
        "cells": [_cell(each, root) for each in found],
        "summary": list(_summary(table)),
        "pairs": list(_pairs(table, [variant["self_scored"] for variant in variants])),
    }


def write_report(root: Path, report: Mapping[str, Any]) -> Path:
    """Write report.json whole or not at all. Raises ResourceError."""
    write_json(root / "report.json", report)
    return root / "report.json"


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}


def _order(found: Found) -> tuple[int, int, int]:
    return (*found.at, found.cell.job.seed)


def _tabulate(found: Sequence[Found], ask: JudgeOf) -> Table:
    """Every number, by metric and variant, under what has to be equal in another variant's to be compared."""
    table: Table = {metric: {} for metric in METRICS}
    sets: dict[tuple[int, int], list[Run]] = {}
    for each in found:
        if each.status != "done" or each.run is None:
            continue
        variant, prompt = each.at
        run = each.run
        sets.setdefault(each.at, []).append(run)
        against = tuple(text.text for text in run.job.exclude)
        scores = picture_scores(each.verdict, seconds=run.seconds, peak_memory_bytes=run.peak_memory_bytes)
        for metric, value in scores.items():
            member = (run.job.seed, against) if metric == "exclude_margin" else run.job.seed
            table[metric].setdefault(variant, {})[prompt, member] = value
    for (variant, prompt), runs in sets.items():
        for metric, spread in _spreads(runs, ask).items():
            if spread is not None:
                table[metric].setdefault(variant, {})[prompt, ""] = spread
    return table


def _spreads(runs: Sequence[Run], ask: JudgeOf) -> dict[str, float | None]:
    """How different the pictures of one prompt are, one seed from the other."""
    if len(runs) < 2:
        return {}
    pictures = [picture(run) for run in runs]
    judge = ask(runs[0].job)
    embeds = torch.stack([judge.embed(each) for each in pictures]) if judge else None
    return {
        "diversity": None if embeds is None else diversity(embeds),
        "ms_ssim": structural_diversity(pictures),
    }


def _summary(table: Table) -> Iterable[dict[str, Any]]:
    for metric, variants in table.items():
        for variant, values in sorted(variants.items()):
            if (found := estimate(values, share=metric in SHARES)) is not None:
                yield {"variant": variant, "metric": metric, **asdict(found)}


def _pairs(table: Table, self_scored: Sequence[bool]) -> Iterable[dict[str, Any]]:
    for metric, variants in table.items():
        for first, second in combinations(sorted(variants), 2):
            found = duel(
                variants[first], variants[second], share=metric in SHARES, lower_wins=metric in LOWER_WINS
            )
            if found is None:
                continue
            if metric in OF_THE_JUDGE and (self_scored[first] or self_scored[second]):
                found = replace(found, decided=False)
            yield {"first": first, "second": second, "metric": metric, **asdict(found)}


def _variants(found: Sequence[Found], count: int) -> list[dict[str, Any]]:
    members = [[each for each in found if each.at[0] == number] for number in range(count)]
    configs = [_config(each) for each in members]
    differing = [
        {**plain, **prompts_of}
        for plain, prompts_of in zip(differences([settings(c) for c in configs]), _prompts(members), strict=True)
    ]
    described = []
    for each, config, difference in zip(members, configs, differing, strict=True):
        runs = [one.run for one in each if one.run]
        described.append(
            {
                "name": each[0].cell.variant,
                "backend": str(config.get("backend", "")),
                "config": config,
                "differences": difference,
                "versions": _joined(run.versions for run in runs),
                "weights": _joined(run.weights for run in runs),
                "models": list(dict.fromkeys(model for run in runs for model in run.models)),
                "self_scored": any(one.self_scored for one in each),
            }
        )
    return described


def _config(members: Sequence[Found]) -> dict[str, Any]:
    """A variant's config without what belongs to single pictures: as its first run says, else as was planned."""
    runs = [each.run for each in members if each.run]
    config = runs[0].config if runs else members[0].cell.config
    return {key: value for key, value in config.items() if key not in LEFT_OUT}


def _joined(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """One mapping for all runs of a variant; where they differ, all values, so that nobody overlooks it."""
    found: dict[str, dict[str, None]] = {}
    for each in several:
        for key, value in each.items():
            found.setdefault(key, {})[value] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _prompts(members: Sequence[Sequence[Found]]) -> list[dict[str, Any]]:
    """The prompts of each variant, by part, where pictures that are compared were not asked for alike."""
    prompts_of: list[dict[str, Any]] = [{} for _ in members]
    for part in _PARTS:
        seen: dict[int, set[tuple[Prompt, ...]]] = {}
        for each in (one for variant in members for one in variant):
            seen.setdefault(each.at[1], set()).add(getattr(each.cell.job, part))
        if any(len(ways) > 1 for ways in seen.values()):
            for variant, texts in zip(members, prompts_of, strict=True):
                prompts = [prompt for one in variant for prompt in getattr(one.cell.job, part)]
                texts[part] = list(dict.fromkeys(as_text([prompt]) for prompt in prompts))
    return prompts_of


def _prompt(jobs: Sequence[Job]) -> dict[str, Any]:
    """What all jobs of a row have in common."""
    parts = {
        part: [p for p in getattr(jobs[0], part) if all(p in getattr(job, part) for job in jobs)] for part in _PARTS
    }
    return {"title": jobs[0].title} | {part: [asdict(prompt) for prompt in prompts] for part, prompts in parts.items()}


def _cell(found: Found, root: Path) -> dict[str, Any]:
    verdict, run = found.verdict, found.run if found.status == "done" else None
    return {
        "variant": found.at[0],
        "prompt": found.at[1],
        "seed": found.cell.job.seed,
        "folder": Path(os.path.relpath(found.cell.folder, root)).as_posix(),
        "status": found.status,
        "error": None if found.error is None else " ".join(found.error.split())[:_LONGEST],
        "rank": verdict.rank if verdict else None,
        "among": verdict.among if verdict else None,
        "include": verdict.include if verdict else None,
        "exclude": verdict.exclude if verdict else None,
        "margin": verdict.margin if verdict and math.isfinite(verdict.margin) else None,
        "exclude_margin": verdict.exclude_margin if verdict else None,
        "parts": {part: list(place) for part, place in verdict.parts.items()} if verdict else {},
        "unjudged": found.refusal or None,
        "self_scored": found.self_scored,
        "seconds": run.seconds if run else None,
        "steps": run.steps if run else None,
        "peak_memory_bytes": run.peak_memory_bytes if run else None,
    }
