"""Reads a finished run folder as carefully as anything that nobody vouches for.

Checks the facts that a comparison uses. Opens no picture, and follows no path that run.json names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vqclip import images
from vqclip.config.document import clean, show
from vqclip.grammar import PARTS
from vqclip.job import InputError, Job, Prompt, Verdict
from vqclip.record.presence import is_dead
from vqclip.report.embedded import MAX_PICTURE
from vqclip.report.evidence import curves, facts

SCHEMA: Final = 1
MAX_PROMPTS: Final = 256  # of one kind, and ...
MAX_TEXT: Final = 65_536  # ... characters of one: as many as a config can hold
MAX_WHOLE: Final = 2**63 - 1
STATUSES: Final = ("done", "failed", "interrupted")

_NOTHING: Final = type(None)


@dataclass(frozen=True)
class Run:
    """What run.json says, checked. `seconds`, `steps` and `peak_memory_bytes` are None where it does not say.

    `versions` maps packages and `weights` roles (generator, guide 0, judge, ...) to SHA-256, `sketches` the roles of
    CLIPs to theirs (`weights.likeness`); `outputs` maps paths inside the folder to SHA-256, which are not checked
    against the files, see `intact`.
    """

    folder: Path
    status: str  # one of STATUSES
    job: Job
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    weights: Mapping[str, str]
    models: tuple[str, ...]
    outputs: Mapping[str, str]
    verdict: Verdict | None = None
    seconds: float | None = None
    steps: int | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None
    sketches: Mapping[str, str] = field(default_factory=dict)
    former: bool = False  # the verdict is by older rules: its rivals swapped the thing only


def read_run(folder: Path) -> Run:
    """Read and check the run.json of a run that is over.

    Raises InputError, one line that begins with the folder, when there is none, when the run is not over, or when the
    file is larger or deeper than `evidence.facts` reads, not the JSON that a run writes, or has values of other types.
    """
    named = clean(str(folder))
    if not (folder / "run.json").is_file():
        raise InputError(f"{named}: no run.json; the folder of a finished run is needed")
    found = facts(folder / "run.json").value
    try:
        return _run(folder, found)
    except InputError as error:
        raise InputError(f"{named}: {error}") from None


def sound_run(folder: Path) -> Run:
    """Read a run for a comparison of its own: as `read_run`, and its picture and metrics, so that a page can show them.

    Raises InputError, one line that begins with the folder or the file that is wrong.
    """
    run = read_run(folder)
    if run.status == "done":
        images.read(folder / "final.png")
        check_size(folder / "final.png")
    curves(folder / "metrics.jsonl")
    return run


def check_size(path: Path) -> None:
    """Raise InputError for a picture of more bytes than a page shows."""
    if (size := path.stat().st_size) > MAX_PICTURE:
        raise InputError(f"{clean(str(path))}: {size} bytes; at most {MAX_PICTURE} are shown")


def intact(run: Run) -> bool:
    """Whether final.png is there and has the hash that run.json gives."""
    picture = run.folder / "final.png"
    try:
        if not picture.is_file():
            return False
        with picture.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == run.outputs.get("final.png")
    except OSError:
        return False


def _run(folder: Path, found: Mapping[str, Any]) -> Run:
    if (schema := _take(found, "schema", int)) != SCHEMA:
        raise InputError(f"run.json has schema {schema}; this version reads {SCHEMA}")
    status = _take(found, "status", str)
    if status == "running":
        dead = is_dead(folder, found)
        raise InputError("ended without a word: its process was killed" if dead else "not finished: it still runs")
    if status not in STATUSES:
        raise InputError(f"not finished: status is {clean(show(status))}; {', '.join(STATUSES)} are allowed")
    verdict = _take(found, "verdict", dict, _NOTHING)
    models = _take(found, "models", list, _NOTHING) or []
    if not all(isinstance(model, str) for model in models):
        raise InputError("run.json: models holds more than texts")
    return Run(
        folder=folder,
        status=status,
        job=_job(_take(found, "job", dict)),
        config=_take(found, "config", dict, _NOTHING) or {},
        versions=_texts(found, "versions"),
        weights=_texts(found, "weights"),
        models=tuple(models),
        outputs=_texts(found, "outputs"),
        verdict=None if verdict is None else _verdict(verdict),
        seconds=_take(found, "seconds", float, int, _NOTHING, least=0),
        steps=_take(found, "steps", int, _NOTHING, least=0),
        peak_memory_bytes=_take(found, "peak_memory_bytes", int, _NOTHING, least=0),
        error=_take(found, "error", str, _NOTHING),
        sketches=_texts(found, "eyes"),
        former=verdict is not None and "exclude_margin" not in verdict,
    )


def _job(found: Mapping[str, Any]) -> Job:
    size = _take(found, "size", list)
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise InputError(f"run.json: job.size: got {clean(show(size))}; two whole numbers above 0 are needed")
    return Job(
        include=_prompts(found, "include"),
        exclude=_prompts(found, "exclude"),
        extras=_prompts(found, "extras"),
        size=(size[0], size[1]),
        steps=_take(found, "steps", int, least=0),
        seed=_take(found, "seed", int, least=0),
    )


def _prompts(found: Mapping[str, Any], name: str) -> tuple[Prompt, ...]:
    """A list of prompts; Prompt itself refuses empty texts, negative weights and the like."""
    prompts: list[Prompt] = []
    for each in _take(found, name, list):
        if not isinstance(each, dict):
            raise InputError(f"run.json: job.{name}: got {clean(show(each))}; a prompt with text and weight is needed")
        stop = _take(each, "stop", float, int, _NOTHING)
        if len(text := _take(each, "text", str)) > MAX_TEXT or len(prompts) >= MAX_PROMPTS:
            raise InputError(f"run.json: job.{name}: at most {MAX_PROMPTS} texts of {MAX_TEXT} characters are read")
        prompts.append(Prompt(text, float(_take(each, "weight", float, int)), stop))
    if name == "include" and not prompts:
        raise InputError("run.json: job.include is empty; a prompt is needed")
    return tuple(prompts)


def _verdict(found: Mapping[str, Any]) -> Verdict:
    rank, among = _take(found, "rank", int, least=1), _take(found, "among", int, least=1)
    if rank > among:
        raise InputError(f"run.json: verdict: rank {rank} among {among}")
    exclude, margin = _take(found, "exclude", float, int, _NOTHING), _take(found, "margin", float, int)
    against = _take(found, "exclude_margin", float, int, _NOTHING)
    if "exclude_margin" not in found and exclude is not None:  # by older rules the one margin was this one
        margin, against = math.nan, margin
    return Verdict(
        judge=_take(found, "judge", str),
        rank=rank,
        among=among,
        include=_take(found, "include", float, int),
        exclude=exclude,
        margin=margin,
        self_scored=_take(found, "self_scored", bool),
        exclude_margin=against,
        parts=_parts(_take(found, "parts", dict, _NOTHING) or {}),
    )


def _parts(found: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Rank and number of texts by part."""
    parts: dict[str, tuple[int, int]] = {}
    for part, place in found.items():
        fine = isinstance(place, list) and len(place) == 2 and all(type(number) is int for number in place)
        if part not in PARTS or not fine or not 1 <= place[0] <= place[1]:
            raise InputError(f"run.json: verdict: parts: {clean(str(part))}: got {clean(show(place))}")
        parts[part] = (place[0], place[1])
    return parts


def _take(found: Mapping[str, Any], name: str, *kinds: type, least: float = -math.inf) -> Any:
    """The value of a field: of exactly one of the kinds (so that true is no number) and not below `least`."""
    value = found.get(name)
    if type(value) not in kinds or (isinstance(value, int | float) and not least <= value <= MAX_WHOLE):
        wanted = " or ".join("null" if kind is _NOTHING else kind.__name__ for kind in kinds)
        limit = "" if least == -math.inf else f" from {least:g}"
        raise InputError(f"run.json: {name}: got {clean(show(value))}; {wanted}{limit} is needed")
    return value


def _texts(found: Mapping[str, Any], name: str) -> dict[str, str]:
    texts: dict[str, Any] = _take(found, name, dict, _NOTHING) or {}
    if not all(isinstance(value, str) for value in texts.values()):
        raise InputError(f"run.json: {name} does not map texts to texts")
    return texts
