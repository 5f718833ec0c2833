"""Comparisons as a user runs them: whole, stopped and continued, with failures, and of finished runs."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from vqclip import config as configs
from vqclip import contest
from vqclip.config import Loaded
from vqclip.job import InputError
from vqclip.progress import Quiet


@pytest.fixture
def loaded(weight_files: dict[str, Path], tmp_path: Path) -> Any:
    def load(**changes: Any) -> Loaded:
        values = {
            "prompts": ["red apple", {"include": "blue heart", "exclude": "red"}], "seeds": 2, "name": "trial",
            "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
            "judge": str(weight_files["judge"]), "size": [32, 32], "steps": 2, "precision": "fp32", "threads": 1,
            "crops": {"count": 2, "chunk": 2}, "outputs": str(tmp_path / "out"),
            "video": {"formats": [], "keep": False}, "score_every": 0,
            "variants": [
                {"backend": "vqgan", "name": "plain"}, {"backend": "vqgan", "name": "fast", "set": ["optimizer.lr=0.5"]}
            ],
        } | changes  # fmt: skip
        return Loaded(configs.from_mapping(values, source="test"), "", {})

    return load


def quiet() -> tuple[Quiet, StringIO]:
    said = StringIO()
    return Quiet(StringIO(), said), said


def test_every_variant_draws_every_prompt_with_every_seed(loaded: Any) -> None:
    root = contest.compare(loaded(), quiet()[0])
    report = json.loads((root / "report.json").read_text())
    assert [variant["name"] for variant in report["variants"]] == ["plain", "fast"]
    assert [variant["differences"] for variant in report["variants"]] == [{"optimizer.lr": None}, {"optimizer.lr": 0.5}]
    cells = [(cell["variant"], cell["prompt"], cell["seed"]) for cell in report["cells"]]
    assert sorted(cells) == [(v, p, s) for v in (0, 1) for p in (0, 1) for s in (0, 1)]
    assert {cell["status"] for cell in report["cells"]} == {"done"}
    assert all((root / cell["folder"] / "report.html").is_file() for cell in report["cells"])
    assert all(cell["peak_memory_bytes"] > 1e7 and cell["steps"] == 2 for cell in report["cells"])
    metrics = {row["metric"] for row in report["summary"]}
    assert {"top1", "top5", "margin", "diversity", "seconds", "steps_per_second", "peak_memory_bytes"} <= metrics
    assert "red apple" in (root / "report.html").read_text()
    assert (root / "contact-sheet.png").is_file()


def test_variants_say_once_what_they_do_not_read(loaded: Any) -> None:
    progress, said = quiet()
    changes = {"guides": ["starter/guide-rn"], "prompts": ["a puppy, Tokyo"], "seeds": 1, "tries": 1}
    contest.compare(loaded(**changes), progress)
    assert said.getvalue().count("puppy is read as dog; Tokyo is not read") == 1


def test_a_stopped_comparison_makes_only_what_is_missing(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contest.compare(loaded(), quiet()[0])
    cells = sorted(first.glob("cells/*/*"))
    assert len(cells) == 8
    before = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells}
    (cells[0] / "run.json").unlink()  # killed while it was being made
    (cells[5] / "final.png").write_bytes(b"damaged")
    drawn: list[Path] = []
    original = contest.make_picture

    def counting(single: Any, *rest: Any, **more: Any) -> Any:
        drawn.append(Path(single.outputs) / single.name)
        return original(single, *rest, **more)

    monkeypatch.setattr(contest, "make_picture", counting)
    show, said = quiet()
    assert contest.compare(loaded(), show) == first
    assert sorted(drawn) == [cells[0], cells[5]]
    assert "3 of 4 are there already" in said.getvalue()
    same = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells}
    assert {cell for cell in cells if same[cell] != before[cell]} == {cells[0], cells[5]}
    assert len(list(first.glob("cells/*/*.broken-1"))) == 2  # set aside, not deleted


def test_the_sheet_is_the_same_when_made_again(loaded: Any) -> None:
    root = contest.compare(loaded(prompts=["red apple"]), quiet()[0])
    sheet = (root / "contact-sheet.png").read_bytes()
    (root / "contact-sheet.png").unlink()
    contest.compare(loaded(prompts=["red apple"]), quiet()[0])
    assert (root / "contact-sheet.png").read_bytes() == sheet


def test_a_variant_that_fails_is_a_failed_column(loaded: Any) -> None:
    variants = [
        {"backend": "vqgan", "name": "plain"},
        {"backend": "vqgan", "name": "no weights", "set": ["generator=/nowhere.ckpt"]},
        {"backend": "vqgan", "name": "no size", "set": ["size=33,33"]},
    ]
    show, said = quiet()
    root = contest.compare(loaded(variants=variants, prompts=["red apple"], seeds=1), show)
    report = json.loads((root / "report.json").read_text())
    by_variant = {cell["variant"]: cell for cell in report["cells"]}
    assert by_variant[0]["status"] == "done"
    assert "/nowhere.ckpt" in by_variant[1]["error"]
    assert by_variant[2]["status"] != "done"
    assert "/nowhere.ckpt" in said.getvalue()
    assert "/nowhere.ckpt" in (root / "report.html").read_text()


def test_finished_runs_are_compared_too(loaded: Any) -> None:
    root = contest.compare(loaded(prompts=["red apple"], seeds=1), quiet()[0])
    runs = sorted(root.glob("cells/*/*"))
    overrides = [f"outputs={root.parent}", "name=again", f"judge={loaded().config.judge}", "threads=1"]
    again = contest.compare_runs(runs, overrides, quiet()[0])
    report = json.loads((again / "report.json").read_text())
    assert len(report["variants"]) == 2
    assert {cell["status"] for cell in report["cells"]} == {"done"}
    assert all(path.is_dir() for path in runs)  # copied, not moved
    with pytest.raises(InputError, match="two run folders"):
        contest.compare_runs(runs[:1], overrides, quiet()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": []}, "variants: none"),
        ({"variants": ["vqgan", "vqgan"]}, "a second 'vqgan'"),
        ({"variants": [{"backend": "vqgan", "set": ["seed=3"]}]}, "seed belongs to the comparison as a whole"),
        ({"variants": [{"backend": "vqgan", "set": ["stepz=3"]}]}, "did you mean 'steps'"),
    ],
)
def test_mistakes_are_named_before_any_work(loaded: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        contest.compare(loaded(**changes), quiet()[0])
    assert not (tmp_path / "out").exists()


def test_another_comparison_keeps_its_folder(loaded: Any) -> None:
    contest.compare(loaded(prompts=["red apple"], seeds=1), quiet()[0])
    with pytest.raises(InputError, match="is not this comparison"):
        contest.compare(loaded(prompts=["green apple"], seeds=1), quiet()[0])
