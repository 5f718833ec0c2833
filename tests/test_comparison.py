"""Comparisons as a user runs them: whole, stopped and continued, with failures, and of finished runs."""

from __future__ import annotations

import json
import re
import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import job as finished_job
from finished_runs import make_run

from vqclip import config as configs
from vqclip.cli.main import BAD_INPUT, BAD_WEIGHTS, DONE, main
from vqclip.cli.progress import Quiet
from vqclip.config import Loaded
from vqclip.job import InputError, WeightsError
from vqclip.record import presence
from vqclip.run import comparison as comparison
from vqclip.run import memory


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
    root = comparison.compare(loaded(), quiet()[0]).root
    report = json.loads((root / "report.json").read_text())
    assert [variant["name"] for variant in report["variants"]] == ["plain", "fast"]
    assert [variant["differences"] for variant in report["variants"]] == [{"optimizer.lr": None}, {"optimizer.lr": 0.5}]
    cells = [(cell["variant"], cell["prompt"], cell["seed"]) for cell in report["cells"]]
    assert sorted(cells) == [(v, p, s) for v in (0, 1) for p in (0, 1) for s in (0, 1)]
    assert {cell["status"] for cell in report["cells"]} == {"done"}
    assert all((root / cell["folder"] / "report.html").is_file() for cell in report["cells"])
    assert {(cell["peak_memory_bytes"], cell["steps"]) for cell in report["cells"]} == {(None, 2)}  # one process
    metrics = {row["metric"] for row in report["summary"]}
    assert {"top1", "top5", "margin", "diversity", "seconds"} <= metrics
    assert "red apple" in (root / "report.html").read_text()
    assert (root / "contact-sheet.png").is_file()


def test_variants_say_once_what_they_do_not_read(loaded: Any) -> None:
    progress, said = quiet()
    changes = {"guides": ["starter/guide-rn"], "prompts": ["a puppy, Tokyo"], "seeds": 1, "tries": 1}
    comparison.compare(loaded(**changes), progress)
    assert said.getvalue().count("puppy is read as dog; Tokyo is not read") == 1


def test_a_stopped_comparison_makes_only_what_is_missing(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = comparison.compare(loaded(), quiet()[0]).root
    cells = sorted(first.glob("cells/*/*"))
    assert len(cells) == 8
    before = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells}
    (cells[0] / "run.json").unlink()  # killed while it was being made
    (cells[5] / "final.png").write_bytes(b"damaged")
    drawn: list[Path] = []
    original = comparison.make_picture

    def counting(single: Any, *rest: Any, **more: Any) -> Any:
        drawn.append(Path(single.outputs) / single.name)
        return original(single, *rest, **more)

    monkeypatch.setattr(comparison, "make_picture", counting)
    show, said = quiet()
    assert comparison.compare(loaded(), show).root == first
    assert sorted(drawn) == [cells[0], cells[5]]
    assert "3 of 4 are there already" in said.getvalue()
    same = {cell: (cell / "run.json").stat().st_mtime_ns for cell in cells}
    assert {cell for cell in cells if same[cell] != before[cell]} == {cells[0], cells[5]}
    assert len(list(first.glob("cells/*/*.broken-1"))) == 2  # set aside, not deleted


def test_the_sheet_is_the_same_when_made_again(loaded: Any) -> None:
    root = comparison.compare(loaded(prompts=["red apple"]), quiet()[0]).root
    sheet = (root / "contact-sheet.png").read_bytes()
    (root / "contact-sheet.png").unlink()
    comparison.compare(loaded(prompts=["red apple"]), quiet()[0])
    assert (root / "contact-sheet.png").read_bytes() == sheet


def test_a_variant_that_fails_is_a_failed_column(loaded: Any) -> None:
    variants = [
        {"backend": "vqgan", "name": "plain"},
        {"backend": "vqgan", "name": "no weights", "set": ["generator=/nowhere.ckpt"]},
        {"backend": "vqgan", "name": "no size", "set": ["size=33,33"]},
    ]
    show, said = quiet()
    found = comparison.compare(loaded(variants=variants, prompts=["red apple"], seeds=1), show)
    root = found.root
    assert (found.done, found.count) == (1, 3)
    assert isinstance(found.fault, WeightsError)
    report = json.loads((root / "report.json").read_text())
    by_variant = {cell["variant"]: cell for cell in report["cells"]}
    assert by_variant[0]["status"] == "done"
    assert "nowhere.ckpt" in by_variant[1]["error"]
    assert by_variant[2]["status"] != "done"
    assert "nowhere.ckpt" in said.getvalue()
    assert "nowhere.ckpt" in (root / "report.html").read_text()


def test_finished_runs_are_compared_too(loaded: Any) -> None:
    root = comparison.compare(loaded(prompts=["red apple"], seeds=1), quiet()[0]).root
    runs = sorted(root.glob("cells/*/*"))
    overrides = [f"outputs={root.parent}", "name=again", f"judge={loaded().config.judge}", "threads=1"]
    again = comparison.compare_runs(runs, overrides, quiet()[0]).root
    report = json.loads((again / "report.json").read_text())
    assert len(report["variants"]) == 2
    assert {cell["status"] for cell in report["cells"]} == {"done"}
    assert all(path.is_dir() for path in runs)  # copied, not moved
    with pytest.raises(InputError, match="two run folders"):
        comparison.compare_runs(runs[:1], overrides, quiet()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": []}, re.escape("for example variants=")),
        ({"variants": ["vqgan", "vqgan"]}, "a second 'vqgan'"),
        ({"variants": [{"backend": "vqgan", "set": ["seed=3"]}]}, "seed belongs to the comparison as a whole"),
        ({"variants": [{"backend": "vqgan", "set": ["stepz=3"]}]}, "did you mean 'steps'"),
    ],
)
def test_mistakes_are_named_before_any_work(loaded: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        comparison.compare(loaded(**changes), quiet()[0])
    assert not (tmp_path / "out").exists()


def test_another_comparison_keeps_its_folder(loaded: Any) -> None:
    comparison.compare(loaded(prompts=["red apple"], seeds=1), quiet()[0])
    with pytest.raises(InputError, match="is not this comparison"):
        comparison.compare(loaded(prompts=["green apple"], seeds=1), quiet()[0])


@pytest.mark.parametrize("moment", ["an empty folder", "config.yaml alone", "half a file", "a dead lock"])
def test_a_comparison_killed_in_its_first_moments_can_be_begun_again(loaded: Any, tmp_path: Path, moment: str) -> None:
    root = tmp_path / "out" / "trial"
    root.mkdir(parents=True)
    if moment != "an empty folder":
        (root / "config.yaml").write_text("prompts: [x")
    if moment == "half a file":
        (root / ".config.resolved.yaml.0123.part").write_text("")
    if moment == "a dead lock":
        (root / ".lock").write_text("1 elsewhere\n")
    found = comparison.compare(loaded(prompts=["red apple"], seeds=1), quiet()[0])
    assert (found.root, found.done) == (root, 2)
    assert not (root / ".lock").exists()


@pytest.mark.parametrize("begun", [False, True])
def test_two_at_once_are_told_that_they_are_two(loaded: Any, tmp_path: Path, *, begun: bool) -> None:
    root = tmp_path / "out" / "trial"
    root.mkdir(parents=True)
    asked = loaded(prompts=["red apple"], seeds=1)
    if begun:
        (root / "config.resolved.yaml").write_text(configs.to_yaml(asked.config))
    refused = pytest.raises(InputError, match="another process .*works on this comparison")
    with presence.held(root, "this comparison"), refused:
        comparison.compare(asked, quiet()[0])


def test_a_folder_of_somebody_else_s_is_not_touched(loaded: Any, tmp_path: Path) -> None:
    root = tmp_path / "out" / "trial"
    root.mkdir(parents=True)
    (root / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not this comparison"):
        comparison.compare(loaded(), quiet()[0])
    (root / "thesis.txt").rename(root / "config.resolved.yaml")
    with pytest.raises(InputError, match="is not this comparison"):
        comparison.compare(loaded(), quiet()[0])
    (root / "config.resolved.yaml").write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(InputError, match="is not this comparison"):
        comparison.compare(loaded(), quiet()[0])
    assert [path.name for path in root.iterdir()] == ["config.resolved.yaml"]


def test_one_bad_folder_among_runs_is_said_and_left_out(loaded: Any, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), finished_job(seed=seed)) for seed in range(3)]
    (runs[1] / "metrics.jsonl").write_text("no line of ours\n")
    overrides = [f"outputs={tmp_path / 'out'}", "name=some", f"judge={loaded().config.judge}", "threads=1"]
    show, said = quiet()
    found = comparison.compare_runs([*runs, tmp_path], overrides, show)
    assert (found.done, found.count) == (2, 2)
    assert said.getvalue().count("left out: ") == 2
    assert str(runs[1]) in said.getvalue()
    with pytest.raises(InputError, match="not the JSON that vqclip writes"):
        comparison.compare_runs(runs[:2], overrides, show)


def test_the_hint_for_variants_is_what_the_parser_takes() -> None:
    (word,) = shlex.split(comparison.HINT)
    config = configs.load(None, ["include=apple", word]).config
    assert [variant.backend for variant in config.variants] == ["vqgan", "kandinsky"]


def test_pictures_are_counted_through_all_variants(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []
    monkeypatch.setattr(comparison, "make_picture", lambda *_, number, shared, **__: places.append((number, shared)))
    found = comparison.compare(loaded(seeds=1), quiet()[0])
    assert places == [((1, 4), True), ((2, 4), True), ((3, 4), True), ((4, 4), True)]
    assert (found.done, found.count, found.fault) == (0, 4, None)


def test_memory_is_of_one_variant_alone_or_not_told(loaded: Any) -> None:
    root = comparison.compare(loaded(variants=["vqgan"], prompts=["red apple"], seeds=1), quiet()[0]).root
    (cell,) = json.loads((root / "report.json").read_text())["cells"]
    assert (cell["peak_memory_bytes"] is not None) == memory.forget_peak(torch.device("cpu"))


def command(loaded: Any, tmp_path: Path, *more: str) -> list[str]:
    """A comparison on the command line, of one prompt."""
    path = tmp_path / "c.yaml"
    path.write_text(configs.to_yaml(loaded(prompts=["red apple"], seeds=1).config))
    return ["compare", str(path), *more, "--progress", "none"]


def test_when_nothing_could_be_made_the_first_fault_ends_it(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(loaded, tmp_path, "generator=/nowhere.ckpt")) == BAD_WEIGHTS
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("vqclip: error: generator: nowhere.ckpt: no such file (looked in /)")
    assert (tmp_path / "out" / "trial" / "report.html").is_file()
    assert str(tmp_path / "out" / "trial" / "report.html") in said.out


def test_when_some_failed_a_line_says_how_many(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = 'variants=["vqgan", {"backend": "vqgan", "name": "bad", "set": ["generator=/nowhere.ckpt"]}]'
    assert main(command(loaded, tmp_path, variants)) == DONE
    assert capsys.readouterr().err.splitlines()[-1] == "vqclip: 1 of 2 pictures failed; report.html says why"


def test_a_run_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "c.yaml").write_text("include: a")
    for words, message in (
        ([str(tmp_path / "run"), "missing"], "missing: no such folder"),
        (["missing", "gone"], "missing: no such folder"),
        ([str(tmp_path / "run"), str(tmp_path / "c.yaml")], f"{tmp_path / 'c.yaml'}: a file"),
    ):
        assert main(["compare", *words]) == BAD_INPUT
        said = capsys.readouterr().err
        assert said.startswith(f"vqclip: error: {message}")
        assert said.count("\n") == 1
