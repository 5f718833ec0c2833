"""What the page of one run shows: the facts of its folder, put into words, charts and tables.

Makes no markup and knows no template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vqclip.job import InputError
from vqclip.record.presence import is_dead
from vqclip.report import charts, embedded, evidence, wording
from vqclip.report.charts import Chart, Line
from vqclip.report.embedded import Allowance, Picture
from vqclip.report.evidence import Curves, Facts, Point

FRAMES: Final = 7  # of the strip
CUT: Final = f"the first {evidence.MAX_CURVES} loss terms are drawn; metrics.jsonl has all"
KINDS: Final = ("include", "exclude", "extras")
SCORES: Final[Mapping[str, str]] = {
    "rank": "place of the prompt among all texts; 1 is best and on top",
    "include": "similarity to the prompt",
    "margin": "similarity to the prompt, less that of the best rival",
    "exclude_margin": "similarity to the prompt, less that of the nearest excluded text",
}


@dataclass(frozen=True)
class Panel:
    """One small chart, once over steps and once over seconds, with its name and its last value."""

    name: str
    note: str
    last: str
    by_step: Chart
    by_second: Chart
    judged: bool


@dataclass(frozen=True)
class PromptRow:
    """One prompt: which kind, its text, and as text its weight, its stop and the last value of its loss."""

    kind: str
    text: str
    weight: str = ""
    stop: str = ""
    loss: str = ""


@dataclass(frozen=True)
class Setting:
    """One key of the config; `default` is what it would have been, None where that is the value."""

    key: str
    value: str
    default: str | None = None


@dataclass(frozen=True)
class RunView:
    """Everything that the page of a run says."""

    title: str
    state: str  # done, interrupted, failed or running
    status: str
    error: str
    numbers: list[tuple[str, str]]
    picture: Picture | None
    film: str | None
    poster: str
    film_left_out: bool
    frames: list[Picture]
    verdict: list[str]
    unjudged: str  # why there is no verdict, where the judge said so
    self_scored: bool
    prompts: list[PromptRow]
    panels: list[Panel]
    settings: list[Setting]
    changes: int
    notices: list[str]
    warnings: list[str]
    models: list[str]
    weights: dict[str, str]
    versions: dict[str, str]
    outputs: dict[str, str]


def view(folder: Path, *, film_limit: int, picture_limit: int) -> RunView:
    """Read a run folder. Raises InputError for one that holds no run, or files that are not what they should be."""
    facts = evidence.facts(folder / "run.json")
    state, job = facts.text("status"), facts.inner("job")
    if state not in wording.STATUS:
        raise InputError(f"{facts.where}: status is {state[:40]!r}; {', '.join(wording.STATUS)} are known")
    dead = state == "running" and is_dead(folder, facts.value)
    found, verdict = evidence.curves(folder / "metrics.jsonl"), facts.inner("verdict")
    settings = _settings(facts)
    film, pictures = embedded.film(folder / "progress.mp4", Allowance(film_limit)), Allowance(picture_limit)
    return RunView(
        title=job.text("title") or "untitled",
        state="failed" if dead else state,
        status=wording.ENDED if dead else wording.STATUS[state],
        error=facts.text("error"),
        numbers=_numbers(facts, job),
        picture=embedded.picture(folder / "final.png", pictures),
        film=film,
        poster=embedded.poster(folder / "final.png", pictures) if film else "",
        film_left_out=film is None and (folder / "progress.mp4").exists(),
        frames=embedded.strip(folder, FRAMES),
        verdict=verdict_of(verdict),
        unjudged=_unjudged(facts.texts("warnings")),
        self_scored=verdict.flag("self_scored"),
        prompts=prompt_rows(job, facts.inner("terms")),
        panels=panels({0: [found]}),
        settings=settings,
        changes=sum(setting.default is not None for setting in settings),
        notices=[*facts.texts("notices"), *([CUT] if found.cut else [])],
        warnings=facts.texts("warnings"),
        models=facts.texts("models"),
        weights=facts.words("weights"),
        versions=facts.words("versions"),
        outputs=facts.words("outputs"),
    )


def _unjudged(warnings: list[str]) -> str:
    """Why the judge gave no verdict, "" where no warning says so."""
    refusal = next((warning for warning in warnings if warning.startswith(wording.REFUSAL)), "")
    return refusal[:1].upper() + refusal[1:]


def verdict_of(facts: Facts) -> list[str]:
    """A verdict in sentences; none when there is no verdict."""
    rank, among = facts.whole("rank"), facts.whole("among")
    if rank is None or among is None:
        return []
    return wording.verdict(
        facts.text("judge"),
        rank=rank,
        among=among,
        include=facts.number("include"),
        exclude=facts.number("exclude"),
        margin=facts.number("margin"),
        exclude_margin=facts.number("exclude_margin"),
        parts=evidence.parts(facts),
        former="exclude_margin" not in facts.value,
        self_scored=facts.flag("self_scored"),
    )


def prompt_rows(facts: Facts, terms: Facts | None = None) -> list[PromptRow]:
    """The prompts of a job in the order include, exclude, extras; texts alone have no weight to show."""
    rows = []
    for kind in KINDS:
        listed = facts.value.get(kind)
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            rows += [PromptRow(kind, text) for text in listed]
            continue
        for each in facts.each(kind):
            text, stop = each.text("text"), each.number("stop")
            loss = terms.number(f"{kind}: {text}") if terms else None
            weight = each.number("weight")
            shown = "" if weight is None else f"{weight:g}"
            rows.append(PromptRow(kind, text, shown, "" if stop is None else f"{stop:g}", wording.number(loss)))
    return rows


def panels(groups: Mapping[int, Iterable[Curves]]) -> list[Panel]:
    """One panel for each judge score and each loss term, curves of the same name overlaid, coloured by group."""
    scores: dict[str, list[tuple[int, list[Point]]]] = {}
    terms: dict[str, list[tuple[int, list[Point]]]] = {}
    for colour, members in groups.items():
        for found in members:
            total = {"total": found.total} if len(found.terms) > 1 else {}
            for chosen, named in ((scores, found.judge), (terms, found.terms | total)):
                for name, points in named.items():
                    chosen.setdefault(name, []).append((colour, points))
    judged = [_panel(name, lines, judged=True) for name, lines in scores.items()]
    return [panel for panel in (*judged, *(_panel(name, lines) for name, lines in terms.items())) if panel]


def _panel(name: str, lines: list[tuple[int, list[Point]]], *, judged: bool = False) -> Panel | None:
    ranks = judged and name == "rank"
    over_steps = [Line([(point.step, point.value) for point in points], colour) for colour, points in lines]
    over_time = [Line([(point.seconds, point.value) for point in points], colour) for colour, points in lines]
    by_step = charts.curves(over_steps, ranks=ranks)
    by_second = charts.curves(over_time, across="second", ranks=ranks)
    if by_step is None or by_second is None:
        return None
    ends = [points[-1].value for _, points in lines]
    last = (f"{ends[0]:.0f}" if ranks else wording.number(ends[0])) if len(ends) == 1 and ends[0] is not None else ""
    note = SCORES.get(name, "") if judged else "sum of all terms" if name == "total" else ""
    return Panel(name, note, last, by_step, by_second, judged)


def _numbers(facts: Facts, job: Facts) -> list[tuple[str, str]]:
    """The few numbers that one wants to know first."""
    sides, steps, seconds = job.wholes("size"), facts.whole("steps"), facts.number("seconds")
    asked_for = job.whole("steps")
    cut_short = steps is not None and asked_for is not None and steps < asked_for
    pace = f"{wording.number(steps / seconds)} steps a second" if steps and seconds else ""
    where = [facts.text("device"), facts.text("precision")]
    threads = facts.whole("threads")
    numbers = [
        ("size", " \u00d7 ".join(str(side) for side in sides)),
        ("steps", "" if steps is None else f"{steps} of {asked_for}" if cut_short else str(steps)),
        ("time", "" if seconds is None else wording.duration(seconds)),
        ("in all", "" if (wall := facts.number("wall_seconds")) is None else wording.duration(wall)),
        ("pace", pace),
        ("seed", str(seed) if (seed := job.whole("seed")) is not None else ""),
        ("computed on", ", ".join(word for word in where if word)),
        ("threads", "" if threads is None else str(threads)),
        ("started", facts.text("started")),
        ("peak memory", "" if (peak := facts.number("peak_memory_bytes")) is None else wording.size(peak)),
    ]
    return [(name, value) for name, value in numbers if value]


def _settings(facts: Facts) -> list[Setting]:
    """The resolved config by dotted key; run.json may say in `changed` what the default of changed keys is."""
    changed: Mapping[str, Any] = facts.inner("changed").value
    return [
        Setting(key, wording.setting(value), wording.setting(changed[key]) if key in changed else None)
        for key, value in evidence.flat(facts.inner("config").value)
    ]
