"""What the page of a comparison shows: report.json and the cells' folders, prompt by prompt and seed by seed.

Where no two variants drew the same, seeds stand side by side instead, or prompts where each has one picture. Makes no
markup; the summary's numbers are put into words by `summary_view`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from vqclip.job import InputError
from vqclip.judge.statistics import FEWEST
from vqclip.report import embedded, evidence, summary_view, wording
from vqclip.report.embedded import Allowance, Picture
from vqclip.report.evidence import Curves, Facts
from vqclip.report.run_view import Panel, PromptRow, panels, prompt_rows
from vqclip.report.summary_view import SHOWN, Column, Duel, Row, Variant, index

MOST_CELLS: Final = 4096

_Key = tuple[int, int, int]  # of a cell: prompt, seed, variant


@dataclass(frozen=True)
class Shot:
    """One cell: its picture and film, or why there is none; `numbers` are its ranks, margins and time."""

    variant: Column
    state: str  # done, failed or missing
    error: str = ""
    numbers: list[str] = field(default_factory=list)
    unjudged: str = ""  # why there is no verdict
    self_scored: bool = False
    picture: Picture | None = None
    film: str | None = None
    poster: str = ""
    film_left_out: bool = False


@dataclass(frozen=True)
class Series:
    """Pictures side by side: of one prompt and one seed, one per variant; `number` counts them on the page."""

    name: str  # "seed 3"; empty where the columns say it
    number: int
    shots: list[Shot]

    @property
    def comparable(self) -> bool:
        """Whether there are two pictures to slide between."""
        return sum(shot.picture is not None for shot in self.shots) > 1


@dataclass(frozen=True)
class Section:
    """Everything about one prompt, or about several with one picture each."""

    title: str
    prompts: list[PromptRow]
    series: list[Series]
    panels: list[Panel]
    several: bool = False


@dataclass(frozen=True)
class ComparisonView:
    """Everything that the page of a comparison says."""

    title: str
    created: str
    judge: str
    judge_sha256: str
    variants: list[Variant]
    columns: Sequence[Column]  # what stands side by side: the variants, where two of them drew the same
    prompts: int
    seeds: list[int]
    rows: list[Row]
    duels: list[Duel]
    pairings: list[list[Duel]]  # the same by pair
    sections: list[Section]
    why_undecided: str
    fewest: int  # prompts, for a difference to be decided
    failures: int
    films_left_out: int
    differing: list[str]


def view(folder: Path, *, film_limit: int, picture_limit: int) -> ComparisonView:
    """Read a comparison folder. Raises InputError for a folder without one, and for damaged files."""
    report = evidence.facts(folder / "report.json")
    if report.text("kind") != "comparison" or report.whole("schema") != 1:
        raise InputError(f"{report.where}: not a comparison of schema 1")
    variants = [summary_view.variant(each, number) for number, each in enumerate(report.each("variants"))]
    if not variants:
        raise InputError(f"{report.where}: variants is empty; nothing to compare")
    cells = _Cells(folder, report, Allowance(film_limit), Allowance(picture_limit))
    duels = [summary_view.duel(each, variants) for each in report.each("pairs") if each.text("metric") in SHOWN]
    columns, sections = cells.laid_out(report.each("prompts"), variants)
    shots = [shot for section in sections for series in section.series for shot in series.shots]
    return ComparisonView(
        title=report.text("title") or "Comparison",
        created=report.text("created"),
        judge=report.inner("judge").text("name"),
        judge_sha256=report.inner("judge").text("sha256"),
        variants=variants,
        columns=columns,
        prompts=len(report.each("prompts")),
        seeds=report.wholes("seeds"),
        rows=summary_view.rows(report, variants, duels),
        duels=duels,
        pairings=summary_view.pairings(duels),
        sections=sections,
        why_undecided=_why_undecided(variants, duels),
        fewest=FEWEST,
        failures=sum(shot.state != "done" for shot in shots),
        films_left_out=sum(shot.film_left_out for shot in shots),
        differing=list(dict.fromkeys(key for variant in variants for key in variant.differences)),
    )


class _Cells:
    """The cells of a report by prompt, seed and variant, and what their folders hold."""

    def __init__(self, folder: Path, report: Facts, films: Allowance, pictures: Allowance) -> None:
        self._folder, self._films, self._pictures = folder, films, pictures
        self._seeds = report.wholes("seeds")
        self._count = 0
        self._cells: dict[_Key, Facts] = {}
        prompts, variants = len(report.each("prompts")), len(report.each("variants"))
        if len(report.each("cells")) > MOST_CELLS:
            raise InputError(f"{report.where}: more than {MOST_CELLS} cells; a page that long opens nowhere")
        for each in report.each("cells"):
            prompt, seed, variant = index(each, "prompt", prompts), each.whole("seed"), index(each, "variant", variants)
            if seed not in self._seeds or (prompt, seed, variant) in self._cells:
                raise InputError(f"{each.where}: seed {seed} is not in seeds, or the cell is there twice")
            self._cells[prompt, seed, variant] = each

    def laid_out(self, prompts: list[Facts], variants: list[Variant]) -> tuple[Sequence[Column], list[Section]]:
        """What the columns are, and the sections of the page."""
        if any(len(self._of(prompt, seed)) > 1 for prompt, seed, _ in self._cells):
            return variants, [self._paired(each, number, variants) for number, each in enumerate(prompts)]
        by_prompt: dict[int, list[_Key]] = {}
        for place in sorted(self._cells):
            by_prompt.setdefault(place[0], []).append(place)
        if len(by_prompt) > 1 and all(len(places) == 1 for places in by_prompt.values()):
            names = self._names(sorted(self._cells), [each.text("title") for each in prompts], variants)
            columns = {place: Column(name, number) for number, (place, name) in enumerate(names.items())}
            return list(columns.values()), [self._alone("Different prompts", [], columns, prompts)]
        names = self._names(sorted(self._cells), [], variants)
        of_name = {name: Column(name, number) for number, name in enumerate(dict.fromkeys(names.values()))}
        return list(of_name.values()), [
            self._alone(
                prompts[number].text("title"), prompt_rows(prompts[number]),
                {each: of_name[names[each]] for each in places},
            )
            for number, places in by_prompt.items()
        ]

    def _of(self, prompt: int, seed: int) -> list[int]:
        """The variants that were asked for this prompt with this seed."""
        return [place[2] for place in self._cells if place[:2] == (prompt, seed)]

    def _names(self, places: Sequence[_Key], titles: Sequence[str], variants: list[Variant]) -> dict[_Key, str]:
        """What tells the pictures of these places apart, in words; with `titles` where it is the prompts too."""
        seeds, used = ({place[part] for place in places} for part in (1, 2))
        names: dict[_Key, str] = {}
        for prompt, seed, variant in places:
            parts = [*titles[prompt : prompt + 1], *([variants[variant].name] if len(used) > 1 else [])]
            name = ", ".join([*parts, *([f"seed {seed}"] if len(seeds) > 1 or not parts else [])])
            same = sum(other == name or other.startswith(f"{name} (") for other in names.values()) if titles else 0
            names[prompt, seed, variant] = f"{name} ({same + 1})" if same else name
        return names

    def _paired(self, facts: Facts, number: int, variants: list[Variant]) -> Section:
        """One prompt, its seeds below each other and its variants side by side; what nobody asked for is left out."""
        drawn: dict[int, list[Curves]] = {variant.colour: [] for variant in variants}
        series = []
        for seed in self._seeds:
            cells = [(self._cells.get((number, seed, each.colour)), each) for each in variants]
            if shots := [self._shot(cell, each, drawn) for cell, each in cells if cell]:
                series.append(self._series(f"seed {seed}", shots))
        return Section(facts.text("title"), prompt_rows(facts), series, panels(drawn))

    def _alone(
        self, title: str, prompts: list[PromptRow], columns: Mapping[_Key, Column], besides: Sequence[Facts] = ()
    ) -> Section:
        """Pictures without a counterpart, side by side; `besides` says by prompt what they were not named by."""
        drawn: dict[int, list[Curves]] = {column.colour: [] for column in columns.values()}
        shots = []
        for place, column in columns.items():
            shot = self._shot(self._cells[place], column, drawn)
            of_prompt = [each for facts in besides[place[0] : place[0] + 1] for each in prompt_rows(facts)]
            more = [f"{each.kind} {each.text}" for each in of_prompt if each.kind != "include"]
            shots.append(replace(shot, numbers=[*shot.numbers, *more]))
        return Section(title, prompts, [self._series("", shots)], panels(drawn), several=bool(besides))

    def _series(self, name: str, shots: list[Shot]) -> Series:
        self._count += 1
        return Series(name, self._count - 1, shots)

    def _shot(self, cell: Facts, variant: Column, drawn: dict[int, list[Curves]]) -> Shot:
        """One cell; only a finished one's folder is opened."""
        if cell.text("status") != "done":
            return Shot(variant, "failed" if cell.text("status") == "failed" else "missing", cell.text("error"))
        folder = embedded.inside(self._folder, cell.text("folder"))
        drawn[variant.colour].append(evidence.curves(folder / "metrics.jsonl"))
        film = embedded.film(folder / "progress.mp4", self._films)
        return Shot(
            variant,
            "done",
            numbers=_numbers(cell),
            unjudged=cell.text("unjudged"),
            self_scored=cell.flag("self_scored"),
            picture=embedded.picture(folder / "final.png", self._pictures),
            film=film,
            poster=embedded.poster(folder / "final.png", self._pictures) if film else "",
            film_left_out=film is None and (folder / "progress.mp4").exists(),
        )


def _numbers(cell: Facts) -> list[str]:
    """Ranks, margins and time of one picture."""
    rank, among, seconds = cell.whole("rank"), cell.whole("among"), cell.number("seconds")
    margins = [(name, cell.number(key)) for name, key in (("margin", "margin"), ("exclude margin", "exclude_margin"))]
    return [
        *([f"rank {rank} of {among}"] if rank is not None and among is not None else []),
        *wording.places(evidence.parts(cell)),
        *(f"{name} {wording.signed(margin)}" for name, margin in margins if margin is not None),
        *([wording.duration(seconds)] if seconds is not None else []),
    ]


def _why_undecided(variants: Sequence[Variant], duels: Sequence[Duel]) -> str:
    """Why no difference is decided, in the words of the page; empty when one is."""
    if any(duel.winner for duel in duels):
        return ""
    if len(variants) == 1:
        return "One way of making pictures: there is nothing to compare by numbers."
    if not duels:
        return "No two variants drew the same prompt with the same seed, so no difference can be decided."
    most = max(duel.prompts for duel in duels)
    if most < FEWEST:
        drawn = "there is one" if most == 1 else f"there are {most}"
        return f"No difference is decided: that takes {FEWEST} prompts which both variants drew, and here {drawn}."
    return "No difference between the variants is decided by these pictures."
