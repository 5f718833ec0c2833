"""The numbers of a comparison's page: variants, the summary with its intervals, and who beat whom, as text.

Takes every mean, interval and decision from report.json; computes no score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vqclip.config.document import clean
from vqclip.job import InputError
from vqclip.judge.scores import LOWER_WINS, METRICS, OF_THE_JUDGE
from vqclip.report import charts, evidence, wording
from vqclip.report.charts import Forest
from vqclip.report.evidence import Facts
from vqclip.report.wording import duration, number, percent, points, size

Say = Callable[[float | None], str]


@dataclass(frozen=True)
class Metric:
    """How to name one metric, and how to print its values and the differences of two of them."""

    name: str
    note: str
    say: Say
    gap: Say


SHOWN: Final[dict[str, Metric]] = {
    "top1": Metric("Prompt ranked first", "share of pictures; more is better", percent, points),
    "top5": Metric("Prompt among the first five", "share of pictures; more is better", percent, points),
    "margin": Metric("Margin", "similarity to the prompt, less that of the best rival; more is better", number, number),
    "exclude_margin": Metric(
        "Exclude margin",
        "similarity to the prompt, less that of the nearest excluded text; more is better",
        number,
        number,
    ),
    "diversity": Metric("Diversity to the judge", "one minus similarity between seeds", number, number),
    "ms_ssim": Metric("Diversity in structure", "one minus MS-SSIM between seeds", number, number),
    "seconds": Metric("Time", "computing one picture; less is better", duration, duration),
    "peak_memory_bytes": Metric("Peak memory", "less is better", size, size),
}


@dataclass(frozen=True)
class Column:
    """What pictures of one place on the page have in common; `colour` is the same everywhere on it."""

    name: str
    colour: int


@dataclass(frozen=True)
class Variant(Column):
    """One way of making pictures."""

    backend: str
    self_scored: bool
    differences: dict[str, str]
    settings: dict[str, str]
    models: list[str]
    weights: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True)
class Score:
    """One variant's mean of a metric with its interval as text; `best` only where that is decided."""

    mean: str
    interval: str
    count: int
    best: bool
    self_scored: bool


@dataclass(frozen=True)
class Row:
    """One line of the summary: a metric, each variant's score (None: not measured) and their intervals drawn."""

    metric: Metric
    scores: list[Score | None]
    forest: Forest | None


@dataclass(frozen=True)
class Duel:
    """Two variants against each other on one metric, as text."""

    first: Variant
    second: Variant
    metric: Metric
    tally: str
    rate: str
    difference: str
    decided: bool
    winner: Variant | None
    prompts: int  # that both drew


def variant(facts: Facts, place: int) -> Variant:
    """One of `variants`, the `place`-th."""
    return Variant(
        name=facts.text("name") or f"variant {place + 1}",
        colour=place,
        backend=facts.text("backend"),
        self_scored=facts.flag("self_scored"),
        differences={key: wording.setting(value) for key, value in facts.inner("differences").value.items()},
        settings={key: wording.setting(value) for key, value in evidence.flat(facts.inner("config").value)},
        models=facts.texts("models"),
        weights=facts.words("weights"),
        versions=facts.words("versions"),
    )


def duel(facts: Facts, variants: list[Variant]) -> Duel:
    """One line of `pairs`; its metric is one of SHOWN. Raises InputError for variants that there are not."""
    name, gap, decided = facts.text("metric"), facts.number("difference"), facts.flag("decided")
    first, second = (variants[index(facts, key, len(variants))] for key in ("first", "second"))
    metric = SHOWN[name]
    winner = None
    if decided and gap:
        winner = first if (gap < 0) == (name in LOWER_WINS) else second
    tally = [facts.whole(key) or 0 for key in ("wins", "losses", "ties")]
    low, high = facts.number("low"), facts.number("high")
    rate = _with_interval(facts, "win_rate", "win_low", "win_high", percent)
    shown = wording.signed(gap, metric.gap) + _interval(low, high, lambda value: wording.signed(value, metric.gap))
    prompts = facts.whole("prompts") or 0
    return Duel(first, second, metric, " : ".join(map(str, tally)), rate, shown, decided, winner, prompts)


def pairings(duels: list[Duel]) -> list[list[Duel]]:
    """The duels of the same two variants together, in the order of the variants."""
    found: dict[tuple[int, int], list[Duel]] = {}
    for each in duels:
        found.setdefault((each.first.colour, each.second.colour), []).append(each)
    return [found[key] for key in sorted(found)]


def _with_interval(facts: Facts, mean: str, low: str, high: str, say: Say) -> str:
    return say(facts.number(mean)) + _interval(facts.number(low), facts.number(high), say)


def _interval(low: float | None, high: float | None, say: Say) -> str:
    return "" if low is None or high is None else f" ({say(low)} to {say(high)})"


def rows(report: Facts, variants: list[Variant], duels: list[Duel]) -> list[Row]:
    """The summary, metric by metric, in the order of METRICS. Raises InputError for variants that there are not."""
    found = {(index(each, "variant", len(variants)), each.text("metric")): each for each in report.each("summary")}
    lines = []
    for name in METRICS:
        estimates = [found.get((one.colour, name)) for one in variants]
        if not any(estimates):
            continue
        metric = SHOWN[name]
        measured = [one for one, each in zip(variants, estimates, strict=True) if each]
        scores = [
            _score(each, metric, one, best=_best(one, measured, metric, duels)) if each else None
            for one, each in zip(variants, estimates, strict=True)
        ]
        spans = [
            (each.number("mean"), each.number("low"), each.number("high")) if each else (None, None, None)
            for each in estimates
        ]
        lines.append(Row(metric, scores, charts.intervals(spans)))
    return lines


def _best(one: Variant, measured: list[Variant], metric: Metric, duels: list[Duel]) -> bool:
    """Whether every other variant that was measured was beaten, and each time decidedly."""
    beaten = {
        (each.second if each.winner is each.first else each.first).colour
        for each in duels
        if each.metric is metric and each.winner is one
    }
    others = {other.colour for other in measured} - {one.colour}
    return bool(others) and others <= beaten


def _score(facts: Facts, metric: Metric, of: Variant, *, best: bool) -> Score:
    low, high = facts.number("low"), facts.number("high")
    interval = "" if low is None or high is None else f"{metric.say(low)} to {metric.say(high)}"
    judged = facts.text("metric") in OF_THE_JUDGE
    mean = metric.say(facts.number("mean"))
    return Score(mean, interval, facts.whole("count") or 0, best, judged and of.self_scored)


def index(facts: Facts, key: str, count: int) -> int:
    """The number of a variant or prompt. Raises InputError for one that there is not."""
    value = facts.whole(key)
    if value is None or not 0 <= value < count:
        raise InputError(f"{facts.where}: {clean(key)} is {value}; 0 to {count - 1} are allowed")
    return value
