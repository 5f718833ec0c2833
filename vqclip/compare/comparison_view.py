"""What the page of a comparison shows: report.json and the cells' folders, prompt by prompt and seed by seed.

Makes no markup; the summary's numbers are put into words by `summary_view`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vqclip.compare import embedded, evidence, summary_view, wording
from vqclip.compare.embedded import Allowance, Picture
from vqclip.compare.evidence import Curves, Facts
from vqclip.compare.run_view import Asked, Panel, asked, panels
from vqclip.compare.summary_view import SHOWN, Duel, Row, Variant, index
from vqclip.job import InputError

MOST_CELLS: Final = 4096


@dataclass(frozen=True)
class Shot:
    """One cell: its picture and film, or why there is none; `told` are its numbers."""

    variant: Variant
    state: str  # done, failed or missing
    error: str = ""
    told: list[str] = field(default_factory=list)
    unjudged: str = ""  # why there is no verdict
    self_scored: bool = False
    picture: Picture | None = None
    film: str | None = None
    poster: str = ""
    film_left_out: bool = False


@dataclass(frozen=True)
class Series:
    """The pictures of one prompt and one seed, one per variant; `number` counts them on the page."""

    seed: int
    number: int
    shots: list[Shot]


@dataclass(frozen=True)
class Section:
    """Everything about one prompt."""

    title: str
    asked: list[Asked]
    series: list[Series]
    panels: list[Panel]


@dataclass(frozen=True)
class ComparisonView:
    """Everything that the page of a comparison says."""

    title: str
    created: str
    judge: str
    judge_sha256: str
    variants: list[Variant]
    seeds: list[int]
    rows: list[Row]
    duels: list[Duel]
    pairings: list[list[Duel]]  # the same by pair
    sections: list[Section]
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
    sections = [cells.section(each, number, variants) for number, each in enumerate(report.each("prompts"))]
    shots = [shot for section in sections for series in section.series for shot in series.shots]
    return ComparisonView(
        title=report.text("title") or "Comparison",
        created=report.text("created"),
        judge=report.inner("judge").text("name"),
        judge_sha256=report.inner("judge").text("sha256"),
        variants=variants,
        seeds=report.wholes("seeds"),
        rows=summary_view.rows(report, variants, duels),
        duels=duels,
        pairings=summary_view.pairings(duels),
        sections=sections,
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
        self._cells: dict[tuple[int, int | None, int], Facts] = {}
        prompts, variants = len(report.each("prompts")), len(report.each("variants"))
        if len(report.each("cells")) > MOST_CELLS:
            raise InputError(f"{report.where}: more than {MOST_CELLS} cells; a page that long opens nowhere")
        for each in report.each("cells"):
            key = (index(each, "prompt", prompts), each.whole("seed"), index(each, "variant", variants))
            if key[1] not in self._seeds or key in self._cells:
                raise InputError(f"{each.where}: seed {key[1]} is not in seeds, or the cell is there twice")
            self._cells[key] = each

    def section(self, facts: Facts, number: int, variants: list[Variant]) -> Section:
        """One prompt with its pictures and curves. Seeds that no variant has are left out."""
        drawn: dict[int, list[Curves]] = {variant.colour: [] for variant in variants}
        series = []
        for seed in self._seeds:
            cells = [self._cells.get((number, seed, variant.colour)) for variant in variants]
            if any(cells):
                shots = [self._shot(cell, each, drawn) for cell, each in zip(cells, variants, strict=True)]
                series.append(Series(seed, self._count, shots))
                self._count += 1
        return Section(facts.text("title"), asked(facts), series, panels(drawn))

    def _shot(self, cell: Facts | None, variant: Variant, drawn: dict[int, list[Curves]]) -> Shot:
        """One cell; only a finished one's folder is opened."""
        if cell is None or cell.text("status") != "done":
            state = "failed" if cell is not None and cell.text("status") == "failed" else "missing"
            return Shot(variant, state, cell.text("error") if cell else "")
        place = embedded.inside(self._folder, cell.text("folder"))
        drawn[variant.colour].append(evidence.curves(place / "metrics.jsonl"))
        film = embedded.film(place / "progress.mp4", self._films)
        return Shot(
            variant,
            "done",
            told=_told(cell),
            unjudged=cell.text("unjudged"),
            self_scored=cell.flag("self_scored"),
            picture=embedded.picture(place / "final.png", self._pictures),
            film=film,
            poster=embedded.poster(place / "final.png", self._pictures) if film else "",
            film_left_out=film is None and (place / "progress.mp4").exists(),
        )


def _told(cell: Facts) -> list[str]:
    """Ranks, margins and time of one picture."""
    rank, among, seconds = cell.whole("rank"), cell.whole("among"), cell.number("seconds")
    margins = [(name, cell.number(key)) for name, key in (("margin", "margin"), ("exclude margin", "exclude_margin"))]
    return [
        *([f"rank {rank} of {among}"] if rank is not None and among is not None else []),
        *wording.places(evidence.parts(cell)),
        *(f"{name} {wording.signed(margin)}" for name, margin in margins if margin is not None),
        *([wording.duration(seconds)] if seconds is not None else []),
    ]
