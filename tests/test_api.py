"""The Python API: generate and steps, on tiny models."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

import vqclip


@pytest.fixture
def settings(weight_files: dict[str, Path]) -> dict[str, object]:
    return {
        "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
        "judge": str(weight_files["judge"]), "size": [32, 32], "steps": 3, "precision": "fp32", "threads": 1,
    }  # fmt: skip


def test_generate_returns_picture_terms_and_verdict(settings: dict[str, object]) -> None:
    result = vqclip.generate(include="apple", exclude=["pear"], losses={"smooth": 0}, **settings)
    assert result.show().size == (32, 32)
    assert set(result.terms) == {"include: apple", "exclude: pear"}
    assert result.verdict is not None
    assert result.verdict.exclude is not None
    assert Image.open(io.BytesIO(result._repr_png_())).size == (32, 32)


def test_steps_yields_every_step_and_ends_where_generate_does(settings: dict[str, object]) -> None:
    seen = list(vqclip.steps(include="apple", seed=4, **settings))
    assert [step.index for step in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1].image, vqclip.generate(include="apple", seed=4, **settings).image)


def test_generate_writes_nothing(settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = vqclip.generate(include="apple", **settings)
    assert list(tmp_path.iterdir()) == []
    result.save(tmp_path / "apple.png")
    assert Image.open(tmp_path / "apple.png").size == (32, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"include": "apple", "stepz": 3}, "did you mean 'steps'"),
        ({"include": ""}, "empty"),
        ({}, "include"),
        ({"include": "apple", "steps": -1}, "steps"),
        ({"include": "apple", "steps": 2.5}, "steps"),
        ({"prompts": ["apple", "pear"]}, "several pictures"),
    ],
)
def test_mistakes_are_input_errors(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(vqclip.InputError, match=message):
        vqclip.generate(**wrong)


def test_public_names_are_there() -> None:
    for name in vqclip.__all__:
        assert getattr(vqclip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vqclip.nothing
