"""Every format that VQGANs and CLIPs come in is read by content, exactly, and no more of it than is wanted."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import forge
import pytest
import torch
from clip.model import CLIP
from conftest import tiny_clip, tiny_vqgan_state
from safetensors.torch import save_file

from vqclip.generators import vqgan
from vqclip.job import ResourceError, WeightsError
from vqclip.perceptors import clip
from vqclip.weights import checkpoints

BASE = torch.arange(10.0)
STATE = {
    "turned": torch.arange(12.0).view(3, 4).t(), "ints": torch.arange(4, dtype=torch.int32), "one": torch.tensor(3.5),
    "empty": torch.zeros(0, 3), "half": torch.arange(5).half(), "brain": torch.arange(5).bfloat16(),
    "long": torch.arange(5), "flags": torch.tensor([True, False]), "double": torch.rand(2, dtype=torch.float64),
    "bytes": torch.arange(3, dtype=torch.uint8), "head": BASE[2:5], "tail": BASE[5:],
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
}  # fmt: skip


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    exact = all(torch.equal(found[key], expected[key]) for key in expected)
    return exact and found.keys() == expected.keys() and all(found[k].dtype == expected[k].dtype for k in found)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_read_as_torch_reads_them(tmp_path: Path, protocol: int, *, zipped: bool) -> None:
    path = tmp_path / "weights"
    content = {"state_dict": STATE, "epoch": 3, "lr": 1e-4, "betas": (0.9, None), "names": ["a", b"b", 2**70, -1]}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found, metadata = checkpoints.read(path)
    assert same(found, STATE)
    if protocol == 2:  # the one that torch writes, and reads without a warning
        assert same(found, torch.load(path, weights_only=True)["state_dict"])
    assert metadata == {}
    assert all(value.is_contiguous() and not value.requires_grad for value in found.values())


def test_bare_state_dicts_of_modules_are_read(tmp_path: Path) -> None:
    """An OrderedDict with layer versions attached, as `Module.state_dict` returns it."""
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()
    for zipped in (True, False):
        torch.save(state, tmp_path / "weights", _use_new_zipfile_serialization=zipped)
        assert same(checkpoints.read(tmp_path / "weights")[0], dict(state))


def test_safetensors_keep_dtypes_and_metadata(tmp_path: Path) -> None:
    state = {key: value.detach().contiguous().clone() for key, value in STATE.items()}
    save_file(state, tmp_path / "weights.bin", {"licence": "MIT"})
    found, metadata = checkpoints.read(tmp_path / "weights.bin")
    assert same(found, state)
    assert metadata == {"licence": "MIT"}


def lightning_extras() -> dict[str, bytes]:
    """What Lightning keeps beside the weights, with a class as a key and objects among the hyperparameters."""
    callback = forge.name("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    settings = forge.name("omegaconf.dictconfig.DictConfig") + b")\x81}" + forge.text("_content") + b"}sb"
    namespace = forge.name("argparse.Namespace") + b")\x81}" + forge.text("lr") + b"G?\xf0\0\0\0\0\0\0sb"
    momentum = b"}" + forge.number(0) + b"}" + forge.text("exp_avg") + forge.tensor(forge.storage("9")) + b"ss"
    return {
        "callbacks": b"}" + callback + b"}" + forge.text("best_model_score") + b"Nss",
        "optimizer_states": b"](" + forge.mapping({"state": momentum}) + b"e",
        "hyper_parameters": forge.mapping({"config": settings, "arguments": namespace}),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_checkpoints_load_without_lightning(tmp_path: Path, *, zipped: bool) -> None:
    data = {str(i): torch.full((4,), float(i)).numpy().tobytes() for i in (1, 2, 9)}
    stored = {key: forge.tensor(forge.storage(key, legacy=not zipped)) for key in ("1", "2")}
    keys = {"encoder.x": "1", "decoder.x": "1", "quantize.x": "2", "quantize.used": "2", "loss.disc.x": "1"}
    extras = lightning_extras()
    if not zipped:
        extras["optimizer_states"] = b"]" + forge.tensor(forge.storage("9", legacy=True)) + b"a"
    code = forge.mapping({"state_dict": forge.mapping({key: stored[name] for key, name in keys.items()}), **extras})
    path = tmp_path / "last.ckpt"
    path.write_bytes(forge.torch_zip(code, data) if zipped else forge.legacy(code, data))
    found, _ = checkpoints.read(path)
    assert {key: value.tolist() for key, value in found.items()} == {
        "encoder.x": [1.0] * 4, "decoder.x": [1.0] * 4, "quantize.x": [2.0] * 4,
    }  # fmt: skip
    assert "pytorch_lightning" not in sys.modules


def test_only_the_first_stage_of_a_transformer_is_kept(tmp_path: Path) -> None:
    state = tiny_vqgan_state()
    inside = {f"first_stage_model.{key}": value for key, value in state.items()}
    inside |= {"first_stage_model.loss.x": torch.ones(2), "transformer.tok_emb.weight": torch.ones(3)}
    inside |= {"cond_stage_model.encoder.x": torch.ones(2), "permuter.forward_shuffle_idx": torch.arange(4)}
    torch.save({"state_dict": inside, "global_step": 7}, tmp_path / "net2net.ckpt")
    found, _ = checkpoints.read(tmp_path / "net2net.ckpt")
    assert same(found, state)
    assert vqgan.build(found).shape == vqgan.infer_architecture(state)


def test_chosen_parts_of_a_latent_diffusion_model_keep_their_names(tmp_path: Path) -> None:
    """Exactly the tensors whose names begin so, of every format; the copies that training averages are not read."""
    state = {f"first_stage_model.{key}": value for key, value in tiny_vqgan_state().items()}
    state |= {"model.diffusion_model.out.2.bias": torch.arange(3.0), "cond_stage_model.x": torch.ones(2)}
    beside = {"model_ema.decay": torch.ones(1), "modelx.y": torch.ones(1), "betas": torch.ones(9)}
    parts = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    torch.save({"state_dict": state | beside}, tmp_path / "zip")
    torch.save({"state_dict": state | beside}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file(state | beside, tmp_path / "safetensors")
    with zipfile.ZipFile(tmp_path / "wrapped", "w") as archive:
        archive.write(tmp_path / "legacy", "model.ckpt")
    for name in ("zip", "legacy", "safetensors", "wrapped"):
        assert same(checkpoints.read(tmp_path / name, parts=parts)[0], state)
    small = sum(value.nbytes for value in state.values())
    assert same(checkpoints.read(tmp_path / "safetensors", parts=parts, limit=small)[0], state)
    with pytest.raises(WeightsError, match="at most .* are read"):
        checkpoints.read(tmp_path / "safetensors", parts=parts, limit=small - 1)
    with pytest.raises(
        WeightsError, match=r"no tensor whose name begins with lora\.; it begins with 'first_stage_model"
    ):
        checkpoints.read(tmp_path / "zip", parts=("lora.",))


@pytest.mark.parametrize("gumbel", [False, True])
def test_training_leftovers_of_a_vqgan_are_dropped(tmp_path: Path, *, gumbel: bool) -> None:
    state = tiny_vqgan_state(gumbel=gumbel)
    torch.save({"state_dict": state | {"loss.lin.x": torch.ones(2), "quantize.used": torch.ones(2)}}, tmp_path / "x")
    assert same(checkpoints.read(tmp_path / "x")[0], state)


def test_torchscript_archives_read_without_running_them(tmp_path: Path) -> None:
    """OpenAI publishes its CLIPs as traced models, half precision, with three numbers as extra tensors."""
    model = CLIP(32, 32, 2, 64, 8, 77, 512, 64, 1, 1).eval()
    for key, value in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 512)):
        vars(model).pop(key, None)
        model.register_buffer(key, torch.tensor(value))
    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int32)))
        traced.save(str(path))
        expected = torch.jit.load(str(path)).state_dict()
    found, _ = checkpoints.read(path)
    assert same(found, dict(expected))
    assert int(found["input_resolution"]) == 32
    assert clip.build(found).visual.input_resolution == 32


def test_a_checkpoint_in_a_zip_is_unpacked_and_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    state = {"a": torch.randn(2000, generator=torch.Generator().manual_seed(0))}
    for zipped in (True, False):
        torch.save({"state_dict": state}, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
        with zipfile.ZipFile(tmp_path / "vq-f4.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.write(tmp_path / "model.ckpt", "model.ckpt")
            file.writestr("config.yaml", "target: ldm.models.autoencoder.VQModel")
        assert same(checkpoints.read(tmp_path / "vq-f4.zip")[0], state)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_room_to_unpack_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = forge.torch_zip(forge.mapping({"a": forge.tensor()}))
    (tmp_path / "x.zip").write_bytes(forge.zipped({"model.ckpt": inner}))
    assert checkpoints.read(tmp_path / "x.zip")[0]["a"].tolist() == [0.0] * 4
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(ResourceError, match="has no room for .* MB; free some or set TMPDIR"):
        checkpoints.read(tmp_path / "x.zip")


def test_no_memory_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    torch.save({"a": torch.ones(1_000_000)}, tmp_path / "x")
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ResourceError, match="no memory for a tensor of 4 MB"):
        checkpoints.read(tmp_path / "x")


def test_clip_state_dicts_load_in_half_precision(tmp_path: Path) -> None:
    for resnet in (False, True):
        state = {k: v.half() if v.is_floating_point() else v for k, v in tiny_clip(resnet=resnet).state_dict().items()}
        torch.save(state, tmp_path / "clip.pt")
        assert same(checkpoints.read(tmp_path / "clip.pt")[0], state)


def test_the_format_is_told_by_content(tmp_path: Path) -> None:
    state = {"a": torch.ones(3)}
    makers = {
        "x.safetensors": lambda path: torch.save(state, path),
        "x.png": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        "x.ckpt": lambda path: save_file(state, path),
    }
    for name, make in makers.items():
        make(tmp_path / name)
        assert same(checkpoints.read(tmp_path / name)[0], state)


def test_a_header_of_128_bytes_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    """Its first byte is the one that pickles begin with."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(forge.safetensors(header.ljust(128), b"\0\0\x80?"))
    assert checkpoints.read(tmp_path / "x")[0]["a"].tolist() == [1.0]


def test_the_limit_counts_what_is_wanted(tmp_path: Path) -> None:
    state = {"encoder.x": torch.ones(100), "decoder.x": torch.ones(100), "quantize.x": torch.ones(100)}
    torch.save({"state_dict": state | {"loss.x": torch.ones(10_000)}}, tmp_path / "x")
    assert same(checkpoints.read(tmp_path / "x", limit=1200)[0], state)
    with pytest.raises(WeightsError, match="1200 bytes of tensors; at most 1199 are read"):
        checkpoints.read(tmp_path / "x", limit=1199)


def test_unwanted_tensors_take_no_memory(tmp_path: Path) -> None:
    """A checkpoint of 204 MB of which 4 are wanted."""
    state = {f"{part}.x": torch.ones(350_000) for part in ("encoder", "decoder", "quantize")}
    torch.save({"state_dict": state | {"loss.x": torch.zeros(50_000_000)}}, tmp_path / "x")
    script = (
        "import sys; from pathlib import Path; from vqclip.weights import checkpoints\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak(); state, _ = checkpoints.read(Path(sys.argv[1])); print(peak() - before, len(state))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    kilobytes, count = map(int, done.stdout.split())
    assert count == 3
    assert kilobytes < 50_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"", "neither a safetensors file nor a torch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "neither"),
        (forge.torch_zip(forge.text("hello"), {}), "holds a str, not a mapping of tensors"),
        (forge.torch_zip(forge.tensor()), "holds a tensor, not a mapping"),
        (forge.torch_zip(forge.mapping({"epoch": forge.number(3)}), {}), "holds no tensors"),
        (forge.zipped({"a.ckpt": b"x", "b.ckpt": b"y"}), "a zip archive of 2 files"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file\nname"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        checkpoints.read(path)
    assert "\n" not in str(caught.value)
