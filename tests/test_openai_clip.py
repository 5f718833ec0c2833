"""openai-clip's two modules: the installed ones, without the package, and none of what that would bring along."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vqclip.perceptors import openai_clip

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch._dynamo", "torch._inductor", "torchvision", "sympy", "kornia", "diffusers", "transformers", "accelerate",
    "scipy", "matplotlib", "pkg_resources", "clip", "huggingface_hub", "open_clip", "torchmetrics", "pandas", "sklearn",
}  # fmt: skip


def python(script: str, *words: str, folder: Path = ROOT) -> str:
    """What a fresh Python prints for a script."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script, *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_of_the_starter_models_imports_nothing_heavy(tmp_path: Path) -> None:
    """From the first word to the page: guide, judge, preflight, optimizer, film."""
    settings = ["include=a red apple", "size=64,64", "steps=2", "tries=1", "threads=1", f"outputs={tmp_path}"]
    script = f"""
import sys
from vqclip.cli.main import main
assert main(["run", *sys.argv[1:], "--quiet"]) == 0
print("imported:", *sorted({HEAVY!r} & set(sys.modules)))
"""
    said = python(script, *settings).splitlines()
    assert [Path(line).name for line in said[:-1]] == ["final.png", "progress.mp4", "report.html"]
    assert said[-1] == "imported:"


def test_the_modules_are_the_installed_ones_whatever_lies_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "__init__.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "clip" / "model.py").write_text("raise SystemExit('not this one either')")
    script = "import inspect; from vqclip.perceptors.openai_clip import CLIP; "
    script += "print(inspect.getsourcefile(CLIP.forward))"
    assert Path(python(script, folder=tmp_path).strip()) == openai_clip.locate("clip.model")


def test_a_later_import_of_the_package_is_whole() -> None:
    script = """
from vqclip.perceptors import openai_clip
import clip, clip.model
print(clip.model.CLIP.__name__, clip.tokenize(["x"]).shape[1], clip.simple_tokenizer.SimpleTokenizer.__name__)
"""
    assert python(script).split() == ["CLIP", "77", "SimpleTokenizer"]


def test_a_package_that_is_there_already_is_used() -> None:
    script = """
import clip.model
from vqclip.perceptors import clip as ours, openai_clip
print(openai_clip.CLIP is clip.model.CLIP, openai_clip.SimpleTokenizer is clip.simple_tokenizer.SimpleTokenizer)
"""
    assert python(script).split() == ["True", "True"]


def test_a_missing_or_damaged_package_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Emptied:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(openai_clip, "distribution", lambda _name: Emptied())
    with pytest.raises(ImportError, match=r"openai-clip is damaged, it has no .*model\.py: reinstall it"):
        openai_clip.locate("clip.model")

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(openai_clip, "distribution", missing)
    with pytest.raises(ImportError, match="openai-clip is not installed: pip install openai-clip"):
        openai_clip.locate("clip.model")
