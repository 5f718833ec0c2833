"""Tells variants apart: the settings that differ, and which finished runs were made alike. Reads no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vqclip.compare.finished import Run
from vqclip.config.document import clean
from vqclip.job import InputError, Job, Prompt
from vqclip.record.folder import to_json

# Keys of a config that belong to one picture of a variant, to the comparison as a whole, or to no picture at all.
LEFT_OUT: Final = ("include", "exclude", "extras", "prompts", "seed", "seeds", "variants", "name", "outputs")
_LONGEST: Final = 80  # characters of a variant's name


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config by dotted key, without those in LEFT_OUT; lists are values."""
    return flat({key: value for key, value in config.items() if key not in LEFT_OUT})


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one mapping of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def differences(each: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each mapping its values of the keys on which not all agree, keys sorted; None where it has no such key."""
    keys = sorted({key for one in each for key in one})
    differing = [key for key in keys if len({_text(one.get(key)) for one in each}) > 1]
    return [{key: one.get(key) for key in differing} for one in each]


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Finished runs by variant, in the order given: those with equal settings and weights, the judge's left out.

    Runs of equal settings that show one title with one seed, but exclude or add other things, or weigh their prompts
    differently, are told apart by that. A variant is named by its backend, or by what it does not share with the
    others. Pictures are to be paired by title and seed.

    Raises InputError for two runs that were made the same way from the same prompts and seed.
    """
    plain = _grouped(runs, _made_by)
    doubled = {key for key, members in plain.items() if _twice(members)}
    groups = _grouped(runs, lambda run: _made_by(run) + (_prompts(run.job) if _made_by(run) in doubled else ""))
    for members in groups.values():
        if same := _twice(members):
            one, other = (clean(str(run.folder)) for run in same)
            raise InputError(f"{other}: the same picture as {one}: settings, prompts and seed are equal")
    return dict(zip(_names([members[0] for members in groups.values()]), groups.values(), strict=True))


def _grouped(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _made_by(run: Run) -> str:
    return _text([settings(run.config), steering(run.weights)])


def steering(weights: Mapping[str, str]) -> dict[str, str]:
    """By role what tells the models that take part in making a picture: of all but the judge's."""
    return {role: value for role, value in weights.items() if role != "judge"}


def _prompts(job: Job) -> str:
    """How a picture was asked for, but for the texts of its title."""
    pulled = [(prompt.weight, prompt.stop) for prompt in job.include]
    return _text([pulled, *([(p.text, p.weight, p.stop) for p in part] for part in (job.exclude, job.extras))])


def _twice(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """The first two runs with one title and seed."""
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        first = seen.setdefault((run.job.title, run.job.seed), run)
        if first is not run:
            return first, run
    return None


def _names(firsts: Sequence[Run]) -> list[str]:
    """A name for each variant, by its first run; all different."""
    ways = [
        [settings(run.config) for run in firsts],
        [{f"weights.{role}": value[:8] for role, value in steering(run.weights).items()} for run in firsts],
        [{"exclude": as_text(run.job.exclude), "extras": as_text(run.job.extras)} for run in firsts],
        [{"include.weight": [prompt.weight for prompt in run.job.include]} for run in firsts],
    ]
    named = [str(run.config.get("backend", "run")) for run in firsts]
    for way in ways:  # the next one only when names are still equal
        if len(set(named)) < len(firsts):
            told = [_listed(difference) for difference in differences(way)]
            named = [f"{name} {more}".strip() for name, more in zip(named, told, strict=True)]
    cut = [name if len(name) <= _LONGEST else name[: _LONGEST - 3] + "..." for name in named]
    return cut if len(set(cut)) == len(cut) else [f"{name} ({number})" for number, name in enumerate(cut, start=1)]


def _listed(difference: Mapping[str, Any]) -> str:
    """ "steps=20 optimizer.lr=0.2"; the backend is said already."""
    shown = ((key, value if isinstance(value, str) else _text(value)) for key, value in difference.items())
    return " ".join(f"{key}={value}" for key, value in shown if key != "backend")


def as_text(prompts: Sequence[Prompt]) -> str:
    """Prompts as one text, a weight other than 1 after a colon; "none" for no prompts."""
    return ", ".join(p.text if p.weight == 1 else f"{p.text}:{p.weight:g}" for p in prompts) or "none"


def _text(value: Any) -> str:
    """A JSON value as one line that is equal for equal values only."""
    return to_json(_ordered(value))


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list | tuple) else value
