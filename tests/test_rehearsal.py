"""The rehearsal with published weights, with forged ones from a server of this machine: what fits and what does not.

The files have their true formats. They are tiny, and the facts with them; with VQCLIP_SOAK above 1 also of full size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import forge_published as forge
import pytest
import torch
from file_server import Behaviour, Server, only_this_machine, serve, sha256, status
from test_full_size import VIT_B_32

from vqclip.cli import main as cli
from vqclip.generators import vqgan
from vqclip.perceptors import clip
from vqclip.run import doctor, rehearsal
from vqclip.run.rehearsal import CLIP, KNOWN, VQGAN
from vqclip.weights import catalogue, store
from vqclip.weights.catalogue import Entry

SIZES = ["tiny", "full"] if int(os.environ.get("VQCLIP_SOAK", "1")) > 1 else ["tiny"]
NAMES = [
    "tokens", "CLIP file", "CLIP shape", "CLIP captions", "VQGAN file", "VQGAN shape", "VQGAN likeness", "steps",
]  # fmt: skip
Files = Mapping[str, bytes]


def forged(size: str, folder: Path, *, good: bool) -> Files:
    shapes = (forge.TINY_CLIP, forge.TINY_VQGAN) if size == "tiny" else (VIT_B_32, KNOWN.vqgan)
    return {
        CLIP: clip_file(folder, forge.clip_state(shapes[0], seeing=good), shapes[0]),
        VQGAN: vqgan_file(folder, forge.vqgan_state(shapes[1], carrying=good)),
    }


def clip_file(folder: Path, state: dict[str, torch.Tensor], shape: tuple[int, ...] = forge.TINY_CLIP) -> bytes:
    return forge.write_clip(folder / "clip.pt", shape, state).read_bytes()


def vqgan_file(folder: Path, state: dict[str, torch.Tensor]) -> bytes:
    return forge.write_vqgan(folder / "vqgan.ckpt", state).read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return forged("tiny", tmp_path_factory.mktemp("good"), good=True)


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server, no way to another, an empty store; the facts are those of the tiny files, the machine is not looked at.

    One core, because tiny models gain nothing from two, and pictures of 64 pixels.
    """
    for name in ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0}, raising=False)
    monkeypatch.setattr(doctor, "checks", lambda: [])
    monkeypatch.setattr(rehearsal, "SIDE", 64)
    monkeypatch.setattr(rehearsal, "CROPS", 2)
    tiny = clip.infer_arguments(forge.clip_state(forge.TINY_CLIP))
    monkeypatch.setattr(rehearsal, "KNOWN", rehearsal.Known(tiny, forge.TINY_VQGAN))
    monkeypatch.setattr(rehearsal, "LIKENESS", 0.35)  # of 4x4 cells
    with only_this_machine() as made:
        yield made


def publish(
    monkeypatch: pytest.MonkeyPatch, server: Server, files: Files, **behaviours: tuple[Behaviour, ...]
) -> dict[str, Entry]:
    """The catalogue with other addresses, sizes and hashes; `behaviours` of the server by kind, else it is good."""
    entries = dict(catalogue.entries())
    for name, data in files.items():
        kind = entries[name].kind
        url = server.offers(f"/{kind}", *behaviours.get(kind, (serve(data),)))
        entries[name] = replace(entries[name], urls=(url,), size=len(data), sha256=sha256(data))
    known: Mapping[str, Entry] = MappingProxyType(entries)
    monkeypatch.setattr(catalogue, "entries", lambda: known)
    return entries


def rehearse(capsys: pytest.CaptureFixture[str], *, code: int) -> dict[str, str]:
    """The line of each check after its name, from "ok" or "no" to its seconds."""
    assert cli.main(["doctor", "--weights", "small"]) == code
    shown = capsys.readouterr()
    lines = {line[4:18].strip(): f"{line[:2]} {line[18:].strip()}" for line in shown.out.splitlines()}
    assert list(lines) == NAMES
    assert ("checks failed" in shown.err) == (code != 0)
    return lines


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what comes before the steps."""
    monkeypatch.setattr(rehearsal.Rehearsal, "_steps", lambda _self: "left out")


def bad(lines: Mapping[str, str]) -> list[str]:
    return [name for name, line in lines.items() if line.startswith("no ")]


@pytest.mark.parametrize("size", SIZES)
def test_files_that_hold_what_is_known_of_them_pass(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    files = forged(size, tmp_path, good=True)
    if size == "full":
        monkeypatch.setattr(rehearsal, "KNOWN", KNOWN)
        monkeypatch.setattr(rehearsal, "LIKENESS", 0.5)
        monkeypatch.setattr(rehearsal, "SIDE", 224)
        monkeypatch.setattr(rehearsal, "CROPS", 4)
    publish(monkeypatch, server, files)
    lines = rehearse(capsys, code=0)
    assert bad(lines) == []
    assert f", fetched, SHA-256 {sha256(files[CLIP])[:12]}... as published" in lines["CLIP file"]
    assert lines["CLIP captions"].startswith("ok a yellow smiley face 0.30")
    assert lines["steps"].startswith("ok 20 steps at ")
    (run,) = (tmp_path / "outputs").iterdir()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 21
    assert f"outputs/{run.name}/final.png" in lines["steps"]
    assert len(server.requests) == 2

    monkeypatch.setattr(rehearsal.Rehearsal, "_steps", lambda _self: "left out")
    monkeypatch.setenv("VQCLIP_OFFLINE", "1")  # they are here now
    again = rehearse(capsys, code=0)
    assert ", was here, " in again["CLIP file"] and ", was here, " in again["VQGAN file"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("size", SIZES)
def test_random_weights_of_the_right_shape_are_found_out(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """They load and run like the published ones; only what they see and draw tells them apart."""
    if size == "full":
        monkeypatch.setattr(rehearsal, "KNOWN", KNOWN)
    monkeypatch.setattr(rehearsal, "STEPS", 10)
    publish(monkeypatch, server, forged(size, tmp_path, good=False))
    lines = rehearse(capsys, code=3)
    assert {"CLIP captions", "VQGAN likeness"} <= set(bad(lines)) <= {"CLIP captions", "VQGAN likeness", "steps"}
    assert "cosine is not in" in lines["CLIP captions"] or "is not first" in lines["CLIP captions"]
    assert "at least is expected" in lines["VQGAN likeness"]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("other bytes", "SHA-256"),
        ("cut", "the connection was cut"),
        ("gone", "HTTP 404"),
    ],
)
def test_a_clip_that_cannot_be_fetched_stops_what_needs_it_and_no_more(
    behaviour: str, said: str, *, good: Files, monkeypatch: pytest.MonkeyPatch, server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = good[CLIP]
    answers = {
        "other bytes": serve(data[:-1] + bytes([data[-1] ^ 1])), "cut": serve(data, stop_at=1000), "gone": status(404),
    }  # fmt: skip
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("vqclip.weights.fetch._LONGEST_WAIT", 0.0)
    publish(monkeypatch, server, good, clip=(answers[behaviour],))
    lines = rehearse(capsys, code=3)
    assert bad(lines) == ["CLIP file", "CLIP shape", "CLIP captions", "steps"]
    assert said in lines["CLIP file"]
    assert lines["steps"].startswith(f"no not tried: there is no {CLIP}, see above")
    assert not store.path_of(catalogue.entry(CLIP)).exists()


def test_offline_nothing_is_asked_for(
    good: Files, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, server, good)
    monkeypatch.setenv("VQCLIP_OFFLINE", "1")
    lines = rehearse(capsys, code=3)
    assert bad(lines) == NAMES[1:]
    assert f"run `vqclip models get {CLIP}` with a connection" in lines["CLIP file"]
    assert server.requests == []


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_file_of_the_store_is_fetched_again(
    good: Files, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    place = store.path_of(publish(monkeypatch, server, good)[VQGAN])
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(len(good[VQGAN])))
    lines = rehearse(capsys, code=0)
    assert ", fetched, " in lines["VQGAN file"]
    assert place.read_bytes() == good[VQGAN]


def test_another_architecture_is_named_and_still_tried(
    tmp_path: Path, good: Files, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rehearsal, "STEPS", 10)
    shape = (32, 64, *forge.TINY_CLIP[2:])
    other = clip_file(tmp_path, forge.clip_state(shape, seeing=True), shape)
    publish(monkeypatch, server, {**good, CLIP: other})
    lines = rehearse(capsys, code=3)
    assert bad(lines) == ["CLIP shape"]
    assert "another architecture, image_resolution is 64; 32 is expected" in lines["CLIP shape"]


def test_another_model_in_place_of_a_clip(
    good: Files, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, server, {**good, CLIP: good[VQGAN]})
    lines = rehearse(capsys, code=3)
    assert bad(lines) == ["CLIP shape", "CLIP captions", "steps"]
    assert "not a CLIP of OpenAI's layout" in lines["CLIP shape"]


@pytest.mark.parametrize("kind", ["clip", "vqgan"])
def test_weights_that_are_not_finite_are_found(
    kind: str, tmp_path: Path, *, good: Files, monkeypatch: pytest.MonkeyPatch, server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rehearsal, "STEPS", 10)
    if kind == "clip":
        state = forge.clip_state(forge.TINY_CLIP, seeing=True)
        state["visual.conv1.weight"][0, 0, 0, 0] = float("nan")
        changed, key = {CLIP: clip_file(tmp_path, state)}, "visual.conv1.weight"
    else:
        state = forge.vqgan_state(forge.TINY_VQGAN, carrying=True)
        state["decoder.conv_in.weight"][0, 0, 0, 0] = float("inf")
        changed, key = {VQGAN: vqgan_file(tmp_path, state)}, "decoder.conv_in.weight"
    publish(monkeypatch, server, {**good, **changed})
    lines = rehearse(capsys, code=3)
    names = ["CLIP shape", "CLIP captions"] if kind == "clip" else ["VQGAN shape", "VQGAN likeness"]
    assert bad(lines) == [*names, "steps"]
    assert key in lines[names[0]] and key in lines[names[1]]


@pytest.mark.usefixtures("undrawn")
def test_a_logit_scale_that_no_training_ended_with(
    tmp_path: Path, good: Files, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    state = forge.clip_state(forge.TINY_CLIP, seeing=True) | {"logit_scale": torch.tensor(2.0)}
    publish(monkeypatch, server, {**good, CLIP: clip_file(tmp_path, state)})
    assert "logit scale is 7.4; about 100 is expected" in rehearse(capsys, code=3)["CLIP shape"]


def test_another_tokenizer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rehearsal.tokens() == "6 texts as expected"
    monkeypatch.setattr(clip, "token_ids", lambda text: [320, *map(ord, text)])
    with pytest.raises(rehearsal.InputError, match="'a diagram' is read as .*, not \\[320, 22697\\]"):
        rehearsal.tokens()


def test_the_files_are_the_smallest_whose_bytes_are_known() -> None:
    known = [each for each in catalogue.entries().values() if each.size and each.sha256]
    assert min((each for each in known if each.kind == "vqgan"), key=lambda each: each.size).name == VQGAN
    assert catalogue.entry(CLIP).kind == "clip" and catalogue.entry(CLIP) in known


def test_what_is_known_builds_the_networks_that_were_published() -> None:
    """151,277,313 parameters are those that OpenAI prints for ViT-B/32; f16 with 1024 codes has 72.1 million."""
    with torch.device("meta"):
        whole = clip.CLIP(**KNOWN.clip)
        network = vqgan.VQModel(KNOWN.vqgan)
    assert sum(each.numel() for each in whole.parameters()) == 151_277_313
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(72.1e6, rel=0.001)
    assert clip.infer_arguments(whole.state_dict()) == KNOWN.clip


def test_the_drawing_is_a_smiley() -> None:
    picture = rehearsal.drawing(224)
    assert picture.shape == (1, 3, 224, 224)
    yellow, black = (1, 0.867, 0.2), (0, 0, 0)
    for (x, y), colour in {(5, 5): (1, 1, 1), (112, 70): yellow, (84, 90): black, (112, 157): black}.items():
        assert picture[0, :, y, x].tolist() == pytest.approx(colour, abs=0.01)
