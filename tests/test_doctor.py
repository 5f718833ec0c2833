"""The doctor's checks of a machine: every fact holds, every fault has its line and its exit code, and nothing stops."""

from __future__ import annotations

import json
import re
import tomllib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from tiny_kandinsky import tiny_prior

from vqclip.backends.kandinsky import files as kandinsky_files
from vqclip.cli import doctor as cli_doctor
from vqclip.cli import main as cli
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.run import doctor
from vqclip.run.doctor import Check
from vqclip.run.rehearsal import Rehearsal
from vqclip.weights import catalogue, store

ROOT = Path(__file__).parent.parent
NAMES = [
    "system", "packages", "device", "precision", "memory", "threads", "video", "store", "catalogue", "diffusion",
    "starter",
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, one for temporary files, and empty caches."""
    for name in ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path
    assert list((tmp_path / "here").iterdir()) == list((tmp_path / "temporary").iterdir()) == []


def only(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: list(checks))


def test_a_sound_machine_is_told_in_a_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [re.match(r"ok  (\S+) +\S.* \(\d+\.\d s\)$", line)[1] for line in lines] == NAMES
    assert shown.err == ""
    assert "2 steps at 64x64 on " in lines[-1]
    assert "judged, filmed" in lines[-1]
    assert not store.home().exists() or list(store.home().iterdir()) == []


def test_json_is_an_object_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, Check("system", doctor.system), Check("store", fails(ResourceError("full\nup"))))
    assert cli.main(["doctor", "--json"]) == 4
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"check": "system", "ok": True, "said": doctor.system(), "seconds": 0.0}
    assert (second["ok"], second["said"]) == (False, "full up")


def fails(error: BaseException) -> Callable[..., str]:
    def look(*_: object) -> str:
        raise error

    return look


@pytest.mark.parametrize(
    ("errors", "code", "last"),
    [
        ([InputError("a")], 2, "1 of 2 checks failed: c0"),
        ([WeightsError("a"), InputError("b")], 3, "2 of 3 checks failed: c0, c1"),
        ([ResourceError("a"), WeightsError("b")], 4, "2 of 3 checks failed: c0, c1"),
        ([ModuleNotFoundError("No module named 'kornia'")], 2, "1 of 2 checks failed: c0"),
        ([torch.OutOfMemoryError("CUDA out of memory")], 4, "out of memory"),
        ([InputError("a"), KeyboardInterrupt()], 130, "interrupted"),
    ],
)
def test_the_exit_code_is_that_of_the_first_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, errors: list[BaseException], code: int,
    last: str,
) -> None:  # fmt: skip
    checks = [Check(f"c{number}", fails(error)) for number, error in enumerate(errors)]
    only(monkeypatch, *checks, Check("after", lambda: "made"))
    assert cli.main(["doctor"]) == code
    shown = capsys.readouterr()
    assert last in shown.err.splitlines()[-1]
    assert [line[:2] for line in shown.out.splitlines()] == ["no", "no", "ok"][2 - len(errors) :] or code == 130


def test_what_nobody_foresaw_stops_no_other_check_and_is_raised_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, Check("a", fails(InputError("x"))), Check("b", fails(KeyError("y"))), Check("c", lambda: "z"))
    with pytest.raises(KeyError, match="y"):
        cli.main(["doctor"])
    assert [line.split(" (")[0].split() for line in capsys.readouterr().out.splitlines()] == [
        ["no", "a", "x"], ["no", "b", "KeyError:", "'y'"], ["ok", "c", "z"],
    ]  # fmt: skip


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_packages_are_those_of_requirements_and_of_the_project() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("# tests and checks")[0]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", text, flags=re.MULTILINE))
    assert pins == {name: tested for name, (tested, _) in doctor.PACKAGES.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {}
    for each in project["dependencies"]:
        name, _, allowed = re.fullmatch(r"([\w-]+)(\[\w+\])?(.*)", each).groups()
        ranges[plain(name)] = allowed
    known = {plain(name): allowed for name, (_, allowed) in doctor.PACKAGES.items()}
    assert {name: known[name] for name in ranges} == ranges
    assert all(not allowed for name, allowed in known.items() if name not in ranges)


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("torch", "2.12.1+cu130", "24 as tested"),
        ("torch", "2.11.0", "work, others were tested: torch 2.11.0 (2.12.1)"),
        ("torch", "2.10.0", "torch is 2.10.0 (>=2.11,<3); `pip install"),
        ("kornia", "0.10.0", "kornia is 0.10.0 (>=0.9,<0.10)"),
        ("kornia", None, "kornia is missing (0.9.0)"),
    ],
)
def test_packages_other_than_tested(monkeypatch: pytest.MonkeyPatch, name: str, found: str | None, said: str) -> None:
    def version(asked: str) -> str:
        if asked == name and found is None:
            raise doctor.PackageNotFoundError(asked)
        return str(found) if asked == name else doctor.PACKAGES[asked][0]

    monkeypatch.setattr(doctor, "version", version)
    if found is None or " is " in said:
        with pytest.raises(InputError, match=re.escape(said)):
            doctor.packages()
    else:
        assert doctor.packages() == said.replace("24", str(len(doctor.PACKAGES)))


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_accelerator")
def test_the_cpu_is_taken_for_a_reason(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert doctor.device(place) == "cpu: this torch is built without CUDA, no MPS (Apple's)"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert doctor.device(place) == "cpu: no CUDA device is found, no MPS (Apple's)"
    driver = place / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version")
    with pytest.raises(InputError, match="an NVIDIA driver is here, but no CUDA device is found; install"):
        doctor.device(place)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor.device(place).startswith("cpu: CUDA_VISIBLE_DEVICES is '', ")


@pytest.mark.parametrize(("total", "said"), [(None, "no kernel image"), (511.0, "computes 8x8x8 = 511")])
def test_an_accelerator_that_cannot_compute_is_found(
    monkeypatch: pytest.MonkeyPatch, total: float | None, said: str
) -> None:
    def ones(*shape: int, device: torch.device) -> torch.Tensor:
        assert device.type == "cuda"
        if total is None:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return torch.full(shape, (total / 512) ** 0.5)

    monkeypatch.setattr("vqclip.run.device.pick_device", lambda _wanted: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "A Card")
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(InputError, match=rf"cuda \(A Card\).*{said}.*device=cpu does without"):
        doctor.device()


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqclip.run.memory.available", lambda _device: 300_000_000)
    with pytest.raises(ResourceError, match=r"0.3 GB free in RAM; the starter models take 1.0 GB"):
        doctor.memory()
    monkeypatch.setattr("vqclip.run.memory.available", lambda _device: None)
    assert doctor.memory() == "this system does not say how much is free"


def test_an_encoder_that_does_not_encode(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = place / "ffmpeg"
    program.write_text("#!/bin/sh\necho Unknown encoder >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(InputError, match="Unknown encoder; `pip install imageio-ffmpeg`"):
        doctor.encoder()


def test_a_store_that_cannot_be_written_or_is_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.weight_store().startswith(f"{store.home()}, ")
    (place / "file").write_text("")
    monkeypatch.setenv("VQCLIP_HOME", str(place / "file" / "store"))
    with pytest.raises(ResourceError, match="file/store cannot be written .*; set VQCLIP_HOME"):
        doctor.weight_store()
    monkeypatch.setenv("VQCLIP_HOME", str(place / "not" / "yet"))
    monkeypatch.setenv("VQCLIP_OFFLINE", "1")
    assert doctor.weight_store().endswith("offline: nothing is fetched")
    assert not (place / "not").exists()
    usage = namedtuple("usage", "free")(10**7)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ResourceError, match="not/yet has 10 MB left"):
        doctor.weight_store()


def test_what_of_the_catalogue_is_here() -> None:
    count = len(catalogue.entries())
    assert doctor.cached() == f"here: none, {count} that `vqclip models get NAME` fetches"
    unsized, sized = catalogue.entry("imagenet_f16_1024"), catalogue.entry("ViT-B/32")
    for entry in (unsized, sized):
        store.path_of(entry).parent.mkdir(parents=True, exist_ok=True)
    store.path_of(unsized).write_bytes(b"weights")
    store.path_of(sized).with_name(f"{sized.file}.part").write_bytes(b"half")
    assert doctor.cached().startswith("here: imagenet_f16_1024, begun: ViT-B/32, ")
    store.path_of(sized).write_bytes(b"half")
    with pytest.raises(WeightsError, match="damaged: ViT-B/32; `vqclip models get ViT-B/32` fetches anew"):
        doctor.cached()


def test_what_of_the_big_pipelines_is_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.diffusion().startswith("Kandinsky 2.2: nothing of it is here; Stable Diffusion 1.5: no ")
    repository, _, commit = kandinsky_files.HUB["prior"].partition("@")
    snapshot = place / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    tiny_prior().save_pretrained(snapshot)
    weights = place / "elsewhere" / "weights"
    weights.mkdir(parents=True)
    (weights / "v1-5-pruned-emaonly.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(place / "elsewhere")
    assert doctor.diffusion() == (
        "Kandinsky 2.2: prior of it is here; Stable Diffusion 1.5: weights/v1-5-pruned-emaonly.safetensors is here"
    )
    next(snapshot.glob("prior/*.safetensors")).unlink()  # no longer whole
    assert "nothing of it" in doctor.diffusion()


def test_a_starter_run_that_fails_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqclip.judge.judge.Judge.judge", fails(InputError("no picture")))
    with pytest.raises(InputError, match="no picture"):  # and the fixture looks at the folders
        doctor.starter()


def test_the_tests_that_stand_for_what_was_never_run_exist() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text.partition("## What was never run")[2])
    assert len(named) >= 9
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


def test_the_document_names_every_check() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8").partition("## What was never run")[0]
    rows = [name for row in re.findall(r"^\| ([^|]+) \|", text, flags=re.MULTILINE) for name in row.split(", ")]
    names = [each.name for each in [*doctor.checks(), *Rehearsal(lambda _entry: nullcontext()).checks()]]
    assert sorted(rows) == sorted([*names, "check", "check", "---", "---"])
    assert max(map(len, names)) <= cli_doctor._WIDTH
