"""From report.json and run folders to rows of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_folders import cell, pair, report, write_comparison

from vqclip.job import InputError
from vqclip.report.comparison_view import ComparisonView, view


def look(folder: Path, **changes: Any) -> ComparisonView:
    return view(write_comparison(folder, "harmless", **changes), film_limit=1 << 20, picture_limit=1 << 20)


def test_pictures_of_one_prompt_and_seed_stand_side_by_side(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert [[series.name for series in section.series] for section in found.sections] == [["seed 0", "seed 1"]] * 2
    assert [series.number for section in found.sections for series in section.series] == [0, 1, 2, 3]
    for section in found.sections:
        for series in section.series[:1]:
            assert [shot.variant.colour for shot in series.shots] == [0, 1]
    last = found.sections[1].series[1].shots
    assert [shot.state for shot in last] == ["failed"]
    assert found.failures == 1
    assert [series.comparable for series in found.sections[1].series] == [True, False]


def test_curves_of_all_variants_are_overlaid_in_their_colours(tmp_path: Path) -> None:
    first, second = look(tmp_path).sections
    for panel in first.panels:
        assert [trace.colour for trace in panel.by_step.traces] == [0, 0, 1, 1]  # two seeds each
    assert [trace.colour for trace in second.panels[0].by_step.traces] == [0, 1]  # one failed, one is missing


def test_no_folder_of_a_failed_cell_is_opened(tmp_path: Path) -> None:
    found = look(tmp_path, cells=[cell(0, 0, 0, status="failed", error="why", folder="/etc")])
    (shot,) = found.sections[0].series[0].shots
    assert (shot.state, shot.error, shot.picture) == ("failed", "why", None)


def test_a_shot_tells_its_ranks_and_margins_or_why_there_are_none(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("rank", "among", "include", "margin"))
    cells = [
        cell(0, 0, 0, exclude_margin=0.25),
        cell(1, 0, 0, parts={}, unjudged="no verdict: the judge cannot read Tokyo", **nothing),
    ]
    first, second = look(tmp_path, cells=cells).sections[0].series[0].shots
    assert first.numbers[:5] == [
        "rank 3 of 101", "thing 2 of 91", "colour 1 of 11", "margin +0.100", "exclude margin +0.250",
    ]  # fmt: skip
    assert (second.numbers, second.unjudged) == (["2.50 s"], "no verdict: the judge cannot read Tokyo")
    for each in cells:  # as older versions wrote them
        del each["exclude_margin"], each["parts"], each["unjudged"]
    (old, _) = look(tmp_path / "old", cells=cells).sections[0].series[0].shots
    assert old.numbers[:2] == ["rank 3 of 101", "margin +0.100"]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"}, {"schema": 2}, {"variants": []}, {"cells": [cell(2, 0, 0)]}, {"cells": [cell(0, 5, 0)]},
        {"cells": [cell(0, 0, 9)]}, {"cells": [cell(0, 0, 0), cell(0, 0, 0)]}, {"prompts": [1]}, {"seeds": ["0"]},
    ],
)  # fmt: skip
def test_reports_that_do_not_hang_together_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report("x", **changes)))
    with pytest.raises(InputError, match=r"report\.json") as caught:
        view(tmp_path, film_limit=1, picture_limit=1)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        view(tmp_path, film_limit=1, picture_limit=1)


def test_settings_that_differ_are_listed_once(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.differing == ["harmless", "optimizer.lr"]
    assert found.variants[0].differences["optimizer.lr"] == "0.1"


def names(found: ComparisonView) -> list[str]:
    return [column.name for column in found.columns]


def test_seeds_of_one_variant_stand_side_by_side(tmp_path: Path) -> None:
    variant = report("x")["variants"][1]
    cells = [cell(0, p, s) for p in (0, 1) for s in (0, 1)]
    found = look(tmp_path, variants=[variant], cells=cells, pairs=[], summary=[])
    assert names(found) == ["seed 0", "seed 1"]
    for section in found.sections:
        (series,) = section.series
        assert [shot.variant.colour for shot in series.shots] == [0, 1]
        assert series.comparable
    assert [trace.colour for trace in found.sections[0].panels[0].by_step.traces] == [0, 1]
    assert "nothing to compare" in found.why_undecided


def test_runs_of_different_prompts_stand_side_by_side(tmp_path: Path) -> None:
    prompts = [
        {"title": "an apple", "include": ["an apple"], "exclude": ["yellow"], "extras": []},
        {"title": "a heart", "include": ["a heart"], "exclude": [], "extras": ["flat"]},
    ]
    found = look(tmp_path, prompts=prompts, cells=[cell(0, 0, 0), cell(1, 1, 0)], pairs=[])
    (section,) = found.sections
    (series,) = section.series
    assert names(found) == ["an apple, harmless", "a heart, harmless"]
    assert [shot.numbers[-1] for shot in series.shots] == ["exclude yellow", "extras flat"]
    assert series.comparable
    assert "same prompt with the same seed" in found.why_undecided


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([cell(0, 0, 0), cell(0, 1, 0)], ["same", "same (2)"]),
        ([cell(0, 0, 0), cell(0, 1, 1)], ["same, seed 0", "same, seed 1"]),
        ([cell(0, 0, 0), cell(1, 0, 1)], ["harmless, seed 0", "harmless, seed 1"]),
        ([cell(0, 0, 0)], ["seed 0"]),
    ],
)
def test_columns_are_named_by_what_tells_them_apart(
    tmp_path: Path, cells: list[dict[str, Any]], expected: list[str]
) -> None:
    same = {"title": "same", "include": ["same"], "exclude": [], "extras": []}
    assert names(look(tmp_path, prompts=[same, same], cells=cells, pairs=[])) == expected


def test_pictures_that_nobody_asked_for_are_not_missing(tmp_path: Path) -> None:
    """Runs from elsewhere: two of one prompt and a third of another."""
    found = look(tmp_path, cells=[cell(0, 0, 0), cell(1, 0, 0), cell(1, 1, 0)])
    assert [[len(series.shots) for series in section.series] for section in found.sections] == [[2], [1]]
    assert found.failures == 0


@pytest.mark.parametrize(
    ("prompts", "said"), [(1, "here there is one"), (5, "here there are 5"), (6, "by these pictures")]
)
def test_the_page_says_why_nothing_is_decided(tmp_path: Path, prompts: int, said: str) -> None:
    found = look(tmp_path, pairs=[pair(0, 1, "margin", 0.1, decided=False, prompts=prompts)])
    assert found.why_undecided.rstrip(".").endswith(said)
    assert look(tmp_path / "b", pairs=[pair(0, 1, "margin", 0.1, decided=True)]).why_undecided == ""
