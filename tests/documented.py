"""The commands that the documents show, and a shell in a copy of the checkout in which they are typed."""

from __future__ import annotations

import compileall
import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", *(f"docs/{each.name}" for each in sorted((ROOT / "docs").glob("*.md")))]
CONFIGS = [f"configs/{each.name}" for each in sorted((ROOT / "configs").glob("*.yaml"))]
COPIED = ["vqclip", "configs", "benchmarks", "training", "tests", "pyproject.toml", "requirements.txt", "README.md"]
COPIED += ["LICENSE"]
PROGRAM = r"(?:python|pip|vqclip) "

# Two steps of one try make any run quick; of a comparison one prompt and one seed. What is finished stays as it is.
QUICK = "steps=2 tries=1 crops.count=2 threads=1 --progress plain"
QUICK_KANDINSKY = "kandinsky.steps=2 kandinsky.prior_steps=2"
QUICK_COMPARISON = """'prompts=["red apple"]' seeds=1"""
REHEARSAL = ["doctor", "--weights", "small"]
QUICK_TESTS = "tests/test_annealing.py"

# Several modules run by an interpreter that starts once, as import of torch is most of what a command takes that only
# says its options or what it lacks. Each comes as [name to run under, module, words ...]; exit code, output and errors
# of each are a line.
IN_TURN = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "")
for name, module, *words in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = [module, *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name=name, alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Command:
    """A line as it would be pasted, and where it stands."""

    text: str
    where: str

    @property
    def words(self) -> list[str]:
        """The words of its last program, without `python -m`: ["vqclip", "run", ...]."""
        words = shlex.split(self.text.split("&&")[-1])
        return words[2:] if words[:2] == ["python", "-m"] else words


def commands(name: str) -> list[Command]:
    """Every shell command of a file: lines of shell blocks and of indented ones, inline code, comments of a config."""
    found: list[Command] = []
    block: str | None = None
    prose: list[tuple[int, str]] = []
    whole = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for number, line in enumerate(whole.splitlines(), start=1):
        if fence := re.match(r"```(\w*)", line):
            block = None if block is not None else fence[1]
        elif block in ("sh", "bash", "shell", "console"):
            if line.strip():
                found.append(Command(line.strip(), f"{name}:{number}"))
        elif block is None and (shown := re.match(rf"(?:    |#   )({PROGRAM}.*)", line)):
            found.append(Command(shown[1].strip(), f"{name}:{number}"))
        elif block is None and (line.startswith("#") or not name.endswith(".yaml")):
            prose.append((number, line.removeprefix("#")))
    text = "\n".join(line for _, line in prose)
    for inline in re.finditer(rf"`({PROGRAM}[^`]*)`", text):
        number = prose[text.count("\n", 0, inline.start())][0]
        found.append(Command(" ".join(inline[1].split()), f"{name}:{number}"))
    return found


def python_blocks(name: str) -> list[str]:
    """The Python snippets of a file."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


class Shell:
    """bash in a copy of the checkout, with vqclip installed from it, an empty weight store and no network.

    `python` is this interpreter. `pip` installs nothing: it only looks whether what it is told to install is there.
    """

    def __init__(self, folder: Path) -> None:
        self.checkout, self.installed = folder / "checkout", folder / "installed"
        self.checkout.mkdir()
        left_out = shutil.ignore_patterns("__pycache__", "cache", "*.egg-info", ".*_cache", ".hypothesis")
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.checkout / name, **({"ignore": left_out} if copy is shutil.copytree else {}))
        programs = folder / "programs"
        programs.mkdir()
        (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (programs / "pip").write_text(
            '#!/bin/sh\n[ "$1" = install ] && shift || exit 2\n[ "$1" = -r ] && exec test -f "$2"\n'
            '[ "$1" = . ] && exec test -f pyproject.toml\nexec grep -q "\\"$1[>\\"]" pyproject.toml\n'
        )
        for each in programs.iterdir():
            each.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("VQCLIP_", "HF_"))}
        self.environment = kept | {
            "PATH": os.pathsep.join([str(programs), str(self.installed / "bin"), os.environ["PATH"]]),
            "PYTHONPATH": str(self.installed), "PYTHONDONTWRITEBYTECODE": "1", "OMP_WAIT_POLICY": "PASSIVE",
            "VQCLIP_HOME": str(folder / "store"), "HF_HOME": str(folder / "hub"), "VQCLIP_OFFLINE": "1",
            "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder), "PYTHONUSERBASE": site.getuserbase(),
        }  # fmt: skip

    def install(self) -> None:
        """`pip install .`, really, but into a folder of its own and with what is here already."""
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--no-build-isolation", "--no-index", "--target", self.installed, ".",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=self.checkout, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(self.checkout / "build", ignore_errors=True)
        compileall.compile_dir(self.checkout, quiet=2)  # once, not by every command

    def type(self, line: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """What bash makes of one line, in the checkout unless told otherwise."""
        return subprocess.run(
            ["bash", "-c", line], cwd=folder or self.checkout, env=self.environment, capture_output=True, text=True,
            timeout=1800,
        )  # fmt: skip

    def follow(self, command: Command) -> subprocess.CompletedProcess[str]:
        """Type a documented command, shortened where it would take long, and hold it to its exit code."""
        done = self.type(shortened(command))
        hold(command, done.returncode, done.stderr)
        return done

    def follow_in_turn(self, found: Sequence[Command]) -> None:
        """Like `follow`, but all in one interpreter and without bash; each is one `vqclip` or `python -m`."""
        lines = [_line(command) for command in found]
        done = subprocess.run(
            [sys.executable, "-c", IN_TURN], input=json.dumps(lines), cwd=self.checkout, env=self.environment,
            capture_output=True, text=True, timeout=1800,
        )  # fmt: skip
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        for command, (code, shown, errors) in zip(found, answers, strict=False):
            hold(command, code, errors)
            for option in (_options(command) or []) if measures(command) else []:
                assert option in shown, f"{command.where}: {command.text}: there is no {option}"
        assert len(answers) == len(found), f"{found[len(answers)].where}: {done.stderr[-2000:]}"
        assert done.returncode == 0, done.stderr


def hold(command: Command, code: int, errors: str) -> None:
    """A command ends well, or for want of weights with exit code 3, one clear line and no traceback."""
    expected = 3 if needs_weights(command) else 0
    assert code == expected, f"{command.where}: {command.text}\n{code}: {errors[-2000:]}"
    if expected:
        assert errors.splitlines()[-1].startswith("vqclip: error: "), f"{command.where}: {errors[-2000:]}"
        assert "Traceback" not in errors


def shortened(command: Command) -> str:
    """The line with settings behind it that make it quick; measurements and trainings only say what they take."""
    quick = f"{QUICK} {QUICK_KANDINSKY}" if any("kandinsky" in text for text in _configs(command)) else QUICK
    match command.words:
        case ["vqclip", "run", *_]:
            return f"{command.text} {quick}"
        case ["vqclip", "compare", *_] if _configs(command):
            return f"{command.text} {quick} {QUICK_COMPARISON}"
        case ["pytest"]:
            return f"{command.text} {QUICK_TESTS}"
        case _ if measures(command):
            return _asked_for_help(command)
    return command.text


def measures(command: Command) -> bool:
    """Whether this is a measurement or a training, which take minutes to hours."""
    return command.words[0].startswith(("benchmarks.", "training."))


def _options(command: Command) -> list[str] | None:
    """The options that a measurement or a training is shown with; None for one that takes no arguments."""
    module, *rest = command.words
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert path.is_file(), f"{command.where}: no {module}"
    if not re.search(r"ArgumentParser|parser_of\(|training_parser\(", path.read_text(encoding="utf-8")):
        assert not rest, f"{command.where}: {module} takes no arguments"
        return None
    return [word.partition("=")[0] for word in rest if word.startswith("--")]


def _asked_for_help(command: Command) -> str:
    """The module has to load, and to know the options that are shown."""
    module, options = command.words[0], _options(command)
    if options is None:
        return f"python -c 'import {module}'"
    asked = (f" && grep -q -e {option} <<< $shown" for option in options)
    return f"shown=$(python -m {module} --help){''.join(asked)}"


def _line(command: Command) -> list[str]:
    """A command as `IN_TURN` takes it: the name to run its module under, the module, its words."""
    if not measures(command):
        return ["__main__", *Command(shortened(command), command.where).words]
    module = command.words[0]
    return [module, module] if _options(command) is None else ["__main__", module, "--help"]


def each_once(found: list[Command]) -> list[Command]:
    """Commands that are shown in several places once; of a measurement one with all of its options."""
    once: dict[tuple[str, ...], Command] = {}
    for command in found:
        key = (command.words[0],) if measures(command) else tuple(command.words)
        known = once.setdefault(key, command)
        more = [word for word in command.words if word not in known.words]
        if more:
            once[key] = Command(shlex.join(["python", "-m", *known.words, *more]), command.where)
    return list(once.values())


def needs_weights(command: Command) -> bool:
    """Whether a command asks for weights that are not shipped; such a one ends with exit code 3."""
    if command.words[:3] == ["vqclip", "models", "get"] or command.words == ["vqclip", *REHEARSAL]:
        return True
    asked = r"^generator:|^  prior: |^stable_diffusion:"
    return any(re.search(asked, text, flags=re.MULTILINE) for text in _configs(command))


def _configs(command: Command) -> list[str]:
    """The texts of the config files that a command names."""
    return [(ROOT / word).read_text(encoding="utf-8") for word in command.words if word in CONFIGS]


def package_files(folder: Path) -> set[str]:
    """Every file of the package in a folder but compiled ones."""
    inside = (path for path in (folder / "vqclip").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in inside}

