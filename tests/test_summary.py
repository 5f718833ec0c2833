"""report.json says what the runs say: statuses, verdicts, differences, means, pairs; and refuses what misleads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import CONFIG, JUDGE, edit, flat, job, make_cell, make_run, verdict
from torch import Tensor
from torch.nn import functional as F

from vqclip.compare.cells import Cell, adopt, folder_of
from vqclip.compare.summary import read_run, summarise, write_report
from vqclip.compare.variants import group
from vqclip.job import InputError, Job, Prompt, Reading
from vqclip.judge.judge import Judge
from vqclip.judge.scores import METRICS

OTHER = "99" * 32


class Colours:
    """A perceptor whose embedding is the mean colour; texts are colours, anything else is grey."""

    size = 16
    names = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

    def read(self, text: str) -> Reading:
        return Reading(text, unread=("Tokyo",) if "Tokyo" in text else ())

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.tensor([self.names.get(text, (1.0, 1.0, 1.0)) for text in texts]), dim=1)

    def embed_image(self, crops: Tensor) -> Tensor:
        return F.normalize(crops.mean((2, 3)) + 1e-6, dim=1)


class Court:
    """Makes judges and remembers for which titles."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, task: Job) -> Judge:
        self.made.append(task.title)
        against = [prompt.text for prompt in task.exclude]
        rivals = [name for name in Colours.names if name != task.title]
        return Judge(Colours(), "colours", [task.title], exclude=against, rivals=[{"thing": rivals}])


def cell(root: Path, variant: str = "a", title: str = "red", seed: int = 0, exclude: tuple[str, ...] = ()) -> Cell:
    task = job(title, seed, exclude=exclude)
    return Cell(variant, task, folder_of(root, variant, task), CONFIG | {"backend": variant})


def made(wanted: Cell, **more: Any) -> Cell:
    return make_cell(wanted, config={"backend": wanted.variant} | more.pop("config", {}), **more)


def report(cells: Sequence[Cell], root: Path, **more: Any) -> dict[str, Any]:
    found = summarise(cells, root=root, title="test", created="2026-01-01T00:00:00+00:00", **more)
    written = json.loads(write_report(root, found).read_text())
    assert written == found  # plain JSON values, nothing lost
    return found


def line(found: dict[str, Any], metric: str, variant: int = 0) -> dict[str, Any]:
    (one,) = [each for each in found["summary"] if (each["metric"], each["variant"]) == (metric, variant)]
    return one


def pair(found: dict[str, Any], metric: str) -> dict[str, Any]:
    (one,) = [each for each in found["pairs"] if each["metric"] == metric]
    return one


class TestShape:
    def test_every_field_is_there(self, tmp_path: Path) -> None:
        cells = [
            made(cell(tmp_path, v, t, s), judged=verdict(2)) for v in "ab" for t in ("red", "blue") for s in (0, 7)
        ]
        found = report(cells, tmp_path)
        assert list(found) == [
            "schema", "kind", "title", "created", "judge", "variants", "prompts", "seeds", "cells", "summary", "pairs",
        ]  # fmt: skip
        assert (found["schema"], found["kind"], found["seeds"]) == (1, "comparison", [0, 7])
        assert found["judge"] == {"name": "starter/judge", "sha256": JUDGE}
        assert list(found["variants"][0]) == [
            "name", "backend", "config", "differences", "versions", "weights", "models", "self_scored",
        ]  # fmt: skip
        assert [each["name"] for each in found["variants"]] == ["a", "b"]
        assert found["prompts"][1] == {
            "title": "blue", "include": [{"text": "blue", "weight": 1.0, "stop": None}], "exclude": [], "extras": [],
        }  # fmt: skip
        assert [(c["variant"], c["prompt"], c["seed"]) for c in found["cells"]] == [
            (v, p, s) for v in (0, 1) for p in (0, 1) for s in (0, 7)
        ]
        assert set(found["summary"][0]) == {"variant", "metric", "mean", "low", "high", "count", "prompts"}
        assert set(found["pairs"][0]) == {
            "first", "second", "metric", "wins", "losses", "ties", "win_rate", "win_low", "win_high", "difference",
            "low", "high", "decided", "prompts",
        }  # fmt: skip
        assert {each["metric"] for each in found["summary"]} <= set(METRICS)

    def test_a_cell_repeats_its_run(self, tmp_path: Path) -> None:
        one = made(cell(tmp_path, seed=3), judged=verdict(4, margin=-0.25), seconds=0.5, peak_memory_bytes=12)
        (found,) = report([one], tmp_path)["cells"]
        assert found == {
            "variant": 0, "prompt": 0, "seed": 3, "folder": one.folder.relative_to(tmp_path).as_posix(),
            "status": "done", "error": None, "rank": 4, "among": 101, "include": 0.3, "exclude": None, "margin": -0.25,
            "exclude_margin": None, "parts": {"thing": [4, 91], "colour": [1, 11]}, "unjudged": None,
            "self_scored": False, "seconds": 0.5, "steps": 2, "peak_memory_bytes": 12,
        }  # fmt: skip

    def test_the_same_folders_give_the_same_bytes(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path, v, "red", s), judged=verdict(s + 1)) for v in "ab" for s in (0, 1)]
        report(cells, tmp_path)
        before = (tmp_path / "report.json").read_bytes()
        report(cells, tmp_path)
        assert (tmp_path / "report.json").read_bytes() == before

    def test_the_order_of_cells_decides_only_the_numbers(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path, "a", t, s), judged=verdict(s + 1)) for t in ("red", "blue") for s in (0, 1)]
        there, back = report(cells, tmp_path), report([*cells[:2][::-1], *cells[2:][::-1]], tmp_path)
        assert there == back


class TestStatus:
    def test_what_is_not_done_says_why(self, tmp_path: Path) -> None:
        cells = [cell(tmp_path, seed=seed) for seed in range(8)]
        made(cells[0], judged=verdict())
        made(cells[1], status="failed")
        made(cells[2], status="interrupted")
        (made(cells[3]).folder / "final.png").write_bytes(b"")
        edit(made(cells[4]).folder, status="running")
        cells[5] = replace(cells[5], error="WeightsError: nothing\nthere")
        cells[6] = replace(made(cells[6]), config=CONFIG | {"steps": 99})
        found = report(cells, tmp_path)["cells"]
        assert [each["status"] for each in found] == ["done", *["failed"] * 6, "missing"]
        errors = [each["error"] for each in found]
        assert errors[0] is errors[7] is None
        for error, part in zip(
            errors[1:7],
            [
                "MemoryError: no room",
                "KeyboardInterrupt",
                "final.png",
                "it still runs",
                "nothing there",
                "config",
            ],
            strict=True,
        ):
            assert part in error
            assert str(tmp_path) not in error
        for each in found[1:]:
            assert {each[key] for key in ("rank", "margin", "seconds", "steps", "peak_memory_bytes")} == {None}

    def test_only_done_cells_count(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path), judged=verdict(1)), made(cell(tmp_path, seed=1), status="failed")]
        assert line(report(cells, tmp_path), "top1")["count"] == 1

    def test_a_variant_without_any_run_is_shown_as_planned(self, tmp_path: Path) -> None:
        found = report([made(cell(tmp_path, "a"), judged=verdict()), cell(tmp_path, "b")], tmp_path)
        assert found["variants"][1]["config"]["optimizer"] == CONFIG["optimizer"]
        assert [each["differences"] for each in found["variants"]] == [{"backend": "a"}, {"backend": "b"}]
        assert found["pairs"] == []

    @pytest.mark.parametrize("cells", [[], ["twice", "twice"]])
    def test_what_cannot_be_told_apart_is_refused(self, tmp_path: Path, cells: list[str]) -> None:
        with pytest.raises(InputError, match="nothing to compare|same variant, prompt and seed"):
            report([cell(tmp_path) for _ in cells], tmp_path)


class TestVerdicts:
    def test_those_of_the_same_judge_are_kept(self, tmp_path: Path) -> None:
        court = Court()
        cells = [made(cell(tmp_path, seed=seed), judged=verdict(17)) for seed in (0, 1)]
        found = report(cells, tmp_path, judge_of=court, judge_sha256=JUDGE)
        assert [each["rank"] for each in found["cells"]] == [17, 17]
        assert found["judge"] == {"name": "colours", "sha256": JUDGE}
        assert court.made == ["red"]  # asked once, for the embeddings

    def test_others_are_made_from_the_picture(self, tmp_path: Path) -> None:
        right, wrong = flat(0.9, 0.1, 0.1), flat(0.1, 0.2, 0.9)
        cells = [
            made(cell(tmp_path, seed=0), judged=verdict(50), image=right),
            made(cell(tmp_path, seed=1), judged=None, image=wrong),
        ]
        found = report(cells, tmp_path, judge_of=Court(), judge_sha256=OTHER)
        assert [(each["rank"], each["among"]) for each in found["cells"]] == [(1, 3), (3, 3)]
        expected = Court()(job("red")).judge(wrong)
        assert found["cells"][1]["margin"] == pytest.approx(expected.margin, abs=0.01)  # 8 bits a channel
        assert line(found, "top1")["mean"] == 0.5

    def test_those_by_older_rules_are_made_anew(self, tmp_path: Path) -> None:
        """Their rivals were others, and their margin was against the excludes."""
        (one,) = [made(cell(tmp_path, exclude=("green",)), judged=verdict(50), image=flat(0.9, 0.1, 0.2))]
        facts = json.loads((one.folder / "run.json").read_text())["verdict"]
        old = {key: value for key, value in facts.items() if key not in ("exclude_margin", "parts")} | {"exclude": 0.2}
        edit(one.folder, verdict=old)
        (kept,) = report([one], tmp_path)["cells"]
        assert (kept["rank"], kept["margin"], kept["exclude_margin"]) == (50, None, 0.1)
        (anew,) = report([one], tmp_path, judge_of=Court(), judge_sha256=JUDGE)["cells"]
        assert anew["rank"] == 1
        assert anew["margin"] > 0.5

    def test_words_that_the_judge_cannot_read_leave_a_cell_without_scores(self, tmp_path: Path) -> None:
        green = flat(0.2, 0.9, 0.1)
        cells = [made(cell(tmp_path, title=title), judged=None, image=green) for title in ("red", "red Tokyo")]
        found = report(cells, tmp_path, judge_of=Court(), judge_sha256=JUDGE)
        red, tokyo = found["cells"]
        assert (red["rank"], red["unjudged"]) == (2, None)
        assert tokyo["unjudged"] == "no verdict: the judge cannot read Tokyo"
        assert {tokyo[key] for key in ("rank", "among", "include", "margin", "exclude_margin")} == {None}
        assert line(found, "top1")["count"] == line(found, "margin")["count"] == 1

    def test_without_a_judge_the_runs_must_agree(self, tmp_path: Path) -> None:
        one = made(cell(tmp_path), judged=verdict())
        other = made(cell(tmp_path, seed=1), judged=verdict(), weights={"judge": OTHER})
        with pytest.raises(InputError, match="different judges"):
            report([one, other], tmp_path)

    def test_runs_that_nobody_judged_have_times_only(self, tmp_path: Path) -> None:
        found = report([made(cell(tmp_path, seed=seed)) for seed in (0, 1)], tmp_path)
        assert found["judge"] is None
        assert {each["metric"] for each in found["summary"]} == {"seconds", "ms_ssim"}

    def test_a_judge_that_steered_is_called_so_and_decides_nothing(self, tmp_path: Path) -> None:
        titles = [f"red {number}" for number in range(8)]
        ours = [made(cell(tmp_path, "a", t), judged=verdict(1), weights={"guide 0": JUDGE}) for t in titles]
        theirs = [made(cell(tmp_path, "b", t), judged=verdict(50, margin=-0.1), seconds=9.0) for t in titles]
        found = report([*ours, *theirs], tmp_path)
        assert [each["self_scored"] for each in found["variants"]] == [True, False]
        assert {each["self_scored"] for each in found["cells"][:8]} == {True}
        for metric in ("top1", "top5", "margin"):
            assert pair(found, metric)["low"] > 0
            assert not pair(found, metric)["decided"]
        assert pair(found, "seconds")["decided"]
        fair = report(
            [*(made(cell(tmp_path / "fair", "a", t), judged=verdict(1)) for t in titles), *theirs], tmp_path / "fair"
        )
        assert pair(fair, "top1")["decided"]

    def test_a_judge_that_steered_under_another_name_is_called_so(self, tmp_path: Path) -> None:
        eye, other = "aa bb cc dd", "ee ff gg hh"
        cells = [
            made(cell(tmp_path, "a"), judged=verdict(1), eyes={"guide 0": eye, "judge": eye}),
            made(cell(tmp_path, "b"), judged=verdict(1), eyes={"guide 0": other, "judge": eye}),
        ]
        for more in ({}, {"judge_of": Court(), "judge_sha256": JUDGE, "judge_sketch": eye}):
            assert [each["self_scored"] for each in report(cells, tmp_path, **more)["variants"]] == [True, False]

    def test_a_judge_needs_its_hash(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="belong together"):
            report([cell(tmp_path)], tmp_path, judge_of=Court())


class TestNumbers:
    def test_prompts_count_the_same_however_many_seeds(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path, "a", "red", seed), judged=verdict(1)) for seed in range(3)]
        cells.append(made(cell(tmp_path, "a", "blue"), judged=verdict(9)))
        assert line(report(cells, tmp_path), "top1")["mean"] == 0.5

    def test_one_prompt_has_no_interval(self, tmp_path: Path) -> None:
        found = line(report([made(cell(tmp_path), judged=verdict(1))], tmp_path), "top1")
        assert (found["mean"], found["low"], found["high"], found["count"]) == (1.0, None, None, 1)

    def test_diversity_is_over_the_seeds_of_a_prompt(self, tmp_path: Path) -> None:
        red, green, blue = flat(1.0, 0.0, 0.0), flat(0.0, 1.0, 0.0), flat(0.0, 0.0, 1.0)
        cells = [made(cell(tmp_path, "a", "red", s), image=i) for s, i in enumerate((red, green, blue))]
        cells += [made(cell(tmp_path, "b", "red", s), image=red) for s in range(3)]
        found = report(cells, tmp_path, judge_of=Court(), judge_sha256=JUDGE)
        assert line(found, "diversity", 0)["mean"] == pytest.approx(1.0, abs=1e-4)
        assert line(found, "diversity", 1)["mean"] == pytest.approx(0.0, abs=1e-6)
        assert line(found, "ms_ssim", 1)["mean"] == pytest.approx(0.0, abs=1e-9)
        assert line(found, "ms_ssim", 0)["mean"] > 0.1
        assert (pair(found, "diversity")["wins"], pair(found, "diversity")["losses"]) == (1, 0)

    def test_pairs_are_by_prompt_and_seed(self, tmp_path: Path) -> None:
        ours = [made(cell(tmp_path, "a", "red", s), judged=verdict(1), seconds=1.0 + s) for s in (0, 1, 2)]
        theirs = [made(cell(tmp_path, "b", "red", s), judged=verdict(9), seconds=4.0) for s in (1, 2, 3)]
        found = pair(report([*ours, *theirs], tmp_path), "seconds")
        assert (found["wins"], found["losses"], found["difference"]) == (2, 0, pytest.approx(-1.5))

    def test_more_than_two_variants_are_all_paired(self, tmp_path: Path) -> None:
        found = report([made(cell(tmp_path, v), judged=verdict()) for v in "abcd"], tmp_path)
        pairs = [(each["first"], each["second"]) for each in found["pairs"] if each["metric"] == "margin"]
        assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]

    def test_means_are_those_of_the_cells(self, tmp_path: Path) -> None:
        times = np.random.default_rng(1).uniform(1, 9, size=(4, 2)).round(3)
        cells = [made(cell(tmp_path, "a", f"red {p}", s), seconds=float(times[p, s])) for p in range(4) for s in (0, 1)]
        found = line(report(cells, tmp_path), "seconds")
        assert found["mean"] == pytest.approx(times.mean())
        assert times.mean(1).min() <= found["low"] < found["mean"] < found["high"] <= times.mean(1).max()


class TestDescription:
    def test_differences_leave_out_what_belongs_to_pictures(self, tmp_path: Path) -> None:
        one = make_cell(replace(cell(tmp_path, "x"), config={}), config={"outputs": "here"})
        lr = {"optimizer": {"name": "adam", "lr": 0.3}, "include": ["z"]}
        other = make_cell(replace(cell(tmp_path, "y"), config={}), config=lr)
        found = report([one, other], tmp_path)["variants"]
        assert [each["differences"] for each in found] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.3}]
        assert not {"include", "prompts", "seed", "name", "outputs"} & set(found[0]["config"])

    def test_runs_of_one_variant_that_differ_in_versions_show_both(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path, seed=seed)) for seed in (0, 1)]
        edit(cells[1].folder, versions={"vqclip": "0.2.0"})
        (variant,) = report(cells, tmp_path)["variants"]
        assert variant["versions"] == {"vqclip": "0.1.0, 0.2.0"}
        assert variant["weights"]["generator"] == "aa" * 32

    def test_odd_prompts_survive(self, tmp_path: Path) -> None:
        title = "</script>\ud83d \0 ü"
        found = summarise(
            [made(cell(tmp_path, "v\n'\"", title), judged=verdict())], root=tmp_path, title="t", created="now"
        )
        again = json.loads(write_report(tmp_path, found).read_bytes())
        assert again["prompts"][0]["title"] == title


class TestRunsFromElsewhere:
    def test_runs_are_grouped_paired_and_copied(self, tmp_path: Path) -> None:
        for number, (backend, title, seed) in enumerate(
            [("vqgan", "red", 0), ("sd", "red", 0), ("vqgan", "blue", 4), ("sd", "blue", 4)]
        ):
            make_run(tmp_path / f"run{number}", job(title, seed), judged=verdict(), config={"backend": backend})
        runs = [read_run(tmp_path / f"run{number}") for number in range(4)]
        root = tmp_path / "comparison"
        cells = [adopt(run, root, name) for name, members in group(runs).items() for run in members]
        found = report(cells, root)
        assert [each["name"] for each in found["variants"]] == ["vqgan", "sd"]
        assert pair(found, "seconds")["ties"] == 2
        for each in found["cells"]:
            assert not each["folder"].startswith("..")
            assert (root / each["folder"] / "final.png").is_file()

    def test_titles_pair_even_when_other_things_were_excluded(self, tmp_path: Path) -> None:
        """The difference is named, and exclude margins, which then measure different things, are not paired."""
        make_run(tmp_path / "a", job("red", exclude=("blue",)), judged=verdict(exclude_margin=0.1))
        make_run(tmp_path / "b", job("red", exclude=("green",)), judged=verdict(exclude_margin=0.1))
        runs = [read_run(tmp_path / name) for name in "ab"]
        cells = [Cell(name, run.job, run.folder, prompt=run.job.title) for name, (run,) in group(runs).items()]
        found = report(cells, tmp_path)
        assert [each["differences"] for each in found["variants"]] == [{"exclude": ["blue"]}, {"exclude": ["green"]}]
        assert found["prompts"] == [
            {"title": "red", "include": [{"text": "red", "weight": 1.0, "stop": None}], "exclude": [], "extras": []}
        ]
        assert "exclude_margin" in {each["metric"] for each in found["summary"]}
        assert {each["metric"] for each in found["pairs"]} == {"top1", "top5", "margin", "seconds"}

    def test_the_two_margins_are_never_averaged(self, tmp_path: Path) -> None:
        against = cell(tmp_path, title="blue", exclude=("green",))
        cells = [made(cell(tmp_path), judged=verdict(margin=0.1))]
        cells.append(made(against, judged=verdict(margin=0.3, exclude_margin=0.7)))
        found = report(cells, tmp_path)
        assert line(found, "margin")["mean"] == pytest.approx(0.2)
        assert (line(found, "exclude_margin")["mean"], line(found, "exclude_margin")["count"]) == (0.7, 1)

    def test_planned_prompts_of_one_title_stay_apart(self, tmp_path: Path) -> None:
        cells = [made(cell(tmp_path), judged=verdict()), made(cell(tmp_path, exclude=("green",)), judged=verdict())]
        found = report(cells, tmp_path)
        assert [[p["text"] for p in each["exclude"]] for each in found["prompts"]] == [[], ["green"]]
        assert found["variants"][0]["differences"] == {}

    def test_folders_beside_the_root_are_named_relative_to_it(self, tmp_path: Path) -> None:
        one = Cell("a", job(), make_run(tmp_path / "run"))
        (tmp_path / "root").mkdir()
        assert report([one], tmp_path / "root")["cells"][0]["folder"] == "../run"

    def test_prompts_that_pull_differently_are_named(self, tmp_path: Path) -> None:
        heavy = replace(job("red"), include=(Prompt("red", 2.0),))
        cells = [Cell(n, t, make_run(tmp_path / n, t), prompt="red") for n, t in (("a", job("red")), ("b", heavy))]
        told = [each["differences"] for each in report(cells, tmp_path)["variants"]]
        assert told == [{"include": ["red"]}, {"include": ["red:2"]}]


def test_relative_folders_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(cell(tmp_path), judged=verdict())
    monkeypatch.chdir(tmp_path)
    found = report([cell(Path())], Path())
    assert found["cells"][0]["status"] == "done"
    assert os.path.normpath(found["cells"][0]["folder"]).startswith("cells")
