"""From report.json and run folders to rows of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_folders import cell, report, write_comparison

from vqclip.compare.comparison_view import ComparisonView, view
from vqclip.job import InputError


def look(folder: Path, **changes: Any) -> ComparisonView:
    return view(write_comparison(folder, "harmless", **changes), film_limit=1 << 20, picture_limit=1 << 20)


def test_pictures_of_one_prompt_and_seed_stand_side_by_side(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert [[series.seed for series in section.series] for section in found.sections] == [[0, 1], [0, 1]]
    assert [series.number for section in found.sections for series in section.series] == [0, 1, 2, 3]
    for section in found.sections:
        for series in section.series:
            assert [shot.variant.colour for shot in series.shots] == [0, 1]
    last = found.sections[1].series[1].shots
    assert [shot.state for shot in last] == ["missing", "failed"]
    assert found.failures == 2


def test_curves_of_all_variants_are_overlaid_in_their_colours(tmp_path: Path) -> None:
    first, second = look(tmp_path).sections
    for panel in first.panels:
        assert [trace.colour for trace in panel.by_step.traces] == [0, 0, 1, 1]  # two seeds each
    assert [trace.colour for trace in second.panels[0].by_step.traces] == [0, 1]  # one failed, one is missing


def test_no_folder_of_a_failed_cell_is_opened(tmp_path: Path) -> None:
    found = look(tmp_path, cells=[cell(0, 0, 0, status="failed", error="why", folder="/etc")])
    (shot, _) = found.sections[0].series[0].shots
    assert (shot.state, shot.error, shot.picture) == ("failed", "why", None)


def test_a_shot_tells_its_ranks_and_margins_or_why_there_are_none(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("rank", "among", "include", "margin"))
    cells = [
        cell(0, 0, 0, exclude_margin=0.25),
        cell(1, 0, 0, parts={}, unjudged="no verdict: the judge cannot read Tokyo", **nothing),
    ]
    first, second = look(tmp_path, cells=cells).sections[0].series[0].shots
    assert first.told[:5] == [
        "rank 3 of 101", "thing 2 of 91", "colour 1 of 11", "margin +0.100", "exclude margin +0.250",
    ]  # fmt: skip
    assert (second.told, second.unjudged) == (["2.50 s"], "no verdict: the judge cannot read Tokyo")
    for each in cells:  # as older versions wrote them
        del each["exclude_margin"], each["parts"], each["unjudged"]
    (old, _) = look(tmp_path / "old", cells=cells).sections[0].series[0].shots
    assert old.told[:2] == ["rank 3 of 101", "margin +0.100"]


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
