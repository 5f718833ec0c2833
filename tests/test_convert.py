"""Conversion changes no number, drops what is not needed, and says what a file is and where it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_clip, tiny_vqgan_state
from safetensors import safe_open

from vqclip.generators import vqgan
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.perceptors import clip
from vqclip.weights import checkpoints
from vqclip.weights import load as weights
from vqclip.weights.convert import convert, digest_of, write

PROVENANCE = {"licence": "MIT", "url": "https://example.org/last.ckpt"}


def checkpoint(path: Path, state: dict[str, torch.Tensor]) -> str:
    """A training checkpoint with everything that comes along; returns its SHA-256."""
    moments = {i: {"exp_avg": value.clone(), "exp_avg_sq": value.clone()} for i, value in enumerate(state.values())}
    extra = {"loss.discriminator.main.0.weight": torch.ones(64, 3, 4, 4)}
    torch.save({"state_dict": state | extra, "optimizer_states": [{"state": moments}], "epoch": 12}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == expected[key].dtype and torch.equal(found[key], expected[key]) for key in found
    )


@pytest.mark.parametrize("gumbel", [False, True])
def test_a_vqgan_shrinks_and_keeps_its_numbers(tmp_path: Path, *, gumbel: bool) -> None:
    state = tiny_vqgan_state(gumbel=gumbel)
    source, target = tmp_path / "last.ckpt", tmp_path / "new" / "vqgan.safetensors"
    digest = checkpoint(source, state)
    assert convert(source, target, provenance=PROVENANCE) == target
    found, metadata = checkpoints.read(target)
    assert same(found, state)
    assert target.stat().st_size < 0.4 * source.stat().st_size
    assert metadata["source"] == "last.ckpt"
    assert metadata["source_sha256"] == digest
    assert (metadata["kind"], metadata["format"]) == ("vqgan", "vqclip-1")
    assert PROVENANCE.items() <= metadata.items()
    assert list(target.parent.iterdir()) == [target]


def test_the_architecture_is_written_and_can_be_read_again(tmp_path: Path) -> None:
    checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state())
    convert(tmp_path / "last.ckpt", tmp_path / "x", provenance={})
    found, metadata = checkpoints.read(tmp_path / "x")
    inferred = vqgan.infer_architecture(found, groups=vqgan.groups_of(metadata))
    written = json.loads(metadata["architecture"])
    assert inferred == vqgan.infer_architecture(tiny_vqgan_state())
    assert written["norm_groups"] == 32
    assert [written["channels"], tuple(written["multipliers"]), written["codes"]] == [32, (1, 1, 2), 48]
    assert vqgan.build(found).shape == inferred
    assert "unknown" in metadata["licence"]


@pytest.mark.parametrize("resnet", [False, True])
def test_a_clip_stays_in_half_precision(tmp_path: Path, *, resnet: bool) -> None:
    model = tiny_clip(resnet=resnet)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "clip.pt")
    convert(tmp_path / "clip.pt", tmp_path / "x", provenance=PROVENANCE)
    found, metadata = checkpoints.read(tmp_path / "x")
    assert same(found, state)
    assert metadata["kind"] == "clip"
    assert json.loads(metadata["architecture"])["embed_dim"] == clip.infer_arguments(found)["embed_dim"] == 32


def test_what_a_safetensors_file_says_of_itself_is_kept(tmp_path: Path) -> None:
    """Narrow models have fewer groups than taming's 32, which only their metadata knows."""
    state, told = tiny_vqgan_state(), {"architecture": json.dumps({"norm_groups": 8}), "licence": "CC0", "name": "tiny"}
    write(state, tmp_path / "a", told)
    convert(tmp_path / "a", tmp_path / "b", provenance={})
    _, metadata = checkpoints.read(tmp_path / "b")
    assert vqgan.groups_of(metadata) == 8
    assert (metadata["licence"], metadata["name"]) == ("CC0", "tiny")


def test_other_libraries_read_the_result(tmp_path: Path) -> None:
    checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state())
    convert(tmp_path / "last.ckpt", tmp_path / "x", provenance={})
    with safe_open(tmp_path / "x", "pt") as file:
        assert set(file.keys()) == set(tiny_vqgan_state())


def test_views_of_one_storage_are_written_apart(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    state = {"all": base, "again": base, "part": base[2:4], "turned": torch.arange(6.0).view(2, 3).t()}
    write(state, tmp_path / "x", {})
    found, metadata = checkpoints.read(tmp_path / "x")
    assert same(found, state)
    assert metadata["tensors_sha256"] == digest_of(found) == digest_of(state)
    assert digest_of(state | {"part": base[3:5]}) != digest_of(state)


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"odd.pt: neither a VQGAN .* nor a CLIP"):
        convert(tmp_path / "odd.pt", tmp_path / "x", provenance={})
    with pytest.raises(WeightsError, match="missing.pt: cannot be read"):
        convert(tmp_path / "missing.pt", tmp_path / "x", provenance={})
    checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state())
    with pytest.raises(InputError, match="is the source itself"):
        convert(tmp_path / "last.ckpt", tmp_path / "last.ckpt", provenance={})
    with pytest.raises(InputError, match="is a folder"):
        convert(tmp_path / "last.ckpt", tmp_path, provenance={})
    with pytest.raises(ResourceError, match="cannot be written"):
        convert(tmp_path / "last.ckpt", tmp_path / "odd.pt" / "x", provenance={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "odd.pt"]


class TestTheCopyOfALargeFile:
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VQCLIP_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(weights, "_LARGE", 100_000)

    def copies(self, tmp_path: Path) -> list[Path]:
        return sorted((tmp_path / "home" / "converted").glob("*"))

    def test_is_read_from_the_second_time_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        digest = checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state())
        first = weights.load(tmp_path / "last.ckpt")
        (copy,) = self.copies(tmp_path)
        assert copy.name == f"{digest[:16]}.safetensors"
        opened: list[Path] = []
        read = checkpoints.read
        monkeypatch.setattr(checkpoints, "read", lambda path: (opened.append(path), read(path))[1])
        second = weights.load(tmp_path / "last.ckpt")
        assert opened == [copy]
        assert first.sha256 == second.sha256 == digest
        assert first.metadata == second.metadata
        assert first.path == second.path == tmp_path / "last.ckpt"
        assert same(dict(first.state), dict(second.state))

    def test_is_replaced_when_it_is_damaged(self, tmp_path: Path) -> None:
        state = tiny_vqgan_state()
        checkpoint(tmp_path / "last.ckpt", state)
        weights.load(tmp_path / "last.ckpt")
        (copy,) = self.copies(tmp_path)
        sound = copy.read_bytes()
        for damaged in (sound[:-5], sound[:-5] + b"\x01" + sound[-4:], b"", b"<html>"):
            copy.write_bytes(damaged)
            assert same(dict(weights.load(tmp_path / "last.ckpt").state), state)
            assert digest_of(checkpoints.read(copy)[0]) == digest_of(state)

    def test_belongs_to_one_file_alone(self, tmp_path: Path) -> None:
        """Another file under the same name, and a foreign copy in its place."""
        digest = checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state(0))
        weights.load(tmp_path / "last.ckpt")
        other = tiny_vqgan_state(1)
        renewed = checkpoint(tmp_path / "last.ckpt", other)
        (copy,) = self.copies(tmp_path)
        copy.rename(copy.with_name(f"{renewed[:16]}.safetensors"))
        loaded = weights.load(tmp_path / "last.ckpt")
        assert loaded.sha256 == renewed != digest
        assert same(dict(loaded.state), other)

    def test_is_not_needed(self, tmp_path: Path) -> None:
        """A store that cannot be written to stops no run; unknown layouts are left to whoever builds them."""
        (tmp_path / "home").write_text("in the way")
        checkpoint(tmp_path / "last.ckpt", tiny_vqgan_state())
        assert same(dict(weights.load(tmp_path / "last.ckpt").state), tiny_vqgan_state())
        (tmp_path / "home").unlink()
        torch.save({"a": torch.ones(50_000)}, tmp_path / "odd.pt")
        assert weights.load(tmp_path / "odd.pt").metadata == {}
        assert self.copies(tmp_path) == []

    def test_is_not_made_of_safetensors_and_small_files(self, tmp_path: Path) -> None:
        write(tiny_vqgan_state(), tmp_path / "large.ckpt", {})
        assert (tmp_path / "large.ckpt").stat().st_size > 100_000
        weights.load(tmp_path / "large.ckpt")
        torch.save({"a": torch.ones(3)}, tmp_path / "small.ckpt")
        weights.load(tmp_path / "small.ckpt")
        assert self.copies(tmp_path) == []
