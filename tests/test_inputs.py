"""What a run reads is looked at before anything is loaded: the key, what is wrong, where it was looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vqclip.config import Loaded, load
from vqclip.job import InputError, WeightsError
from vqclip.run import inputs
from vqclip.run.assemble import load_models


def look(loaded: Loaded) -> None:
    with inputs.with_origins(loaded.origins):
        inputs.check_outputs(loaded.config)
        inputs.check(loaded.config, lambda _: None)


def refusal(kind: type[Exception], path: Path | None, *overrides: str) -> str:
    loaded = load(path, overrides)
    with pytest.raises(kind) as refused:
        look(loaded)
    assert str(refused.value).isprintable()
    return str(refused.value)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    Image.new("RGB", (80, 60)).save(tmp_path / "wide.png")
    path = tmp_path / "c.yaml"
    path.write_text("include: a\nstart:\n  kind: image\n  image: wide.png\nimages:\n- wide.png\n- image: none.png\n")
    return path


def test_a_missing_picture_is_said_with_its_line_and_folder(config: Path, tmp_path: Path) -> None:
    assert refusal(InputError, config) == f"{config}:7: images[1]: none.png: no such file (looked in {tmp_path})"
    line = refusal(InputError, config, f"start.image={tmp_path}/sub/x.png")
    assert line == f"override: start.image: x.png: no such file (there is no folder {tmp_path}/sub)"
    assert "is a folder; a file is needed" in refusal(InputError, config, f"start.image={tmp_path}")


def test_what_lies_in_the_current_folder_instead_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "x.ckpt").write_bytes(b"")
    path = tmp_path / "configs" / "c.yaml"
    path.write_text("include: a\ngenerator: weights/x.ckpt\n")
    monkeypatch.chdir(tmp_path)
    line = refusal(WeightsError, path)
    assert line.startswith(f"{path}:2: generator: x.ckpt: no such file (there is no folder {tmp_path}/configs/weights)")
    assert line.endswith("the current folder has weights/x.ckpt, but a path in a file is relative to it")


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("generator=no/x.ckpt", WeightsError, "override: generator: x.ckpt: no such file"),
        ("guides=[starter, RN51]", InputError, "override: guides[1]: "),
        ("judge=starter/none", InputError, "override: judge: there is no starter model 'none'; shipped: "),
        ("judge=imagenet_f16_1024", InputError, "override: judge: imagenet_f16_1024 is of the kind vqgan"),
        ("denoiser.model=./d.safetensors", WeightsError, "override: denoiser.model: d.safetensors: no such file"),
        ("judge=open_clip:ViT-B-32:./c.pt", WeightsError, "override: judge: c.pt: no such file"),
        ("size=60,64", InputError, "override: size: 60x64 is not a multiple of 8, this generator's stride; nearest"),
        ("outputs=c.yaml", InputError, "override: outputs: c.yaml is not a folder"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_loaded(
    override: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("include: a\n")
    monkeypatch.setattr("vqclip.run.assemble.load", None)  # a call would be a TypeError
    assert refusal(kind, None, "include=a", override).startswith(message)
    with pytest.raises(kind):
        load_models(load(None, ["include=a", "size=60,64", override]).config)


def test_the_stride_is_known_from_files_and_names(weight_files: dict[str, Path]) -> None:
    assert inputs._stride("starter") == 8
    assert inputs._stride(str(weight_files["generator"])) == 4
    assert inputs._stride("imagenet_f16_1024") == 16
    assert inputs._stride(str(weight_files["guide"])) is None  # no VQGAN; the loader says so


def test_taken_names_are_refused_for_every_picture(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y-2").mkdir()
    one, two = (["include=a", f"outputs={tmp_path}"], ["prompts=[a, b]", f"outputs={tmp_path}"])
    assert refusal(InputError, None, *one, "name=x").startswith(f"override: name: {tmp_path}/x exists; choose another")
    assert refusal(InputError, None, *two, "name=y").startswith(f"override: name: {tmp_path}/y-2 exists")
    inputs.check_outputs(load(None, [*one, "name=y"]).config)
    inputs.check_outputs(load(None, [*two, "name=x"]).config)


def test_cropping_is_said_and_a_fitting_picture_is_not(config: Path, tmp_path: Path) -> None:
    said: list[str] = []
    inputs.check(load(config, ["images=[]", "size=96,64"]).config, said.append)
    assert said == ["start.image: wide.png is 80x60, cropped to 3:2: its middle 80x53 is used"]
    said.clear()
    inputs.check(load(config, ["images=[]", "size=64,48"]).config, said.append)
    assert said == []
    inputs.check(load(config, [f"images={tmp_path}/wide.png", "size=64,48"]).config, said.append)
    assert said == ["images[0]: wide.png is 80x60, cropped to 1:1: its middle 60x60 is used"]


def test_errors_of_other_keys_and_defaults_stay_as_they_are() -> None:
    for message in ("size: wrong", "no key at all", "guide: x: y"):
        with pytest.raises(InputError) as caught, inputs.with_origins({"size": "default", "steps": "f:3"}):
            raise InputError(message)
        assert str(caught.value) == message
