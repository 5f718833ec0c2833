"""The command line: exit codes, one line per error, overrides told from files, and a quick --help."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vqclip import __version__
from vqclip.cli import main as cli
from vqclip.config import Loaded, load
from vqclip.job import InputError, Prompt, ResourceError, WeightsError


class StoppedError(Exception):
    """Stands for vqclip.run.Interrupted in the double below."""

    def __init__(self, folder: Path | None, number: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted; the result so far is in {folder}")
        self.folder, self.number = folder, number


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A vqclip.run that remembers its arguments, so that no model is loaded here."""
    double: Any = ModuleType("vqclip.run.picture")
    double.calls = []
    double.Interrupted = StoppedError
    double.run = lambda loaded, progress: double.calls.append((loaded, progress)) or []
    double.rerun = lambda picture, overrides, _progress, **how: double.calls.append((picture, overrides, how)) or []
    monkeypatch.setitem(sys.modules, "vqclip.run.picture", double)
    monkeypatch.setattr("vqclip.run.picture", double, raising=False)
    return double


def fails(runner: Any, problem: BaseException) -> None:
    def run(_loaded: Loaded, _progress: object) -> None:
        raise problem

    runner.run = run


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.rstrip("\n").isprintable()
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "error: default: include: no prompt"),
        (["run", "nowhere.yaml"], "error: nowhere.yaml: cannot be read"),
        (["run", "include=a", "steps=-1"], "error: override: steps: got -1; a whole number from 0 to 100000"),
        (["run", "include=a", "stpes=1"], "did you mean 'steps'?"),
        (["run", "include= "], "the prompt is empty"),
        (["run", "a.yaml", "b.yaml"], "two config files"),
        (["run", "."], "not a file"),
        (["run", "include=a\x1b[31m", "size=1\n2"], "size: got"),
        (["run", "--progress", "loud", "include=a"], "Invalid value for '--progress'"),
        (["run", "--nope"], "No such option"),
        (["config", "include=a", "x\ud800=1"], "unknown key 'x\\ud800'"),
        (["config"], "no prompt"),
        (["run", "include=a", "red", "apple"], "a value with spaces needs quotes, as in 'include=a red'"),
        (["run", "include=[a red apple"], "include: '[a red apple' begins like a list or a mapping and is none"),
        (["run", "include=a | "], "some words are needed on each side of |"),
        (["run", "include=a:-1"], "include.weight: got -1"),
        (["rerun"], "Missing argument 'PICTURE'"),
        (["video"], "Missing argument 'RUN_FOLDER'"),
        (["video", ".", "--seconds", "nan"], "a finite number is needed"),
        (["video", ".", "--seconds", "inf"], "Invalid value for '--seconds'"),
        (["video", ".", "--fps", "0"], "Invalid value for '--fps'"),
        (["video", ".", "--format", "avi"], "Invalid value for '--format'"),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], runner: ModuleType
) -> None:
    assert cli.main(arguments) == 2
    line = error_line(capsys)
    assert line.startswith("vqclip: error: ")
    assert message in line
    assert not runner.calls


@pytest.mark.parametrize(
    ("problem", "code", "message"),
    [
        (InputError("guide.safetensors: no such file"), 2, "error: guide.safetensors: no such file"),
        (WeightsError("damaged"), 3, "error: damaged"),
        (ResourceError("full\nof it"), 4, "error: full\\nof it"),
        (MemoryError(), 4, "error: out of memory; a lower crops.chunk"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate"), 4, "error: out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            4,
            "out of memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 4, "error: no space left for a.png"),
        (StoppedError(Path("outputs/x")), 130, "interrupted; the result so far is in outputs/x"),
        (StoppedError(Path("outputs/x"), signal.SIGHUP), 143, "interrupted; the result so far is in outputs/x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_a_user_can_meet_have_their_exit_codes(
    problem: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], runner: ModuleType
) -> None:
    fails(runner, problem)
    assert cli.main(["run", "include=a", "--quiet"]) == code
    assert message in error_line(capsys)


@pytest.mark.parametrize("problem", [RuntimeError("shape mismatch"), OSError(errno.EIO, "bad disk"), BrokenPipeError()])
def test_our_own_bugs_are_not_dressed_up(
    problem: Exception, runner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(runner, problem)
    monkeypatch.setattr(cli, "_hang_up", lambda: False)
    with pytest.raises(type(problem)):
        cli.main(["run", "include=a", "--quiet"])


def test_debug_adds_the_traceback(
    runner: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQCLIP_DEBUG", "1")
    fails(runner, WeightsError("damaged"))
    assert cli.main(["run", "include=a", "--quiet"]) == 3
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("vqclip: error: damaged\n")


def test_run_hands_over_the_config_and_a_display(runner: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a=b.yaml"  # a file may have an equals sign in its name
    path.write_text("include: pear\nsteps: 3\n")
    assert cli.main(["run", "seed=5", str(path), "steps=4", "--progress", "none", "exclude=a=b"]) == 0
    loaded, display = runner.calls[0]
    assert loaded.config.include == (Prompt("pear"),)
    assert loaded.config.exclude == (Prompt("a=b"),)
    assert (loaded.config.steps, loaded.config.seed) == (4, 5)
    assert loaded.text == "include: pear\nsteps: 3\n"
    assert all(hasattr(display, each) for each in ("note", "begin", "step", "end"))


def test_rerun_hands_over_the_picture_and_the_overrides(runner: ModuleType) -> None:
    assert cli.main(["rerun", "final.png", "steps=4", "--quiet"]) == 0
    assert cli.main(["rerun", "final.png", "--trust", "--quiet"]) == 0
    first, second = runner.calls
    assert first == (Path("final.png"), ("steps=4",), {"trust": False})
    assert second == (Path("final.png"), (), {"trust": True})


def test_video_hands_over_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def reencode(folder: Path, **options: Any) -> Path:
        options.pop("say")("a line")
        assert not options.pop("stopped")()
        asked.append((folder, options))
        return folder / "progress.gif"

    monkeypatch.setattr("vqclip.record.remake.reencode", reencode)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert cli.main(["video", "outputs/x", "--fps", "12", "--format", "gif"]) == 0
    nothing = dict.fromkeys(("seconds", "hold", "smooth", "scale", "output"))
    assert asked == [(Path("outputs/x"), {**nothing, "fps": 12, "format": "gif"})]
    told = capsys.readouterr()
    assert told.out == f"{Path('outputs/x/progress.gif')}\n"
    assert told.err == "vqclip: a line\n"


def test_config_prints_yaml_that_loads_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "a cat # by moonlight: ${x} \x1b[31m é"
    assert cli.main(["config", f"include={words}", "preset=reference"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    path = tmp_path / "c.yaml"
    path.write_text(printed, encoding="utf-8")
    assert load(path).config == load(None, [f"include={words}", "preset=reference"]).config


def test_explain_is_a_table_of_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("include: a\ncrops:\n  count: 3\n")
    assert cli.main(["config", str(path), "seed=4", "preset=reference", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    begun = [number for number, line in enumerate(lines) if line[0] != " "]
    table = {lines[at].split()[0]: lines[at:until] for at, until in zip(begun, [*begun[1:], len(lines)], strict=True)}
    count, allowed = table["crops.count"]
    assert re.search(r"^crops\.count +3 +\.\.\.\S*/c\.yaml:3 +crops a step$", count)
    assert re.search(r"^ +\[a whole number from 1 to 4096\]$", allowed)
    assert re.search(r"^seed +4 +override +", table["seed"][0])
    assert re.search(r"^steps +500 +preset reference:\d+ +updates of the latent$", table["steps"][0])
    assert "[default, reference, seed]" in table["preset"][-1]
    assert len(table) > 45


def test_explain_needs_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--explain"]) == 0
    assert "crops.count" in capsys.readouterr().out
    assert cli.main(["config", "steps=x", "--explain"]) == 2


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vqclip {__version__}\n"
    for command in ([], ["--help"], ["run", "--help"], ["rerun", "--help"], ["video", "--help"], ["config", "--help"]):
        assert cli.main(command) == 0
        assert "Usage: vqclip" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["run"], ["rerun"], ["video"], ["config"]])
def test_help_and_bad_input_import_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys; from vqclip.cli.main import main; assert main(sys.argv[1:]) == 0\n"
        "if sys.argv[1] == 'run': assert main(['run', 'steps=-1']) == 2\n"
        "heavy = {'torch', 'numpy', 'PIL', 'kornia', 'rich', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *command, "--help"], check=True, capture_output=True)


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(5):
        begun = os.times()
        subprocess.run([sys.executable, "-m", "vqclip", "--help"], check=True, capture_output=True)
        ended = os.times()
        seconds.append(sum(ended[2:4]) - sum(begun[2:4]))  # of the CPU, by children
    assert min(seconds) < 1.0  # 0.1 s on a quiet machine; torch alone would take longer than this


def entries() -> list[list[str]]:
    """Both ways into the command line: the module, and the script that installing makes."""
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        module, function = tomllib.load(file)["project"]["scripts"]["vqclip"].split(":")
    return [["-m", "vqclip"], ["-c", f"import sys; from {module} import {function}; sys.exit({function}())"]]


@pytest.mark.parametrize("entry", entries(), ids=["module", "script"])
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"KMP_BLOCKTIME": "200"}, {"KMP_BLOCKTIME": "200"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
)
def test_waiting_threads_sleep_before_torch_loads_unless_the_user_says_how(
    entry: list[str], own: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    """What torch would see as it loads."""
    (tmp_path / "torch.py").write_text("import os, json; print(json.dumps(dict(os.environ))); raise SystemExit(7)")
    names = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY")
    environment = {key: value for key, value in os.environ.items() if key not in names} | own
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"
    command = [sys.executable, *entry, "run", "include=a red apple", f"outputs={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in names if name in seen} == expected


def test_a_closed_stdout_is_no_error() -> None:
    for command in (["--help"], ["config", "include=a"], ["config", "include=a", "--explain"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([sys.executable, "-m", "vqclip", *command], stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_that_are_not_unicode_are_bad_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vqclip", "config", b"include=a\xff"],
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"lone surrogate" in done.stderr


def test_a_log_on_a_full_disk_changes_no_exit_code(weight_files: dict[str, Path], tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "vqclip", "run", f"generator={weight_files['generator']}", "include=apple", "steps=1",
        f'guides=["{weight_files["guide"]}"]', "judge=none", "size=32,32", "crops.count=2", f"outputs={tmp_path}",
        "video.formats=[]", "name=x", "threads=1",
    ]  # fmt: skip
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=full, check=False, timeout=120)
    assert done.returncode == 0
    assert (tmp_path / "x" / "final.png").is_file()
    with open("/dev/full", "w") as full:  # the name is taken now: an error that nobody can read has its code still
        assert subprocess.run(command, stdout=full, stderr=full, check=False, timeout=120).returncode == 2
