"""Stable Diffusion opens offline from a file or a folder, exactly, and everything else is refused in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forge
import numpy as np
import pytest
import tiny_stable_diffusion as tiny
import torch
from clip.simple_tokenizer import SimpleTokenizer
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from vqclip.backends.stable_diffusion import files
from vqclip.backends.stable_diffusion.layout import Layout, vocabulary, write
from vqclip.job import ResourceError, WeightsError
from vqclip.weights import checkpoints, store
from vqclip.weights import load as weights

NETWORKS = ("unet", "vae", "text_encoder")
UNET = "model.diffusion_model."


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return tiny.parts()


@pytest.fixture(scope="module")
def state(parts: dict[str, Any]) -> dict[str, Tensor]:
    return tiny.single_file(parts)


@pytest.fixture(scope="module")
def folder(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("saved") / "sd"
    tiny.pipeline(parts).save_pretrained(made)
    return made


@pytest.fixture
def lightning() -> Iterator[type]:
    """A class that pickles under the name of Lightning's callback; gone again when the test opens the file."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    stub = type("ModelCheckpoint", (), {"__module__": names[-1]})
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[names[-1]])["ModelCheckpoint"] = stub
    try:
        yield stub
    finally:
        for name in names:
            sys.modules.pop(name, None)


def same(opened: files.Models, parts: dict[str, Any]) -> bool:
    pairs = [(opened.parts[name].state_dict(), parts[name].state_dict()) for name in NETWORKS]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in b) for a, b in pairs)


def refusal(path: Path, layout: Layout | None = tiny.TINY) -> str:
    with pytest.raises(WeightsError) as refused:
        files.open(path, layout=layout)
    said = str(refused.value)
    assert said.startswith(str(path))
    assert said.isprintable()
    assert len(said) < 900
    return said


class TestConfiguration:
    def test_it_describes_the_published_model(self, tmp_path: Path) -> None:
        write(tmp_path, Layout())
        assert files._wanted(tmp_path) == {
            "model.diffusion_model.": (686, 859_520_964),
            "first_stage_model.": (248, 83_653_863),
            "cond_stage_model.transformer.": (196, 123_060_480),
        }

    def test_it_is_all_that_diffusers_needs(
        self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path
    ) -> None:
        write(tmp_path / "config", tiny.TINY)
        save_file(state, tmp_path / "tiny.safetensors")
        pipe = StableDiffusionPipeline.from_single_file(
            str(tmp_path / "tiny.safetensors"), config=str(tmp_path / "config"), local_files_only=True
        )
        assert same(files.Models("", {}, pipe.components), parts)
        assert pipe.safety_checker is None

    def test_the_noise_schedule_is_the_published_one(self, parts: dict[str, Any]) -> None:
        scheduler = parts["scheduler"]
        assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0046602, rel=1e-4)
        assert (scheduler.config.steps_offset, scheduler.config.prediction_type) == (1, "epsilon")
        assert parts["vae"].config.scaling_factor == 0.18215

    def test_the_vocabulary_is_that_of_clip(self) -> None:
        tokens, merges = vocabulary()
        other = SimpleTokenizer()
        assert tokens == other.encoder
        assert [tuple(merge.split()) for merge in merges] == sorted(other.bpe_ranks, key=other.bpe_ranks.__getitem__)
        assert (len(tokens), len(merges)) == (49408, 48894)

    @pytest.mark.parametrize(
        "text",
        [
            "a cat",
            "",
            "An ASTRONAUT's horse, 1999!",
            "naïve café  über",
            "зима 日本 😀",
            "a" * 90,
            "x_y-z (a:1.3)",
            "\t\n ok",
        ],
    )
    def test_texts_become_the_tokens_of_clip(self, parts: dict[str, Any], text: str) -> None:
        assert parts["tokenizer"](text).input_ids == [49406, *SimpleTokenizer().encode(text), 49407]

    def test_a_cat_is_two_words(self, parts: dict[str, Any]) -> None:
        assert parts["tokenizer"]("a cat").input_ids == [49406, 320, 2368, 49407]
        assert parts["tokenizer"].model_max_length == 77


class TestOneFile:
    def test_safetensors(self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "v1-5.ckpt"  # its content decides, not its name
        save_file(state, path)
        opened = files.open(path, layout=tiny.TINY)
        assert same(opened, parts)
        assert opened.hashes == {"v1-5.ckpt": store.digest_of(path)}
        assert opened.parts["tokenizer"].model_max_length == 77
        assert not any(opened.parts[name].training for name in NETWORKS)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_an_original_checkpoint_with_its_pickled_leftovers(
        self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path, lightning: type, *, zipped: bool
    ) -> None:
        path = tmp_path / "v1-5-pruned-emaonly.ckpt"
        leftovers = {
            "epoch": 0, "global_step": 840000, "pytorch-lightning_version": "1.4.2", "optimizer_states": [],
            "callbacks": {lightning: {"monitor": "val/loss", "best_model_score": np.float64(0.14), "best": None}},
            "lr_schedulers": [{"base_lrs": [1e-4], "last": np.float32(2.0), "lr_lambdas": [None]}],
        }  # fmt: skip
        torch.save({"state_dict": state, **leftovers}, path, _use_new_zipfile_serialization=zipped)
        for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
            del sys.modules[name]
        with pytest.raises(Exception, match="(?i)weights"):
            torch.load(path, weights_only=True)
        assert same(files.open(path, layout=tiny.TINY), parts)
        assert "pytorch_lightning" not in sys.modules
        if zipped:
            pickled = zipfile.ZipFile(path).read("v1-5-pruned-emaonly/data.pkl")
            for name in (b"ModelCheckpoint", b"multiarray\nscalar", b"numpy\ndtype", b"_codecs\nencode"):
                assert name in pickled

    def test_a_large_checkpoint_is_converted_once(
        self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "_LARGE", 100_000)
        path = tmp_path / "v1-5.ckpt"
        torch.save({"state_dict": state}, path)
        first = files.open(path, layout=tiny.TINY)
        (copy,) = (store.home() / "converted").iterdir()
        digest = store.digest_of(path)
        assert copy.name.startswith(str(digest)[:16])
        assert checkpoints.read(copy, parts=(UNET,))[1]["source_sha256"] == digest
        opened: list[Path] = []
        read = checkpoints.read
        monkeypatch.setattr(checkpoints, "read", lambda path, **more: (opened.append(path), read(path, **more))[1])
        second = files.open(path, layout=tiny.TINY)
        assert opened == [copy]
        assert first.hashes == second.hashes == {"v1-5.ckpt": digest}
        assert same(second, parts)
        copy.write_bytes(copy.read_bytes()[:-4] + b"\x01\x02\x03\x04")
        assert same(files.open(path, layout=tiny.TINY), parts)

    def test_the_part_that_a_vqgan_would_take_stays_what_it_was(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.save({"state_dict": state}, tmp_path / "v1-5.ckpt")
        found, _ = checkpoints.read(tmp_path / "v1-5.ckpt")
        assert {key.split(".")[0] for key in found} == {"encoder", "decoder", "quant_conv", "post_quant_conv"}

    def test_in_half_precision(self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path) -> None:
        """Files in float16 are widened, and wide ones narrowed, on demand."""
        path = tmp_path / "half.safetensors"
        save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
        opened = files.open(path, layout=tiny.TINY)
        for name in NETWORKS:
            assert {value.dtype for value in opened.parts[name].parameters()} == {torch.float32}
        weight = opened.parts["unet"].conv_in.weight
        assert torch.equal(weight, parts["unet"].conv_in.weight.half().float())
        narrow = files.open(path, layout=tiny.TINY, dtype=torch.bfloat16)
        for name in NETWORKS:
            assert {value.dtype for value in narrow.parts[name].parameters()} == {torch.bfloat16}

    def test_texts_without_the_prefix_of_old_versions(
        self, state: dict[str, Tensor], parts: dict[str, Any], tmp_path: Path
    ) -> None:
        save_file(
            {key.replace("transformer.text_model.", "transformer."): v for key, v in state.items()}, tmp_path / "x"
        )
        assert same(files.open(tmp_path / "x", layout=tiny.TINY), parts)

    def test_nothing_is_printed_or_left_behind(
        self,
        state: dict[str, Tensor],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        save_file(state, tmp_path / "x.safetensors")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        made = files.open(tmp_path / "x.safetensors", layout=tiny.TINY)
        made.pipeline(from_picture=True)
        made.pipeline(from_picture=False)
        assert capfd.readouterr() == ("", "")
        assert [str(each.message) for each in recwarn] == []
        assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def first_conv(channels: int) -> Callable[[dict[str, Tensor]], None]:
    return lambda own: own.update({f"{UNET}input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)})


def reading(width: int) -> Callable[[dict[str, Tensor]], None]:
    key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    return lambda own: own.update({key: torch.zeros(32, width)})


def only(prefix: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda own: [own.pop(key) for key in list(own) if not key.startswith(prefix)] and None


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda own: own.update({new: own.pop(old)})


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (first_conv(9), "is an inpainting model (its unet takes 9 channels, not 4)"),
            (first_conv(8), "is a model that edits pictures"),
            (first_conv(11), "is another model (its unet takes 11 channels"),
            (reading(1024), "is Stable Diffusion 2 (its unet reads texts 1024 numbers wide)"),
            (reading(2048), "is Stable Diffusion XL ("),
            (lambda own: own.update({f"{UNET}label_emb.0.0.weight": torch.ones(2)}), "is Stable Diffusion XL;"),
            (lambda own: own.update({f"{UNET}joint_blocks.0.x": torch.ones(2)}), "is Stable Diffusion 3;"),
            (lambda own: own.update({f"{UNET}double_blocks.0.x": torch.ones(2)}), "is Flux;"),
            (only("first_stage_model."), "has no image network"),
            (only(UNET), "has no tensors first_stage_model.*"),
            (lambda own: own.pop(f"{UNET}out.2.bias"), "tensors model.diffusion_model.* with"),
            (lambda own: own.pop("first_stage_model.decoder.conv_out.bias"), "tensors first_stage_model.* with"),
            (renamed(f"{UNET}out.2.bias", f"{UNET}out.9.bias"), "has the tensors of unet under other names"),
            (
                renamed(
                    "cond_stage_model.transformer.text_model.final_layer_norm.bias",
                    "cond_stage_model.transformer.text_model.other.bias",
                ),
                "has no fitting tensor for final_layer_norm.bias of the text encoder",
            ),
        ],
    )
    def test_other_models_are_named(
        self, state: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], words: str
    ) -> None:
        own = dict(state)
        change(own)
        save_file(own, tmp_path / "x.safetensors")
        said = refusal(tmp_path / "x.safetensors")
        assert words in said
        assert "Stable Diffusion 1.5 is needed" in said

    def test_the_real_layout_is_the_default(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        save_file(state, tmp_path / "x.safetensors")
        assert "its unet reads texts 32 numbers wide" in refusal(tmp_path / "x.safetensors", None)

    def test_additions_are_no_models(self, tmp_path: Path) -> None:
        save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
        assert "it begins with 'lora_unet_down_blocks_0.lora_up.weight'" in refusal(tmp_path / "lora.safetensors")

    @pytest.mark.parametrize("place", ["beside", "as a tensor", "as a callback"])
    def test_hostile_checkpoints_run_nothing(self, tmp_path: Path, place: str) -> None:
        canary = tmp_path / "canary"
        evil = forge.name("os.system") + b"(" + forge.text(f"touch {canary}") + b"tR"
        tensors = {f"{UNET}input_blocks.0.0.weight": forge.tensor()}
        content = {
            "beside": {"state_dict": forge.mapping(tensors), "epoch": evil},
            "as a tensor": {"state_dict": forge.mapping(tensors | {f"{UNET}out.2.bias": evil})},
            "as a callback": {"state_dict": forge.mapping(tensors), "callbacks": b"}" + evil + b"Ns"},
        }[place]
        path = tmp_path / "v1-5-pruned-emaonly.ckpt"
        path.write_bytes(forge.torch_zip(forge.mapping(content)))
        assert "it names os.system, which no weight file needs" in refusal(path)
        assert not canary.exists()

    def test_what_is_not_there_or_not_weights(self, tmp_path: Path) -> None:
        said = refusal(tmp_path / "v1-5-pruned-emaonly.safetensors")
        assert "nothing is there" in said
        assert "`hf download stable-diffusion-v1-5/stable-diffusion-v1-5 v1-5-pruned-emaonly.safetensors" in said
        (tmp_path / "page.safetensors").write_text("<html>404</html>")
        assert "web page" in refusal(tmp_path / "page.safetensors")
        (tmp_path / "empty.ckpt").touch()
        refusal(tmp_path / "empty.ckpt")

    def test_a_cut_file(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
        assert "fetch it again" in refusal(path)

    @pytest.mark.parametrize(
        "problem",
        [
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            OSError(errno.ENOSPC, "No space left on device", "somewhere"),
        ],
    )
    def test_want_of_memory_or_space_is_no_fault_of_the_file(
        self, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
    ) -> None:
        def fail(*_: object) -> None:
            raise problem

        save_file(state, tmp_path / "x.safetensors")
        monkeypatch.setattr(files, "_from_state", fail)
        with pytest.raises(ResourceError, match="x.safetensors: no (memory|space)"):
            files.open(tmp_path / "x.safetensors", layout=tiny.TINY)


class TestFolders:
    def copied(self, folder: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "sd"))

    def edit(self, path: Path, **changes: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def test_a_saved_pipeline(self, folder: Path, parts: dict[str, Any]) -> None:
        opened = files.open(folder)
        assert same(opened, parts)
        names = [
            "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        ]  # fmt: skip
        assert opened.hashes == {name: store.digest_of(folder / name) for name in names}
        assert opened.parts["tokenizer"]("a cat").input_ids == [49406, 320, 2368, 49407]
        assert opened.parts["scheduler"].config.beta_schedule == "scaled_linear"

    def test_half_precision_files_alone(self, parts: dict[str, Any], tmp_path: Path) -> None:
        tiny.pipeline(parts).save_pretrained(tmp_path / "sd", variant="fp16")
        assert (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
        opened = files.open(tmp_path / "sd")
        assert same(opened, parts)
        assert "text_encoder/model.fp16.safetensors" in opened.hashes

    def test_a_tokenizer_without_a_limit(self, folder: Path, tmp_path: Path) -> None:
        """From vocab.json and merges.txt alone the limit is 1e30, which no padding survives."""
        own = self.copied(folder, tmp_path)
        shutil.rmtree(own / "tokenizer")
        write(tmp_path / "config", tiny.TINY)
        shutil.copytree(tmp_path / "config" / "tokenizer", own / "tokenizer")
        (own / "tokenizer" / "tokenizer_config.json").write_text("{}")
        assert CLIPTokenizer.from_pretrained(own / "tokenizer").model_max_length > 1e6
        assert files.open(own).parts["tokenizer"].model_max_length == 77

    def test_a_tokenizer_without_a_vocabulary(self, folder: Path, tmp_path: Path) -> None:
        own = self.copied(folder, tmp_path)
        (own / "tokenizer" / "tokenizer.json").unlink()
        assert "tokenizer knows 2 tokens, the text encoder 49408" in refusal(own)

    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
    def test_a_missing_part_is_named(self, folder: Path, tmp_path: Path, part: str) -> None:
        own = self.copied(folder, tmp_path)
        shutil.rmtree(own / part)
        said = refusal(own)
        assert f"has no {part}/" in said
        assert "hf download" in said

    def test_pickled_weights_are_not_opened(self, folder: Path, tmp_path: Path) -> None:
        own = self.copied(folder, tmp_path)
        (own / "unet" / "diffusion_pytorch_model.safetensors").rename(own / "unet" / "diffusion_pytorch_model.bin")
        said = refusal(own)
        assert "unet has no diffusion_pytorch_model.safetensors, only pickled weights" in said

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"in_channels": 9}, "is an inpainting model"),
            ({"cross_attention_dim": 1024}, "is Stable Diffusion 2"),
            ({"cross_attention_dim": 48}, "is another model"),
            ({"cross_attention_dim": [32, 32]}, "is another model"),
            ({"in_channels": "4"}, "is another model"),
            ({"block_out_channels": [32, 64, 64, 96]}, "unet: cannot be used"),
        ],
    )
    def test_other_models_are_named(self, folder: Path, tmp_path: Path, changes: dict[str, object], words: str) -> None:
        own = self.copied(folder, tmp_path)
        self.edit(own / "unet" / "config.json", **changes)
        assert words in refusal(own)

    def test_code_in_a_folder_is_not_run(self, folder: Path, tmp_path: Path) -> None:
        own = self.copied(folder, tmp_path)
        (own / "unet" / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
        (own / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
        self.edit(own / "model_index.json", _class_name=["evil", "Evil"], unet=["evil", "Evil"])
        self.edit(own / "unet" / "config.json", _class_name="Evil", auto_map={"AutoModel": "evil.Evil"})
        self.edit(own / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
        files.open(own)
        assert not (tmp_path / "canary").exists()

    def test_a_missing_or_damaged_tensor(self, folder: Path, tmp_path: Path) -> None:
        own = self.copied(folder, tmp_path)
        path = own / "vae" / "diffusion_pytorch_model.safetensors"
        state, _ = checkpoints.read(path)
        del state["post_quant_conv.bias"]
        save_file(state, path)
        assert "vae: has no fitting tensor for post_quant_conv.bias" in refusal(own)
        path.write_bytes(path.read_bytes()[:-10])
        refusal(own)
        (own / "vae" / "config.json").write_text("{")
        assert "vae/config.json is damaged" in refusal(own)
        (own / "vae" / "config.json").write_text("[]")
        assert "vae/config.json is no mapping" in refusal(own)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "has no unet/config.json, so it is no folder of a Stable Diffusion 1.5" in refusal(tmp_path)


class TestWhatHasNoEnd:
    """A pipe or a device where weights should be: refused at once, and not waited for."""

    @pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom"])
    def test_as_the_model(self, path: str) -> None:
        assert "not a regular file" in refusal(Path(path))

    def test_a_pipe_as_the_model(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in refusal(tmp_path / "pipe")

    @pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/merges.txt", "vae/odd.safetensors"])
    def test_in_a_folder(self, folder: Path, tmp_path: Path, name: str) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to("/dev/zero")
        assert f"{name}: not a regular file" in refusal(copy)


def test_numbers_that_are_none_are_refused(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    place = copy / "vae" / "diffusion_pytorch_model.safetensors"
    broken = load_file(place)
    broken["decoder.conv_in.bias"][0] = float("inf")
    save_file(broken, place, metadata={"format": "pt"})
    assert "decoder.conv_in.bias holds NaN or infinite numbers" in refusal(copy)

    name = f"{UNET}out.2.bias"
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, tmp_path / "sd.safetensors")
    assert f"{name} holds NaN or infinite numbers" in refusal(tmp_path / "sd.safetensors")
