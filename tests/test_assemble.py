"""From config to loaded models: what is recorded, what is said once."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from vqclip.config import from_mapping
from vqclip.job import Job, Prompt
from vqclip.run import assemble


def settings(files: dict[str, Path], **changes: object) -> dict[str, object]:
    return {
        "include": "apple", "generator": str(files["generator"]), "guides": [str(files["guide"])],
        "judge": str(files["judge"]), "size": [32, 32], "precision": "fp32", "threads": 1,
    } | changes  # fmt: skip


def test_facts_name_hashes_versions_and_threads(weight_files: dict[str, Path]) -> None:
    models = assemble.load_models(from_mapping(settings(weight_files), source="test"))
    assert set(models.facts["weights"]) == {"generator", "guide 0", "judge"}
    assert all(len(digest) == 64 for digest in models.facts["weights"].values())
    assert models.facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert models.facts["threads"] == torch.get_num_threads() == 1
    assert models.facts["precision"] == "float32"


def test_an_ensemble_keeps_its_weights(weight_files: dict[str, Path]) -> None:
    pair = [str(weight_files["guide"]), {"model": str(weight_files["judge"]), "weight": 0.5}]
    models = assemble.load_models(from_mapping(settings(weight_files, guides=pair), source="test"))
    assert models.backend.weights == [1.0, 0.5]
    assert models.self_scored  # the second guide is the judge's file
    assert set(models.facts["weights"]) == {"generator", "guide 0", "guide 1", "judge"}


def test_a_guide_that_was_saved_again_is_the_judge(weight_files: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.pt"
    torch.save({name: value.half() for name, value in load_file(weight_files["judge"]).items()}, again)
    models = assemble.load_models(from_mapping(settings(weight_files, guides=[str(again)]), source="test"))
    assert models.self_scored
    assert models.facts["weights"]["judge"] != models.facts["weights"]["guide 0"]
    assert set(models.facts["eyes"]) == {"guide 0", "judge"}
    fair = assemble.load_models(from_mapping(settings(weight_files), source="test"))
    assert not fair.self_scored


def test_guide_and_judge_say_the_same_thing_once() -> None:
    said: list[str] = []
    models = assemble.load_models(from_mapping({"include": "a puppy zyx", "threads": 1}, source="test"), said.append)
    job = Job((Prompt("a puppy zyx"), Prompt("apple")))
    models.backend.check(job)
    models.judge_of(job)
    assert said == []  # rivals and names are nobody's prompts
    assert models.notices(job) == [
        "prompt 'a puppy zyx': puppy is read as dog; zyx is not read; there is no verdict"
    ]


def test_what_is_read_aside_is_not_told() -> None:
    said: list[str] = []
    note = assemble.Once(said.append)
    with note.muted():
        note("a rival is cut off")
    note("the prompt is cut off")
    note("the prompt is cut off")
    assert said == ["the prompt is cut off"]


def test_rivals_are_no_news() -> None:
    """A prompt that just fits has rivals that do not: no notice and no error is about texts that nobody wrote."""
    for too_long in ("error", "truncate"):
        said: list[str] = []
        wanted = {"include": "x", "threads": 1, "too_long": too_long}
        models = assemble.load_models(from_mapping(wanted, source="test"), said.append)
        assert models.judge is not None
        text = " ".join(["red"] * 16 + ["a", "car"])
        judge = models.judge_of(Job((Prompt(text),)))
        assert judge is not None
        assert not judge.refusal
        assert said == []


def test_warnings_are_the_default_notice() -> None:
    long = {"include": "x", "threads": 1, "too_long": "truncate", "judge": None}
    models = assemble.load_models(from_mapping(long, source="test"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        models.backend.check(Job((Prompt("red " * 40),)))
    assert any("cut off" in str(warning.message) for warning in caught)
