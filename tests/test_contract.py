"""What holds for the house as a whole: arrows, quiet imports, shipped configs and documented commands."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.tiny_kandinsky import tiny_decoder, tiny_prior
from tests.tiny_stable_diffusion import parts, pipeline
from vqclip.cli import main
from vqclip.config import load
from vqclip.models.catalogue import entry
from vqclip.models.weights import KINDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vqclip"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Rooms from left to right: a module may import from its own room and from those to the right of it.
ROOMS = [
    {"cli", "cli_models", "__main__"},
    {"api", "contest"},
    {"run"},
    {"assemble", "makers", "makers_diffusion", "perceptors", "place"},
    {"progress", "terminal", "preflight", "backends", "record", "compare"},
    {"optimize", "annealing", "descent", "models", "memory", "tally"},
    {"losses", "crops", "augment", "images"},
    {"config", "document", "layers", "schema", "keys", "presets"},
    {"job", "grammar", "starter", "__init__"},
]
# Who may import what, beyond the order of the rooms.
ONLY_IN = {
    "imageio": {"record/video.py"},
    "imageio_ffmpeg": {"record/video.py"},
    "safetensors": {"models/convert.py"},
    "urllib.request": {"models/fetch.py"},
    "socket": {"models/fetch.py"},
    "open_clip": {"models/open_clip.py"},
    "filelock": {"models/store.py", "contest.py"},
    "jinja2": {"compare/page.py"},
    "huggingface_hub": {"backends/kandinsky_files.py", "models/open_clip.py"},
    "platformdirs": {"models/store.py"},
    "click": {"cli.py", "cli_models.py"},
    "kornia": {"augment.py"},
    "taming": {"models/vqgan.py", "models/denoiser.py"},
    "clip": {"models/clip.py"},
    "omegaconf": {"config.py"},
}
CONFIG = {"config", "layers", "schema", "keys", "presets"}  # `document` only reads bounded text; others may use it
MAY_SEE_CONFIG = CONFIG | {"contest", "run", "assemble", "makers", "makers_diffusion", "cli", "__init__"}


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
    """ "vqclip.models.clip.MEAN" -> "models/clip.py", None for other packages."""
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
        if target.split("/")[0].removesuffix(".py") in CONFIG:
            assert here.split("/")[0].removesuffix(".py") in MAY_SEE_CONFIG, f"{here} sees the config"


@pytest.mark.parametrize("package", ONLY_IN)
def test_each_heavy_package_has_one_door(package: str) -> None:
    users = {name(path) for path in MODULES if any((d + ".").startswith(package + ".") for d in imports(path))}
    assert users == ONLY_IN[package]


def test_every_module_has_one_sentence_on_its_job() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


@pytest.mark.parametrize("path", [*MODULES, *ROOT.glob("training/*.py"), *ROOT.glob("benchmarks/*.py")], ids=str)
def test_long_files_and_functions_are_few_and_pointed_at(path: Path) -> None:
    """250 lines a file and 45 a function are a hint to look for a second thought; beyond 400 and 80 there is one."""
    text = path.read_text(encoding="utf-8")
    lengths = {f"{path}": (text.count("\n"), 250, 400)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            lengths[f"{path}: {node.name}"] = (lines, 45, 80)
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


# Two steps of everything; of a comparison one prompt and one seed.
TWO = ["steps=2", "kandinsky.steps=2", "kandinsky.prior_steps=2", "stable_diffusion.steps=2", "kandinsky.strength=1"]
SHORT = {"run": TWO, "rerun": TWO, "compare": [*TWO, 'prompts=["red apple"]', "seeds=1"]}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny pipelines with random weights."""
    folder = tmp_path_factory.mktemp("pipelines")
    tiny_prior().save_pretrained(folder / "kandinsky" / "prior")
    tiny_decoder().save_pretrained(folder / "kandinsky" / "decoder")
    pipeline(parts()).save_pretrained(folder / "stable-diffusion")
    return {"kandinsky": folder / "kandinsky", "stable-diffusion": folder / "stable-diffusion"}


def vqclip(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "vqclip", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_runs_two_steps(
    config: Path, tmp_path: Path, weight_files: dict[str, Path], pipelines: dict[str, Path]
) -> None:
    text = config.read_text(encoding="utf-8")
    assert text.startswith("# "), f"{config.name} does not say what it makes"
    verb = "compare" if re.search(r"^variants:", text, flags=re.MULTILINE) else "run"
    assert f"vqclip {verb} configs/{config.name}" in text, f"{config.name} does not show its command"
    stand_ins = []
    if re.search(r"^generator:", text, flags=re.MULTILINE):  # full-size weights are not shipped
        stand_ins = [f"generator={weight_files['generator']}", f'guides=["{weight_files["guide"]}"]', "size=64,64"]
        stand_ins += [f"judge={weight_files['judge']}"] if re.search(r"^judge:", text, flags=re.MULTILINE) else []
    if re.search(r"^  prior: ", text, flags=re.MULTILINE):
        stand_ins = [*(f"kandinsky.{part}={pipelines['kandinsky']}" for part in ("prior", "decoder")), "size=64,64"]
    if re.search(r"^stable_diffusion:", text, flags=re.MULTILINE):
        stand_ins = [f"stable_diffusion.model={pipelines['stable-diffusion']}", "size=64,64"]
    assert main([verb, str(config), *SHORT[verb], f"outputs={tmp_path}", "--progress", "none", *stand_ins]) == 0
    made = "cells/*/*/final.png" if verb == "compare" else "final.png"
    assert sorted(path.name for path in tmp_path.glob(f"*/{made}"))


def documented() -> list[str]:
    """Every vqclip command in the README's shell blocks."""
    blocks = re.findall(
        r"```(?:sh|bash|console)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    lines = [line.split("&&")[-1].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("python -m vqclip")]


def test_the_readme_shows_the_commands() -> None:
    verbs = {shlex.split(line)[3] for line in documented()}
    assert {"run", "rerun", "compare", "video", "config"} <= verbs


def test_readme_commands_run(tmp_path: Path, weight_files: dict[str, Path]) -> None:
    """In order, in one folder, shortened to two steps; paths of full-size weights are stood in for."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for line in documented():
        arguments = shlex.split(line, comments=True)[3:]
        if arguments[0] in SHORT:
            finished = arguments[0] == "compare" and "outputs/RUN" in arguments  # nothing is drawn anew
            arguments += [*([] if finished else SHORT[arguments[0]]), "--progress", "none"]
        arguments = [_stand_in(argument, tmp_path, weight_files) for argument in arguments]
        done = vqclip(*arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def _stand_in(argument: str, folder: Path, files: dict[str, Path]) -> str:
    """Stand-ins: `outputs/<run>` is the newest run so far, OTHER-RUN the first one; weights become tiny files."""
    runs = sorted((path.parent for path in folder.glob("outputs/*/run.json")), key=lambda path: path.stat().st_mtime)
    first, newest = (str(path.relative_to(folder)) for path in ([runs[0], runs[-1]] if runs else [folder, folder]))
    argument = re.sub(r"outputs/<run>|outputs/RUN", newest, argument).replace("outputs/OTHER-RUN", first)
    argument = re.sub(r"[^=\"\[]*vqgan[^=\"]*\.ckpt", str(files["generator"]), argument)
    return re.sub(r"[^=\"\[]*ViT-B-32[^=\"\]]*\.pt", str(files["guide"]), argument)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_configs_name_models_that_exist(path: Path) -> None:
    """Everything a shipped config names is a starter model, a file of the user's, or in the catalogue."""
    config = load(path).config
    roles = {"generator": [config.generator], "guide": [guide.model for guide in config.guides]}
    roles["judge"] = [config.judge] if config.judge else []
    for role, names in roles.items():
        for each in names:
            if not each.startswith(("starter", "weights/")):
                assert entry(each).kind in KINDS[role]
