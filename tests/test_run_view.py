"""From a run folder to what its page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_folders import prompt, run_facts, write_run

from vqclip.job import InputError
from vqclip.report.evidence import Curves, Facts, Point
from vqclip.report.run_view import RunView, panels, prompt_rows, view


def look(folder: Path, **changes: Any) -> RunView:
    return view(write_run(folder, "grain", **changes), film_limit=1 << 20, picture_limit=1 << 20)


def test_a_run_tells_its_numbers(tmp_path: Path) -> None:
    found = look(tmp_path / "run", device="cpu", precision="float32", started="2026-11-21")
    numbers = dict(found.numbers)
    assert numbers["size"] == "32 \u00d7 32"
    assert numbers["pace"] == "2.40 steps a second"
    assert numbers["computed on"] == "cpu, float32"
    assert numbers["seed"] == "7"
    assert found.picture is not None
    assert found.film is not None
    assert [frame.label for frame in found.frames] == ["0", "1", "3", "4", "5", "7", "8"]


def test_a_run_that_stopped_early_says_how_far_it_came(tmp_path: Path) -> None:
    found = look(tmp_path / "run", status="interrupted", steps=4, verdict=None, peak_memory_bytes=2_000_000_000)
    assert dict(found.numbers)["steps"] == "4 of 6"
    assert dict(found.numbers)["peak memory"] == "2.00 GB"
    assert found.state == "interrupted"
    assert found.verdict == []


def test_the_verdict_tells_ranks_by_part_and_what_the_rivals_are(tmp_path: Path) -> None:
    said = look(tmp_path / "run").verdict
    assert "the thing 2nd of 71, its colour first of 11 and the ground first of 11" in said[1]
    assert "the thing (70), its colour (10), the ground (10) and colour and ground at once (10)" in said[2]
    assert "above the other text that fits best and 0.100 above the excluded text" in said[3]
    old = {"judge": "j", "rank": 3, "among": 101, "include": 0.3, "exclude": 0.2, "margin": 0.1, "self_scored": False}
    said = look(tmp_path / "old", verdict=old).verdict
    assert len(said) == 3
    assert said[1] == "The prompt's similarity is 0.300, 0.100 above the excluded text that fits best."


def test_a_judge_that_cannot_read_says_so(tmp_path: Path) -> None:
    found = look(tmp_path / "run", verdict=None, warnings=["x", "no verdict: the judge cannot read Tokyo"])
    assert (found.verdict, found.unjudged) == ([], "No verdict: the judge cannot read Tokyo")


def test_prompts_come_with_weight_stop_and_loss() -> None:
    job = Facts({"include": [prompt("a")], "exclude": [prompt("b", 2.5, 1.2)], "extras": []}, "job")
    rows = prompt_rows(job, Facts({"include: a": 0.5}, "terms"))
    assert [(row.kind, row.text, row.weight, row.stop, row.loss) for row in rows] == [
        ("include", "a", "1", "", "0.500"),
        ("exclude", "b", "2.5", "1.2", "\u2013"),
    ]
    assert [row.text for row in prompt_rows(Facts({"include": ["a", "b"]}, "prompts[0]"))] == ["a", "b"]


def test_scores_come_before_losses_and_a_single_loss_is_its_own_total() -> None:
    course = [Point(0, 0.0, 1.0), Point(1, 0.5, 0.5)]
    one = Curves(total=course, terms={"include: a": course}, judge={"rank": course})
    assert [panel.name for panel in panels({0: [one]})] == ["rank", "include: a"]
    two = Curves(total=course, terms={"include: a": course, "smooth": course})
    found = panels({0: [one], 1: [two]})
    assert [panel.name for panel in found] == ["rank", "include: a", "smooth", "total"]
    assert [panel.judged for panel in found] == [True, False, False, False]
    assert [trace.colour for trace in found[1].by_second.traces] == [0, 1]
    assert found[0].last == "0"  # places are whole numbers
    assert found[1].last == ""  # of two curves none is the last


def test_changed_settings_say_their_default(tmp_path: Path) -> None:
    found = look(tmp_path / "run", config={"a": {"b": 1}, "c": 2}, changed={"a.b": None})
    assert [(each.key, each.value, each.default) for each in found.settings] == [("a.b", "1", "null"), ("c", "2", None)]
    assert found.changes == 1


@pytest.mark.parametrize(
    "changes",
    [{"status": "odd"}, {"job": []}, {"verdict": {"rank": "x"}}, {"config": 1},
     {"verdict": {"rank": 1, "among": 2, "parts": {"thing": [1]}}}, {"warnings": "x"}, {"changed": []}],
)
def test_damaged_facts_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run_facts("x", **changes)))
    with pytest.raises(InputError, match=r"run\.json") as caught:
        view(tmp_path, film_limit=1, picture_limit=1)
    assert "\n" not in str(caught.value)
