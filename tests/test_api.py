"""The Python API: generate and steps, on tiny models."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import vqclip
from vqclip import viewer
from vqclip.cli.progress import Quiet
from vqclip.job import Result
from vqclip.run import picture as runs


@pytest.fixture
def settings(weight_files: dict[str, Path]) -> dict[str, object]:
    return {
        "generator": str(weight_files["generator"]), "guides": [str(weight_files["guide"])],
        "judge": str(weight_files["judge"]), "size": [32, 32], "steps": 3, "precision": "fp32", "threads": 1,
    }  # fmt: skip


@pytest.fixture
def _notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "in_notebook", lambda: True)
    monkeypatch.setattr(viewer, "show", lambda _path: pytest.fail("a notebook needs no viewer"))


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


@pytest.mark.usefixtures("_notebook")
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
    assert result.folder is None
    result.save(tmp_path / "apple.png")
    assert Image.open(tmp_path / "apple.png").size == (32, 32)


def again(picture: Path, outputs: Path, settings: dict[str, object]) -> Result:
    out = io.StringIO()
    models = [f"{key}={json.dumps(settings[key])}" for key in ("guides",)]
    models += [f"{key}={settings[key]}" for key in ("generator", "judge")]
    (result,) = runs.rerun(picture, [*models, f"outputs={outputs}"], Quiet(out, out))
    assert "not the file" not in out.getvalue()
    return result


def test_a_saved_picture_reruns_to_the_same_pixels(settings: dict[str, object], tmp_path: Path) -> None:
    result = vqclip.generate(include="apple", exclude="pear", seed=6, **settings, **{"crops.count": 3})
    saved = result.save(tmp_path / "saved.png")
    repeated = again(saved, tmp_path / "again", settings)
    assert repeated.folder is not None
    assert pixels(repeated.folder / "final.png") == pixels(saved)
    assert repeated.job == result.job
    assert repeated.verdict == result.verdict


def test_a_name_makes_the_run_folder_of_the_command_line(settings: dict[str, object], tmp_path: Path) -> None:
    plain = vqclip.generate(include="apple", **settings)
    result = vqclip.generate(include="apple", name="apple", outputs=str(tmp_path), video={"seconds": 1}, **settings)
    assert result.folder == tmp_path / "apple"
    made = {path.name for path in result.folder.iterdir()}
    assert {"final.png", "progress.mp4", "run.json", "metrics.jsonl", "config.resolved.yaml", "report.html"} <= made
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["config"]["video"]["seconds"] == 1
    assert torch.equal(result.image, plain.image)
    assert result.verdict == plain.verdict
    assert result.save(tmp_path / "copy.png").read_bytes() == (result.folder / "final.png").read_bytes()


def test_a_taken_name_is_refused_and_kept(settings: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "apple").mkdir()
    with pytest.raises(vqclip.InputError, match="exists"):
        vqclip.generate(include="apple", name="apple", outputs=str(tmp_path), **settings)
    assert list((tmp_path / "apple").iterdir()) == []


def test_video_alone_makes_a_folder_under_outputs(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = vqclip.generate(include="apple", **settings, **{"video.formats": ["gif"]})
    assert result.folder is not None
    assert result.folder.parent == Path("outputs")
    assert (result.folder / "progress.gif").is_file()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".TIFF"])
def test_other_formats_hold_the_picture(settings: dict[str, object], tmp_path: Path, suffix: str) -> None:
    result = vqclip.generate(include="apple", steps=0, **{k: v for k, v in settings.items() if k != "steps"})
    with Image.open(result.save(tmp_path / f"apple{suffix}")) as saved:
        assert saved.size == (32, 32)
        assert "vqclip" not in saved.info


def test_files_that_cannot_be_written_are_one_line(settings: dict[str, object], tmp_path: Path) -> None:
    result = vqclip.generate(include="apple", steps=0, **{k: v for k, v in settings.items() if k != "steps"})
    for name in ("apple", "apple.", "apple.doc", "apple.h5"):
        with pytest.raises(vqclip.InputError, match=r"\.png, \.jpg or \.webp is needed$"):
            result.save(tmp_path / name)
    with pytest.raises(vqclip.ResourceError, match="No such file"):
        result.save(tmp_path / "nowhere" / "apple.png")
    assert list(tmp_path.iterdir()) == []


def test_show_opens_a_file_with_the_recipe_or_says_where_it_is(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = vqclip.generate(include="a red apple", **settings)
    opened: list[Path] = []
    for answer in (True, False):
        monkeypatch.setattr(viewer, "show", lambda path, answer=answer: opened.append(path) or answer)
        assert result.show().size == (32, 32)
    assert opened[0] != opened[1]
    assert {path.parent for path in opened} == {tmp_path}
    assert opened[0].name.startswith("vqclip-a-red-apple-")
    assert capsys.readouterr() == ("", f"vqclip: no display here; the picture is {opened[1]}\n")
    repeated = again(opened[0], tmp_path / "again", settings)
    assert repeated.folder is not None
    assert pixels(repeated.folder / "final.png") == pixels(opened[0])


def test_show_opens_the_picture_of_the_run_folder(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr(viewer, "show", lambda path: opened.append(path) or True)
    result = vqclip.generate(include="apple", name="apple", outputs=str(tmp_path), **settings)
    result.show()
    assert opened == [tmp_path / "apple" / "final.png"]


def test_steps_refuses_what_only_generate_makes(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(vqclip.InputError, match=r"settings: name: steps\(\) writes no files"):
        vqclip.steps(include="apple", name="apple", outputs=str(tmp_path), **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"include": "apple", "stepz": 3}, "did you mean 'steps'"),
        ({"include": "apple", "crops.cuont": 3}, r"unknown key 'crops\.cuont'; did you mean 'crops\.count'"),
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


def test_dir_shows_the_public_names_and_loads_nothing() -> None:
    script = """
import sys, vqclip
shown = dir(vqclip)
assert set(vqclip.__all__) <= set(shown), shown
assert {name for name in shown if not name.startswith("__")} == set(vqclip.__all__), shown
assert not {"torch", "PIL", "omegaconf"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_type_of_a_picture_is_public(settings: dict[str, object]) -> None:
    assert isinstance(vqclip.generate(include="apple", **settings), vqclip.Picture)
