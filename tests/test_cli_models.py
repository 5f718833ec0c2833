"""The models commands: tables, fetching with and without progress, exit codes, and a quick --help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from file_server import Server, only_this_machine, serve, sha256, status, weights_like

from vqclip.cli import main as cli
from vqclip.cli import models as cli_models
from vqclip.weights import catalogue, store
from vqclip.weights.catalogue import Entry

DATA = weights_like(2**20)


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A catalogue of two models on a server of this machine, an empty store, and the group in the command."""
    for name in ("VQCLIP_OFFLINE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path / "store"))
    monkeypatch.setitem(cli.commands.commands, "models", cli_models.models)
    with only_this_machine() as made:
        rows = [
            Entry("a/known", "clip", "a.pt", len(DATA), sha256(DATA), (made.offers("/a", serve(DATA)),), "MIT", "one"),
            Entry("b_unknown", "vqgan", "b.ckpt", None, None, (made.offers("/b", serve(DATA)),), "unstated", "two"),
        ]
        known: Mapping[str, Entry] = MappingProxyType({row.name: row for row in rows})
        monkeypatch.setattr(catalogue, "entries", lambda: known)
        yield made


def test_list_shows_every_model_and_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "list"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "kind", "size", "licence", "state", "what", "it", "is"]
    assert first.split() == ["a/known", "clip", "1", "MB", "MIT", "-", "one"]
    assert second.split() == ["b_unknown", "vqgan", "?", "unstated", "-", "two"]
    assert not store.home().exists()
    cli.main(["models", "get", "a/known"])
    capsys.readouterr()
    cli.main(["models", "list"])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a/known", "clip", "1", "MB", "MIT", "here", "one"]


def test_get_prints_the_path_and_notes_size_and_licence(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    assert cli.main(["models", "get", "A-Known", "b_unknown"]) == 0
    shown = capsys.readouterr()
    paths = [Path(line) for line in shown.out.splitlines()]
    assert [path.read_bytes() for path in paths] == [DATA, DATA]
    assert "vqclip: a/known: 1 MB, licence: MIT\n" in shown.err
    assert "vqclip: a/known: 1 MB, 100 %\n" in shown.err
    assert "b_unknown: its publisher names no SHA-256" in shown.err
    cli.main(["models", "get", "a/known", "b_unknown"])
    assert "no SHA-256" not in capsys.readouterr().err  # it is pinned now
    assert len(server.requests) == 2


def test_plain_progress_is_a_line_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    told = cli_models._lines(catalogue.entries()["a/known"])
    for done in range(0, 1_000_001, 1000):
        told(done, 1_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[5] == "vqclip: a/known: 0 MB, 50 %"


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["models", "get", "a/known"]) == 0
    shown = capsys.readouterr()
    assert Path(shown.out.strip()).read_bytes() == DATA
    assert "\x1b[" in shown.err
    assert "100 %" not in shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "a-knwon"], 2, "there is no model 'a-knwon'; did you mean a/known"),
        (["get", "\x1b[31mzz"], 2, "`vqclip models list` shows all names"),
        (["get"], 2, "Missing argument 'NAME...'"),
        (["path", "zzzzzz"], 2, "there is no model"),
        (["nothing"], 2, "No such command"),
        (["get", "--offline", "a/known"], 3, "run `vqclip models get a/known`"),
        (["path", "a/known"], 3, "run `vqclip models get a/known`"),
        (["verify", "a/known"], 3, "missing or damaged: a/known"),
        (["convert", "nowhere.ckpt"], 3, "nowhere.ckpt: no such file"),
    ],
)
def test_errors_are_one_line_with_their_code(
    capsys: pytest.CaptureFixture[str], server: Server, arguments: list[str], code: int, message: str
) -> None:
    assert cli.main(["models", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.splitlines()[-1]
    assert last.startswith("vqclip: error: ") and message in last and last.isprintable()
    assert server.requests == []


def test_one_unknown_name_fetches_nothing(server: Server) -> None:
    assert cli.main(["models", "get", "a/known", "no such"]) == 2
    assert server.requests == []


def test_a_fetch_that_fails_ends_with_3(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    server.offers("/a", status(404))
    assert cli.main(["models", "get", "a/known"]) == 3
    assert "127.0.0.1: HTTP 404" in capsys.readouterr().err


def test_a_full_disk_ends_with_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqclip.weights.part.RESERVE", 2**62)
    assert cli.main(["models", "get", "a/known"]) == 4
    assert "set VQCLIP_HOME" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "locate", interrupted)
    assert cli.main(["models", "get", "a/known"]) == 130


def test_verify_and_path_tell_good_from_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "verify"]) == 0
    assert "0 files checked" in capsys.readouterr().err
    cli.main(["models", "get", "a/known", "b_unknown"])
    paths = capsys.readouterr().out.splitlines()
    assert cli.main(["models", "verify"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"a/known: good, {paths[0]}", f"b_unknown: good, {paths[1]}"]
    assert cli.main(["models", "path", "b_unknown"]) == 0
    assert capsys.readouterr().out.strip() == paths[1]

    Path(paths[1]).write_bytes(DATA[:-1] + b"?")
    assert cli.main(["models", "verify"]) == 3
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"a/known: good, {paths[0]}"]
    assert "missing or damaged: b_unknown" in shown.err
    assert cli.main(["models", "path", "b_unknown"]) == 3
    assert cli.main(["models", "get", "b_unknown"]) == 0  # fetched again
    assert cli.main(["models", "verify"]) == 0


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A converter that remembers what it was given."""
    calls: list[Any] = []

    def convert(source: Path, target: Path, *, provenance: Mapping[str, str]) -> Path:
        calls.append((source, target, dict(provenance)))
        return target

    double: Any = ModuleType("vqclip.weights.convert")
    double.convert = convert
    monkeypatch.setitem(sys.modules, "vqclip.weights.convert", double)
    return calls


def test_convert_knows_the_provenance_by_content(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, converter: list[Any]
) -> None:
    source = tmp_path / "renamed.ckpt"
    source.write_bytes(DATA)
    assert cli.main(["models", "convert", str(source)]) == 0
    target = tmp_path / "renamed.safetensors"
    assert capsys.readouterr().out.strip() == str(target)
    url = catalogue.entries()["a/known"].urls[0]
    assert converter == [(source, target, {"model": "a/known", "licence": "MIT", "url": url})]
    source.write_bytes(b"mine")
    assert cli.main(["models", "convert", str(source), "--output", str(tmp_path / "x")]) == 0
    assert converter[1] == (source, tmp_path / "x", {})


def test_convert_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, converter: list[Any]) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(DATA)
    assert cli.main(["models", "convert", str(source)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert converter == []


def test_help_is_quick() -> None:
    heavy = {"torch", "urllib.request", "yaml", "rich", "filelock", "platformdirs"}
    script = f"""
import sys
from vqclip.cli import models as cli_models
cli_models.models.main(["get", "--help"], standalone_mode=False)
print({heavy!r} & set(sys.modules))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
