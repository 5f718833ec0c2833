"""What holds for the house as a whole: arrows, quiet imports, shipped configs and documented commands."""

from __future__ import annotations

import ast
import html
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import _pytest.config
import pytest
from PIL import Image

from tests import conftest
from tests.documented import (
    CONFIGS,
    DOCUMENTS,
    Command,
    Shell,
    commands,
    each_once,
    measures,
    needs_weights,
    package_files,
    python_blocks,
)
from tests.tiny_kandinsky import tiny_decoder, tiny_prior
from tests.tiny_stable_diffusion import parts, pipeline
from vqclip import api, viewer
from vqclip.cli.main import main
from vqclip.config import load
from vqclip.record import metadata
from vqclip.weights.catalogue import entry
from vqclip.weights.load import KINDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vqclip"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Floors from left to right: a module may import from its own floor and from those to the right of it.
ROOMS = [
    {"cli", "__main__"},
    {"api"},
    {"run"},
    {"backends", "record", "compare", "report"},
    {"judge", "loop", "weights"},
    {"generators", "perceptors"},
    {"config", "images"},
    {"grammar", "starter", "viewer"},
    {"job", "__init__"},
]
# Who may import what, beyond the order of the rooms.
ONLY_IN = {
    "imageio": set(),  # the encoder is fed through a pipe of our own: record/stream.py
    "imageio_ffmpeg": {"record/video.py"},
    "safetensors": {"record/checkpointing.py", "weights/convert.py", "weights/flat.py"},
    "urllib.request": {"weights/fetch.py"},
    "socket": {"weights/fetch.py"},
    "open_clip": {"perceptors/open_clip.py"},
    "filelock": {"weights/store.py"},
    "jinja2": {"report/page.py"},
    "huggingface_hub": {"backends/kandinsky/files.py", "perceptors/open_clip.py"},
    "platformdirs": {"weights/store.py"},
    "click": {"cli/main.py", "cli/doctor.py", "cli/models.py"},
    "kornia": {"loop/augment.py"},
    "taming": {"generators/vqgan.py", "generators/denoiser.py"},
    "clip": set(),  # its package is heavy: perceptors/openai_clip.py loads two of its files without it
    "omegaconf": {"config/resolve.py"},
    "scipy": {"judge/statistics.py"},
}
# `document` only reads bounded text, `paths` only tells paths from names; others may use them.
OPEN = {"config/document.py", "config/paths.py"}
MAY_SEE_CONFIG = {"config", "run", "api", "cli"}


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(module: str) -> int:
    top = module.split("/")[0].removesuffix(".py")
    return next(number for number, members in enumerate(ROOMS) if top in members)


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """Dotted names that a file imports; without `lazy` only those outside functions and type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if inside or typing:
            skipped.update(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inner(dotted: str) -> str | None:
    """ "vqclip.perceptors.clip.MEAN" -> "perceptors/clip.py", None for other packages."""
    parts = dotted.split(".")
    if parts[0] != "vqclip":
        return None
    for length in range(len(parts), 1, -1):
        stem = PACKAGE.joinpath(*parts[1:length])
        if stem.with_suffix(".py").is_file():
            return name(stem.with_suffix(".py"))
        if (stem / "__init__.py").is_file():
            return name(stem / "__init__.py")
    return "__init__.py"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_arrows_point_one_way(path: Path) -> None:
    here = name(path)
    if here == "__init__.py":
        return  # offers the public names, on first use only
    for dotted in imports(path):
        target = inner(dotted)
        if target is None:
            assert dotted.split(".")[0] not in {"training", "benchmarks", "tests"}, f"{here} imports {dotted}"
            continue
        assert room(here) <= room(target), f"{here} imports {dotted}, which lies to its left"
        if target.startswith("config/") and target not in OPEN:
            assert here.split("/")[0].removesuffix(".py") in MAY_SEE_CONFIG, f"{here} sees the config"


def test_no_rooms_and_no_files_import_in_a_circle() -> None:
    """Imports inside functions count too; what only types need does not."""
    files: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        here = name(path)
        if here == "__init__.py":
            continue
        found = {target for dotted in imports(path) if (target := inner(dotted)) not in (None, here, "__init__.py")}
        files[here] = {str(target) for target in found}
        rooms.setdefault(here.split("/")[0], set()).update(target.split("/")[0] for target in files[here])
    rooms = {one: others - {one} for one, others in rooms.items()}
    assert tuple(TopologicalSorter(rooms).static_order())  # CycleError names the circle
    assert tuple(TopologicalSorter(files).static_order())


def test_the_readme_s_map_the_folders_and_the_arrows_say_the_same() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("    vqclip/\n")[1].split("    configs/")[0]
    heads = [line[:29] for line in block.splitlines() if line[6] != " "]
    named = {word for head in heads for word in re.findall(r"\w+(?:\.py|/)", head)}
    there = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == there - {"__init__.py", "__pycache__/"}
    arrows = re.search(r"Imports point one way: `([^`]*)`", readme)
    assert arrows is not None
    floors = [set(re.findall(r"\w+", floor)) for floor in arrows[1].split("->")]
    assert floors == [floor - {"__main__", "__init__"} for floor in ROOMS]
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("package", ONLY_IN)
def test_each_heavy_package_has_one_door(package: str) -> None:
    users = {name(path) for path in MODULES if any((d + ".").startswith(package + ".") for d in imports(path))}
    assert users == ONLY_IN[package]


def test_every_module_has_one_sentence_on_its_job() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", [*MODULES, *ROOT.glob("training/*.py"), *ROOT.glob("benchmarks/*.py")], ids=str)
def test_long_files_and_functions_are_few_and_pointed_at(path: Path) -> None:
    """250 lines a file and 45 a function are a hint to look for a second thought; beyond 600 and 100 there is one."""
    text = path.read_text(encoding="utf-8")
    lengths = {f"{path}": (text.count("\n"), 250, 600)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            lengths[f"{path}: {node.name}"] = (lines, 45, 100)
    for where, (lines, hint, wall) in lengths.items():
        assert lines <= wall, f"{where} has {lines} lines"
        if lines > hint:
            warnings.warn(f"{where} has {lines} lines", stacklevel=1)


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No output, no files, no change of seeds, threads, environment or signal handlers."""
    modules = [f"vqclip.{name(p).removesuffix('.py').replace('/', '.')}".removesuffix(".__init__") for p in MODULES]
    wanted = [module for module in modules if not module.endswith("__main__")]
    script = f"""
import os, signal, torch, numpy, random
state = lambda: (torch.get_rng_state().tolist(), random.getstate(), torch.get_num_threads(), torch.is_grad_enabled(),
                 dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT), torch.get_default_dtype())
before = state()
for module in {wanted!r}:
    __import__(module)
after = state()
assert before == after, [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


# Two steps of everything.
TWO = ["steps=2", "kandinsky.steps=2", "kandinsky.prior_steps=2", "stable_diffusion.steps=2", "kandinsky.strength=1"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny pipelines with random weights."""
    folder = tmp_path_factory.mktemp("pipelines")
    tiny_prior().save_pretrained(folder / "kandinsky" / "prior")
    tiny_decoder().save_pretrained(folder / "kandinsky" / "decoder")
    pipeline(parts()).save_pretrained(folder / "stable-diffusion")
    return {"kandinsky": folder / "kandinsky", "stable-diffusion": folder / "stable-diffusion"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_says_what_it_makes_and_its_command(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.startswith("# "), f"{name} does not say what it makes"
    verb = "compare" if re.search(r"^variants:", text, flags=re.MULTILINE) else "run"
    assert ["vqclip", verb, name] in [command.words for command in commands(name)]


@pytest.mark.parametrize("name", [name for name in CONFIGS if needs_weights(Command(f"vqclip run {name}", name))])
def test_configs_of_full_size_weights_run_two_steps_with_tiny_ones(
    name: str, tmp_path: Path, weight_files: dict[str, Path], pipelines: dict[str, Path]
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    if re.search(r"^generator:", text, flags=re.MULTILINE):
        stand_ins = [f"generator={weight_files['generator']}", f'guides=["{weight_files["guide"]}"]']
        stand_ins += [f"judge={weight_files['judge']}"] if re.search(r"^judge:", text, flags=re.MULTILINE) else []
    elif re.search(r"^  prior: ", text, flags=re.MULTILINE):
        stand_ins = [f"kandinsky.{part}={pipelines['kandinsky']}" for part in ("prior", "decoder")]
    else:
        stand_ins = [f"stable_diffusion.model={pipelines['stable-diffusion']}"]
    settings = [*TWO, "size=64,64", f"outputs={tmp_path}", *stand_ins]
    assert main(["run", str(ROOT / name), *settings, "--progress", "none"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*/final.png"))


def is_brief(command: Command) -> bool:
    """Whether it ends before it draws: a measurement or a training only says its options, and weights may lack."""
    return measures(command) or needs_weights(command)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("shell")
    opened = Shell(folder)
    opened.install()
    yield opened
    shutil.rmtree(folder)  # a hundred megabytes


def test_installing_takes_the_whole_package_along(shell: Shell) -> None:
    """Starter models, presets, catalogue, templates; and the command starts from them, in any folder."""
    assert package_files(shell.installed) == package_files(shell.checkout)
    done = shell.type("vqclip --version && python -c 'import vqclip; print(vqclip.__file__)'", shell.installed.parent)
    assert done.returncode == 0, done.stderr
    assert str(shell.installed) in done.stdout


def test_readme_commands_run(shell: Shell) -> None:
    """In order, in the checkout; then what the page of one of these runs says, in the folder of that page."""
    shown = commands("README.md")
    said = {tuple(command.words): shell.follow(command).stdout for command in shown if not is_brief(command)}
    shell.follow_in_turn([command for command in shown if is_brief(command)])
    assert {"run", "rerun", "compare", "video", "config", "models"} <= {words[1] for words in said if len(words) > 1}
    told = [shell.checkout / line for line in said["vqclip", "run", "configs/quickstart.yaml"].splitlines()]
    assert [path.name for path in told] == ["final.png", "progress.mp4", "report.html"]
    assert all(path.stat().st_size > 0 for path in told)

    apple = shell.checkout / "outputs" / "apple"
    page = (apple / "report.html").read_text(encoding="utf-8")
    (again,) = re.findall(r"<pre[^>]*><code>(vqclip [^<]*)</code></pre>", page)
    repeated = shell.type(html.unescape(again), apple)
    assert repeated.returncode == 0, repeated.stderr
    by_page = apple / repeated.stdout.splitlines()[0]
    by_readme = shell.checkout / said["vqclip", "rerun", "outputs/apple/final.png"].splitlines()[0]
    assert pixels(by_page) == pixels(by_readme) == pixels(apple / "final.png")


def documented() -> list[Command]:
    """Every command that docs and configs show and the README does not."""
    shown = {name: commands(name) for name in [*DOCUMENTS[1:], *CONFIGS]}
    assert all(shown.values())
    readme = [command.words for command in commands("README.md")]
    found = each_once([command for each in shown.values() for command in each])
    return [command for command in found if command.words not in readme]


def test_brief_commands_of_docs_and_configs_run(shell: Shell) -> None:
    """Measurements and trainings take long and only have to load and to know the options that are shown."""
    found = [command for command in documented() if is_brief(command)]
    assert {measures(command) for command in found} == {True, False}
    shell.follow_in_turn(found)


@pytest.mark.parametrize(
    "command", [each for each in documented() if not is_brief(each)], ids=lambda command: " ".join(command.words)
)
def test_commands_of_docs_and_configs_run(shell: Shell, command: Command) -> None:
    shell.follow(command)


@pytest.mark.parametrize(
    "line",
    [
        "python -m vqclip rerun outputs/<run>/final.png",  # a redirection: `run` is no file
        "python -m vqclip video outputs/RUN",
        "python -m vqclip run include=a red apple",
        "python -m vqclip draw",
        "python -m benchmarks.gallery --propmts 60",
        "pip install -r requirements-dev.txt",
        "pip install nothing-of-ours",
    ],
)
def test_commands_that_do_not_work_as_pasted_are_found(shell: Shell, line: str) -> None:
    with pytest.raises(AssertionError, match="README.md:1"):
        shell.follow(Command(line, "README.md:1"))


@pytest.mark.parametrize(
    "line",
    ["python -m benchmarks.gallery --propmts 60", "vqclip models get ViT-B/33", "python -m benchmarks.galery"],
)
def test_brief_commands_that_do_not_work_are_found_among_others(shell: Shell, line: str) -> None:
    good = Command("vqclip models get ViT-B/32", "README.md:1")
    with pytest.raises(AssertionError, match="README.md:2"):
        shell.follow_in_turn([good, Command(line, "README.md:2"), good])


def test_commands_are_found_in_every_form() -> None:
    names = ("README.md", "docs/gallery.md", "configs/coco.yaml")
    found = {command.text for name in names for command in commands(name)}
    assert found >= {
        "pip install -r requirements.txt && python -m pytest",  # a shell block
        "python -m benchmarks.gallery --prompts 60 --shown 36 --finished 8 --steps 500 threads=1",  # indented
        "python -m benchmarks.commands",  # inline
        "python -m vqclip run configs/coco.yaml", "python -m vqclip models list",  # a comment, and inline in one
    }  # fmt: skip
    assert not any("vqclip rerun apple.png" in text for text in found)  # a Python comment


def test_the_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for settings that make it quick."""
    quick = {"steps": 2, "tries": 1, "crops.count": 2, "threads": 1}
    for verb in ("generate", "steps"):
        made = getattr(api, verb)
        monkeypatch.setattr(api, verb, lambda made=made, **settings: made(**(settings | quick)))
    opened: list[Path] = []
    monkeypatch.setattr(viewer, "show", lambda path: not opened.append(path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks("README.md")
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "vqclip.steps(" in "".join(blocks)
    assert len(opened) == 1
    run = tmp_path / "outputs" / "from-python"
    assert {"final.png", "progress.mp4", "report.html"} <= {path.name for path in run.iterdir()}
    assert metadata.read(tmp_path / "apple.png")["config"]["exclude"][0]["text"] == "yellow"


def test_the_readme_s_yaml_is_a_config(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "readme.yaml"
    path.write_text(block, encoding="utf-8")
    assert load(path).config.steps == 200


@pytest.mark.parametrize(
    ("words", "processes"),
    [
        ("", 2), ("tests", 2), ("-x --durations 9", 2), ("-n 3", 3), ("tests/test_contract.py", 0),
        ("tests/test_contract.py::test_x tests", 0), ("-k crops", 0), ("-m slow", 0), ("-s", 0), ("--collect-only", 0),
    ],
)  # fmt: skip
def test_all_tests_are_shared_by_two_processes_and_a_few_run_in_one(
    words: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = _pytest.config.get_config(words.split())
    config.parse(words.split())
    config._ensure_unconfigure()
    asked = config.option.numprocesses
    assert (conftest.pytest_xdist_auto_num_workers(config) if asked == "auto" else asked) == processes
    assert config.option.dist == "worksteal"


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_configs_name_models_that_exist(path: Path) -> None:
    """Everything a shipped config names is a starter model, a file of the user's, or in the catalogue."""
    config = load(path).config
    roles = {"generator": [config.generator], "guide": [guide.model for guide in config.guides]}
    roles["judge"] = [config.judge] if config.judge else []
    for role, names in roles.items():
        for each in names:
            if not each.startswith(("starter", str(ROOT / "weights"))):
                assert entry(each).kind in KINDS[role]
