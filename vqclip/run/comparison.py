"""Composition root of `compare`: every variant on the same prompts and seeds, or finished runs, then the report.

A comparison that was stopped goes on where it was: cells that are done stay, the rest is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from vqclip import config as configs
from vqclip.compare import cells, summary
from vqclip.compare.cells import Cell
from vqclip.compare.finished import Run, sound_run
from vqclip.compare.variants import LEFT_OUT, group
from vqclip.config import Config, Loaded
from vqclip.config.effects import COMPARISON_RULES, notices
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.record import folder as folders
from vqclip.record import presence
from vqclip.report.evidence import read_bytes
from vqclip.report.page import write_comparison_page
from vqclip.report.sheet import write_sheet
from vqclip.run.assemble import Models, Once, job_of, load_models, open_judge
from vqclip.run.device import most_threads
from vqclip.run.forecasts import forecasts
from vqclip.run.picture import Interrupted, Stop, make_picture, stop_on_signal
from vqclip.run.progress import Progress

_FAULTS = (InputError, WeightsError, ResourceError, RuntimeError, OSError, ValueError)
HINT = """variants='["vqgan", "kandinsky"]'"""  # as a shell takes it
_RESOLVED = "config.resolved.yaml"
_EVERY = ("prompts", "variants", "seeds")  # keys of the comparison as a whole


@dataclass(frozen=True)
class Entry:
    """One picture to make: where it belongs, its complete config, and which of all pictures it is, from 1."""

    cell: Cell
    single: Config
    number: int


@dataclass(frozen=True)
class Outcome:
    """A comparison's folder, how many of its `count` pictures are there, and what went wrong first."""

    root: Path
    done: int
    count: int
    fault: Exception | None = None


@dataclass
class Work:
    """What all variants of a comparison share while it is made; `faults` in the order in which they came."""

    text: str
    progress: Progress
    note: Once
    stop: Stop
    count: int
    variants: int
    faults: list[Exception] = field(default_factory=list)
    announced: set[str] = field(default_factory=set)  # variants whose needs were said


def compare(loaded: Loaded, progress: Progress) -> Outcome:
    """Make what is missing of a comparison and write its report.

    A variant that cannot be opened, or a picture that fails, is a failed cell of the report; the others go on.

    Raises:
        InputError: no variants, two of one name, settings that no variant may have, or a folder of that name with
            another comparison in it. Interrupted: stopped by the user; the same command goes on.
    """
    columns, note = _columns(loaded.config), Once(progress.note)  # variants read the same prompts
    asked = [replace(each, seeds=loaded.config.seeds, keep=loaded.config.keep) for each in columns.values()]
    for line in notices(loaded.origins, asked, rules=COMPARISON_RULES):
        note(line)
    title = ", ".join(columns)
    with _opened(loaded, title) as root, stop_on_signal() as stop:
        entries = [list(_entries(config, name, root, loaded.config.seeds)) for name, config in columns.items()]
        entries = _numbered(entries)
        work = Work(loaded.text, progress, note, stop, sum(map(len, entries)), len(entries))
        made = [cell for of_variant in entries for cell in _fill(of_variant, work)]
        report = _report(made, loaded.config, root, title=loaded.config.name or title, note=note)
        return _outcome(root, report, work.faults)


def compare_runs(runs: Sequence[Path], overrides: Sequence[str], progress: Progress) -> Outcome:
    """Copy finished runs into a comparison of their own and write its report; unsound ones are said and left out.

    Raises:
        InputError: fewer than two sound runs, or the same picture twice.
    """
    if len(runs) < 2:
        raise InputError(f"compare: {runs[0]} alone; two run folders are needed, or a config with variants")
    config = configs.load(None, ["include=any", *overrides]).config
    sound, problems = list[Run](), list[InputError]()
    for each in runs:
        try:
            sound.append(sound_run(each))
        except InputError as error:
            problems.append(error)
    if len(sound) < 2:
        raise problems[0]
    for problem in problems:
        progress.note(f"left out: {problem}")
    groups = group(sound)
    digest = configs.digest(config)
    root = folders.claim(Path(config.outputs), name=config.name, slug_from=f"compare {' '.join(groups)}", digest=digest)
    made = [cells.adopt(run, root, name) for name, members in groups.items() for run in members]
    report = _report(made, config, root, title=config.name or ", ".join(groups), note=progress.note)
    return _outcome(root, report, [])


def _columns(config: Config) -> dict[str, Config]:
    """The complete config of every variant by its name."""
    if not config.variants:
        raise InputError(f"variants: none; a comparison needs at least one, for example {HINT}")
    columns: dict[str, Config] = {}
    for number, variant in enumerate(config.variants):
        name, place = variant.name or variant.backend, f"variants[{number}]"
        if name in columns:
            raise InputError(f"{place}: a second {name!r}; give each variant a name of its own")
        for text in variant.set:
            if (key := text.partition("=")[0]) in (*LEFT_OUT, *_EVERY, "backend"):
                raise InputError(f"{place}.set: {key} belongs to the comparison as a whole; other settings are allowed")
        base = replace(config, variants=(), seeds=1, keep=None, name=None)
        try:
            columns[name] = configs.load_over(base, [f"backend={variant.backend}", *variant.set], source=place).config
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
    return columns


def _entries(config: Config, name: str, root: Path, seeds: int) -> Iterator[Entry]:
    """The pictures of a variant: prompts in order, seeds counting up from the config's or the picture's own."""
    own = [each.seed for each in config.prompts] or [None]
    for picture, seed in zip(configs.pictures(config), own, strict=True):
        for number in range(seeds):
            single = replace(
                config,
                include=picture.include,
                exclude=picture.exclude,
                extras=picture.extras,
                prompts=(),
                seed=(config.seed if seed is None else seed) + number,
                threads=most_threads(config),
            )
            folder = cells.folder_of(root, name, job_of(single))
            single = replace(single, name=folder.name, outputs=str(folder.parent))
            yield Entry(Cell(name, job_of(single), folder, configs.to_mapping(single)), single, 0)


def _numbered(entries: Sequence[Sequence[Entry]]) -> list[list[Entry]]:
    """The entries of all variants with their place among all pictures."""
    counter = count(1)
    return [[replace(entry, number=next(counter)) for entry in of_variant] for of_variant in entries]


def _fill(entries: Sequence[Entry], work: Work) -> list[Cell]:
    """Make the missing pictures of a variant; the cells, with the error of those that have no run folder."""
    missing = {cell.folder for cell in cells.unfinished([entry.cell for entry in entries])}
    if len(missing) < len(entries):
        there = f"{len(entries) - len(missing)} of {len(entries)} are there already"
        work.progress.note(f"{entries[0].cell.variant}: {there}")
    made, models, fault = list[Cell](), None, ""
    for entry in entries:
        if entry.cell.folder not in missing:
            made.append(entry.cell)
            continue
        if models is None and not fault:
            models, fault = _open(entry, work)
        problem = fault or _make(entry, models, work)
        made.append(replace(entry.cell, error=problem or None))
    return made


def _open(entry: Entry, work: Work) -> tuple[Models | None, str]:
    """The models of a variant, or what is wrong with them."""
    try:
        return load_models(entry.single, work.note), ""
    except _FAULTS as error:
        work.faults.append(error)
        work.note(f"{entry.cell.variant}: {error}")
        return None, str(error)


def _make(entry: Entry, models: Models | None, work: Work) -> str:
    """Make one picture; what went wrong as a line, "" when nothing did."""
    assert models is not None
    cells.make_room(entry.cell)
    place = (entry.number, work.count)
    try:
        models.backend.check(entry.cell.job)
        for forecast in forecasts(models, entry.cell.job, timed=False) if entry.single.preflight else ():
            if entry.cell.variant not in work.announced:
                work.progress.note(f"{entry.cell.variant}: {forecast.line}")
        work.announced.add(entry.cell.variant)
        make_picture(
            entry.single, work.text, models, work.progress, stop=work.stop, number=place, shared=work.variants > 1
        )
    except Interrupted:
        raise
    except _FAULTS as error:
        work.faults.append(error)
        work.progress.note(f"{entry.cell.folder.name}: {error}")
        return str(error)
    return ""


def _report(
    made: Sequence[Cell], config: Config, root: Path, *, title: str, note: Callable[[str], None]
) -> Mapping[str, Any]:
    """Score everything with one judge and write report.json, contact-sheet.png and report.html."""
    judge_of, digest, sketch = open_judge(config, note)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    report = summary.summarise(
        made, root=root, title=title, created=now, judge_of=judge_of, judge_sha256=digest, judge_sketch=sketch
    )
    summary.write_report(root, report)
    write_sheet(report, root)
    write_comparison_page(root)
    return report


def _outcome(root: Path, report: Mapping[str, Any], faults: Sequence[Exception]) -> Outcome:
    done = sum(cell["status"] == "done" for cell in report["cells"])
    return Outcome(root, done, len(report["cells"]), next(iter(faults), None))


@contextmanager
def _opened(loaded: Loaded, title: str) -> Iterator[Path]:
    """The comparison's folder, held for this process: new, or the one of the same comparison begun before.

    Its config is written under the lock, so that one which was killed before can be begun again.
    """
    config = loaded.config
    digest = configs.digest(config)
    root = Path(config.outputs) / (config.name or f"{folders.slug(f'compare {title}')}-{digest[:10]}")
    resolved = configs.to_yaml(config)
    if not os.path.lexists(root):
        try:
            folders.claim(Path(config.outputs), name=root.name, slug_from="", digest=digest)
        except InputError:  # another process may have come between: the lock decides who goes on
            if not root.is_dir():
                raise
    _check_same(root, resolved)  # before a lock is put into a folder of somebody else's
    with presence.held(root, "this comparison"):
        _check_same(root, resolved)
        if not (root / _RESOLVED).is_file():
            folders.write_text(root / "config.yaml", loaded.text or resolved)
            folders.write_text(root / _RESOLVED, resolved)
        yield root


def _check_same(root: Path, resolved: str) -> None:
    """Refuse a folder that is not this comparison: another's, or one with more in it than its first moments leave."""
    before = root / _RESOLVED
    try:
        if before.is_file():
            same = read_bytes(before, 4 * len(resolved.encode()) + 1) == resolved.encode()
        else:
            there = {path.name for path in root.iterdir() if not path.name.startswith(".")}
            same = not os.path.lexists(before) and there <= {"config.yaml"}
    except (OSError, InputError):
        same = False
    if not same:
        raise InputError(f"name: {root} exists and is not this comparison; choose another name")
