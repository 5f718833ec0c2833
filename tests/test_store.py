"""Where weights are found: the store, other programs' caches, pins, offline switches, and processes side by side."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest
from file_server import Server, serve, sha256, status, weights_like

from vqclip.job import ResourceError, WeightsError
from vqclip.weights import store
from vqclip.weights.catalogue import Entry, Kind

DATA = weights_like(2**21)
OTHER = weights_like(2**21, seed=1)
VARIABLES = (
    "VQCLIP_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME", "CLIP_HOME", "HF_HOME", "HF_HUB_CACHE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a home directory of its own."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path / "store"))
    return tmp_path


def model(
    url: str = "https://nowhere.invalid/ViT-B-32.pt",
    *,
    digest: str | None = sha256(DATA),
    size: int | None = len(DATA),
    kind: Kind = "clip",
) -> Entry:
    return Entry("ViT-B/32", kind, "ViT-B-32.pt", size, digest, (url,), "MIT", "a model")


def put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_file_is_fetched_once_and_found_after(server: Server, place: Path) -> None:
    entry = model(server.offers("/a", serve(DATA)))
    assert store.status(entry) == store.Status("missing")
    path = store.locate(entry)
    assert path == place / "store" / "weights" / "ViT-B-32.pt"
    assert path.read_bytes() == DATA
    assert store.locate(entry) == store.find(entry) == path
    assert store.status(entry) == store.Status("here", path)
    assert len(server.requests) == 1


def test_without_a_setting_the_store_is_in_the_users_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VQCLIP_HOME")
    assert store.home().is_relative_to(place / "user")
    assert store.home().name == "vqclip"
    assert not store.home().exists()  # asking makes nothing
    monkeypatch.setenv("VQCLIP_HOME", "~/elsewhere")
    assert store.home() == place / "user" / "elsewhere"


@pytest.mark.parametrize("switch", ["argument", "VQCLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fetches_nothing_and_says_what_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    entry = model(server.offers("/a", serve(DATA)))
    if switch != "argument":
        monkeypatch.setenv(switch, "1")
    with pytest.raises(WeightsError, match=r"offline; run `vqclip models get ViT-B/32`") as caught:
        store.locate(entry, offline=switch == "argument")
    assert str(store.path_of(entry)) in str(caught.value)
    assert server.requests == []
    put(store.path_of(entry))
    assert store.locate(entry, offline=switch == "argument") == store.path_of(entry)


@pytest.mark.parametrize(
    ("value", "expected"), [("0", False), ("", False), ("false", False), ("TRUE", True), ("on", True)]
)
def test_switches_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("VQCLIP_OFFLINE", value)
    assert store.is_offline() is expected


SHARED = {
    "openai-clip": ("user/.cache/clip/ViT-B-32.pt", {}),
    "torch.hub": ("user/.cache/torch/hub/checkpoints/ViT-B-32.pt", {}),
    "torch.hub elsewhere": ("th/hub/checkpoints/ViT-B-32.pt", {"TORCH_HOME": "th"}),
    "torch.hub by cache": ("xdg/torch/hub/checkpoints/ViT-B-32.pt", {"XDG_CACHE_HOME": "xdg"}),
    "hub": (f"user/.cache/huggingface/hub/models--a--b/blobs/{sha256(DATA)}", {}),
    "hub elsewhere": (f"hf/hub/models--a--b/blobs/{sha256(DATA)}", {"HF_HOME": "hf"}),
    "hub cache": (f"hc/models--a--b/blobs/{sha256(DATA)}", {"HF_HUB_CACHE": "hc"}),
}


@pytest.mark.parametrize("where", SHARED)
def test_what_other_programs_have_is_not_fetched_again(
    server: Server, place: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    name, settings = SHARED[where]
    for key, value in settings.items():
        monkeypatch.setenv(key, str(place / value))
    path = put(place / name)
    entry = model(server.offers("/a", serve(DATA)))
    assert store.status(entry) == store.Status("shared", path)
    assert store.locate(entry) == path
    assert server.requests == []
    assert not store.home().exists()  # and nothing is copied


def test_a_hub_file_goes_by_its_name(place: Path) -> None:
    blob = put(place / f"user/.cache/huggingface/hub/models--a--b/blobs/{sha256(DATA)}")
    link = blob.parent.parent / "snapshots" / ("0" * 40) / "weights" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert store.find(model(kind="open_clip")) == link


@pytest.mark.parametrize("data", [OTHER, DATA[:-1], b""], ids=["other bytes", "cut", "empty"])
def test_a_wrong_file_of_another_program_is_passed_over(server: Server, place: Path, data: bytes) -> None:
    theirs = put(place / "user/.cache/clip/ViT-B-32.pt", data)
    entry = model(server.offers("/a", serve(DATA)))
    assert store.locate(entry) == store.path_of(entry)
    assert theirs.read_bytes() == data


def test_only_clips_are_looked_for_among_clips(place: Path) -> None:
    put(place / "user/.cache/clip/ViT-B-32.pt")
    assert store.find(model(kind="vqgan")) is None


def test_an_unknown_hash_is_looked_for_nowhere_else(place: Path) -> None:
    put(place / "user/.cache/clip/ViT-B-32.pt", OTHER)
    assert store.find(model(digest=None)) is None


@pytest.mark.parametrize("data", [OTHER, DATA[:-1], b""], ids=["other bytes", "cut", "empty"])
def test_a_damaged_file_is_refused_and_renewed_only_when_asked(server: Server, data: bytes) -> None:
    entry = model(server.offers("/a", serve(DATA)))
    own = put(store.path_of(entry), data)
    for ask in (store.find, store.locate):
        with pytest.raises(WeightsError, match=r"SHA-256 is .* is expected; `vqclip models get ViT-B/32`") as caught:
            ask(entry)
        assert str(own) in str(caught.value)
    assert own.read_bytes() == data
    assert server.requests == []
    assert store.status(entry).state == ("here" if len(data) == len(DATA) else "damaged")
    assert store.locate(entry, renew=True).read_bytes() == DATA


def test_a_good_file_is_not_renewed(server: Server) -> None:
    entry = model(server.offers("/a", serve(DATA)))
    put(store.path_of(entry))
    store.locate(entry, renew=True)
    assert server.requests == []


def test_the_first_hash_is_pinned_and_demanded_after(server: Server, place: Path) -> None:
    entry = model(server.offers("/a", serve(DATA), serve(OTHER)), digest=None, size=None)
    own = store.locate(entry)
    assert json.loads((place / "store" / "pins.json").read_text()) == {"ViT-B/32": sha256(DATA)}
    assert store.expected(entry) == sha256(DATA)
    own.write_bytes(OTHER)
    with pytest.raises(WeightsError, match=r"pinned in .*pins.json"):
        store.locate(entry)
    own.unlink()
    with pytest.raises(WeightsError, match="could not be fetched"):  # the publisher changed it
        store.locate(entry)
    assert not own.exists()
    assert store.expected(entry) == sha256(DATA)


def test_a_file_put_there_by_hand_is_pinned(server: Server) -> None:
    entry = model(server.offers("/a", serve(DATA)), digest=None, size=None)
    put(store.path_of(entry), OTHER)
    assert store.locate(entry) == store.path_of(entry)
    assert store.expected(entry) == sha256(OTHER)
    assert server.requests == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "\xff"])
def test_damaged_pins_pin_nothing_anew(server: Server, text: str) -> None:
    entry = model(server.offers("/a", serve(OTHER)), digest=None, size=None)
    put(store.home() / "pins.json", text.encode("latin-1"))
    with pytest.raises(WeightsError, match="pins.json: .*; delete it"):
        store.locate(entry)
    assert not store.path_of(entry).exists()


def test_the_catalogue_outranks_a_pin() -> None:
    put(store.home() / "pins.json", json.dumps({"ViT-B/32": sha256(OTHER)}).encode())
    assert store.expected(model()) == sha256(DATA)


def test_a_begun_download_shows_and_goes_on(server: Server) -> None:
    entry = model(server.offers("/a", serve(DATA, stop_at=len(DATA) * 9 // 10), status(404)))
    with pytest.raises(WeightsError, match="MB are kept"):
        store.locate(entry)
    assert store.status(entry) == store.Status("partial")
    again = model(server.offers("/b", serve(DATA)))
    assert store.locate(again).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_progress_is_told(server: Server) -> None:
    seen: list[tuple[int, int | None]] = []
    store.locate(model(server.offers("/a", serve(DATA))), on_progress=lambda *told: seen.append(told))
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_store_that_cannot_be_made_is_said(server: Server, place: Path) -> None:
    (place / "store").write_text("a file")
    with pytest.raises(ResourceError, match="VQCLIP_HOME"):
        store.locate(model(server.offers("/a", serve(DATA))))
    assert server.requests == []


def test_processes_fetch_once_and_a_killed_one_is_gone_on_with(server: Server) -> None:
    """One is killed at 95 %; two more start at once: one takes the rest, the other waits for it."""
    at = len(DATA) * 95 // 100
    entry = model(server.offers("/a", serve(DATA, stop_at=at, then="stall"), serve(DATA)))
    fork = multiprocessing.get_context("fork")  # a fresh interpreter would only import for longer
    killed, *others = [fork.Process(target=store.locate, args=(entry,)) for _ in range(3)]
    killed.start()
    part = store.path_of(entry).with_name("ViT-B-32.pt.part")
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size == at) and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in others:
        each.start()
    time.sleep(0.2)
    assert len(server.requests) == 1  # the others wait for the lock
    killed.kill()
    for each in (killed, *others):
        each.join(20)
    assert [each.exitcode for each in (killed, *others)] == [-signal.SIGKILL, 0, 0]
    assert store.path_of(entry).read_bytes() == DATA
    assert not part.exists()
    assert len(server.requests) == 2
    assert server.sent == len(DATA)
