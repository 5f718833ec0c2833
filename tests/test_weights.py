"""Weight files: by content, strictly, nothing executed, one line for every fault."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vqclip.job import InputError, WeightsError
from vqclip.weights import catalogue, checkpoints, store
from vqclip.weights import load as weights

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int32)}


def same(loaded: weights.Weights) -> bool:
    return set(loaded.state) == set(STATE) and all(torch.equal(loaded.state[k], STATE[k]) for k in STATE)


def test_every_plain_format_loads_whatever_its_name(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("one.ckpt", "two.safetensors", "three", "four.png")}
    save_file(STATE, files["one.ckpt"], metadata={"kind": "test"})
    torch.save(STATE, files["two.safetensors"])
    torch.save({"state_dict": STATE, "epoch": 3}, files["three"])
    torch.save(STATE, files["four.png"], _use_new_zipfile_serialization=False)
    for path in files.values():
        loaded = weights.load(path)
        assert same(loaded)
        assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.load(files["one.ckpt"]).metadata == {"kind": "test"}


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_calls_are_refused_and_not_made(tmp_path: Path, *, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Canary(str(canary))}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="evil.pt"):
        weights.load(path)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in (0, 1, 8, 9, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError) as caught:
            weights.load(path)
        assert "\n" not in str(caught.value)
        assert "weights" in str(caught.value)


def test_other_contents_are_refused(tmp_path: Path) -> None:
    for number, content in enumerate(([1, 2], torch.zeros(3), {"epoch": 3})):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError, match="not a mapping of tensors|holds no tensors"):
            weights.load(path)
    (tmp_path / "text.pt").write_text("<html>404</html>")
    with pytest.raises(WeightsError):
        weights.load(tmp_path / "text.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.load(tmp_path)


def test_names_become_paths(tmp_path: Path) -> None:
    assert weights.find("starter", role="guide") == weights.STARTER / "guide-rn.safetensors"
    assert weights.find("starter/judge", role="guide") == weights.STARTER / "judge.safetensors"
    with pytest.raises(InputError, match="no starter model 'nothing'; shipped: .*vqgan"):
        weights.find("starter/nothing", role="judge")
    with pytest.raises(InputError, match="no starter model"):
        weights.find("starter/../../etc/passwd", role="judge")
    with pytest.raises(WeightsError, match="guide: no weights at .*missing.pt"):
        weights.find(str(tmp_path / "missing.pt"), role="guide")


def test_names_of_the_catalogue_become_files_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path))
    asked: list[tuple[str, object]] = []

    def locate(entry: catalogue.Entry, *, offline: bool, on_progress: object) -> Path:
        asked.append((entry.name, offline))
        return tmp_path / entry.file

    monkeypatch.setattr(store, "locate", locate)
    assert weights.find("ViT-B/32", role="guide") == tmp_path / catalogue.entry("ViT-B/32").file
    assert weights.find("vit-b-32", role="judge", offline=True) == tmp_path / catalogue.entry("ViT-B/32").file
    assert asked == [("ViT-B/32", False), ("ViT-B/32", True)]


def test_names_that_fit_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path))
    with pytest.raises(InputError, match="generator: ViT-B/32 is of the kind clip; vqgan is needed"):
        weights.find("ViT-B/32", role="generator")
    with pytest.raises(InputError, match="guide: there is no model 'ViT-B/23'; did you mean .*ViT-B/32"):
        weights.find("ViT-B/23", role="guide")
    for name in ("models/vqgan.ckpt", "./vqgan", str(tmp_path)):
        with pytest.raises(WeightsError, match="no weights at"):
            weights.find(name, role="generator")


def test_a_file_goes_before_a_name_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RN50").touch()
    assert weights.find("RN50", role="guide") == Path("RN50")


def test_a_name_that_is_not_here_stays_a_weights_error_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VQCLIP_HOME", "CLIP_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(WeightsError, match="vqclip models get RN50"):
        weights.find("RN50", role="guide", offline=True)
    monkeypatch.setenv("VQCLIP_OFFLINE", "1")
    with pytest.raises(WeightsError, match="vqclip models get RN50"):
        weights.find("RN50", role="guide")


def test_shipped_files_are_the_ones_in_the_manifest() -> None:
    manifest = json.loads((weights.STARTER / "manifest.json").read_text())
    shipped = {path.name for path in weights.STARTER.glob("*.safetensors")}
    assert shipped == set(manifest)
    for name in shipped:
        loaded = weights.load(weights.STARTER / name)
        assert loaded.sha256 == manifest[name]
        assert loaded.metadata["format"] == "vqclip-1"
        assert loaded.metadata["licence"]
    assert sum(path.stat().st_size for path in weights.STARTER.iterdir()) < 64e6


def test_a_flipped_bit_in_a_starter_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = weights.STARTER / "vqgan.safetensors"
    damaged = bytearray(original.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / original.name).write_bytes(damaged)
    (tmp_path / "manifest.json").write_text((weights.STARTER / "manifest.json").read_text())
    monkeypatch.setattr(weights, "STARTER", tmp_path)
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.load(tmp_path / original.name)


@pytest.mark.parametrize("content", [None, "{", "[]", "3", "[" * 100_000])
def test_a_missing_or_damaged_manifest_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    original = weights.STARTER / "judge.safetensors"
    (tmp_path / original.name).write_bytes(original.read_bytes())
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    monkeypatch.setattr(weights, "STARTER", tmp_path)
    with pytest.raises(WeightsError, match=r"reinstall vqclip") as caught:
        weights.load(tmp_path / original.name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_numbers_that_are_none_are_refused_with_file_and_tensor(
    tmp_path: Path, kind: str, dtype: torch.dtype, value: float
) -> None:
    path = tmp_path / "weights"
    state = {"sound": torch.ones(3), "empty": torch.ones(0), "large": torch.full((4,), 3e38), "whole": torch.arange(9)}
    state["of.it"] = torch.ones(50, 7, dtype=dtype)
    for broken in (False, True):
        if broken:
            state["of.it"][31, 2] = value
        if kind == "safetensors":
            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
        if not broken:
            assert set(weights.load(path).state) == set(state)  # 3e38 four times is too much for a sum, and sound
    with pytest.raises(WeightsError, match=r"weights: of\.it holds NaN or infinite numbers") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_the_mask_of_a_clip_may_be_infinite(tmp_path: Path) -> None:
    path = tmp_path / "ViT.pt"
    mask = torch.full((3, 3), -float("inf")).triu(1)
    torch.save({"transformer.resblocks.0.attn_mask": mask, "a": torch.ones(2)}, path)
    assert len(weights.load(path).state) == 2


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(WeightsError, match=r"cannot be read \(not a regular file\)"):
            weights.load(path)
        with pytest.raises(WeightsError, match=r"cannot be read \(not a regular file\)"):
            checkpoints.read(path)


@pytest.mark.parametrize("part", ["vqgan", "guide"])
def test_a_file_says_what_it_was_trained_with(part: str) -> None:
    said = {"training": json.dumps({part: "abc"})}
    assert weights.Weights(Path("x"), "", {}, said).trained_with(part) == "abc"
    for facts in ({}, {"training": "no"}, {"training": "{}"}, {"training": "[1]"}, {"training": "[" * 100_000}):
        assert weights.Weights(Path("x"), "", {}, facts).trained_with(part) == ""


class TestPins:
    """A path with a hash behind it is that of a file with this hash."""

    def test_the_right_file_is_found_and_another_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.safetensors"
        save_file({"a": torch.ones(2)}, path)
        pin = hashlib.sha256(path.read_bytes()).hexdigest()
        for written in (pin, pin.upper()):
            assert weights.find(f"{path}#sha256={written}", role="generator") == path
        data = bytearray(path.read_bytes())
        data[-1] ^= 1  # a bit of a number, which the format does not check
        path.write_bytes(data)
        weights.load(path)
        with pytest.raises(WeightsError, match=f"mine.safetensors: SHA-256 is .*{pin} is asked for by") as caught:
            weights.find(f"{path}#sha256={pin}", role="generator")
        assert str(caught.value).startswith("generator: ")

    @pytest.mark.parametrize("pin", ["", "ab", "g" * 64, "a" * 65])
    def test_what_is_no_hash_is_refused(self, tmp_path: Path, pin: str) -> None:
        (tmp_path / "a.pt").write_bytes(b"")
        with pytest.raises(InputError, match="the 64 hexadecimal digits of a SHA-256 are needed"):
            weights.find(f"{tmp_path / 'a.pt'}#sha256={pin}", role="generator")

    @pytest.mark.parametrize("name", ["starter", "starter/judge", "ViT-B/32"])
    def test_models_with_hashes_of_their_own_take_none(self, name: str) -> None:
        with pytest.raises(InputError, match="is checked against its own hash"):
            weights.find(f"{name}#sha256={'a' * 64}", role="judge" if name.startswith("starter") else "guide")
