"""openai-clip's network and tokenizer without its package: the one file that loads them.

`import clip` runs the package's `__init__`, which brings torchvision, torch._dynamo and pkg_resources: a third of
the time until the first step. Its `model` and `simple_tokenizer` need none of them, so these two files are loaded by
where they are installed, under their own names. A `clip` that the process has already is used as it is.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clip.model import CLIP, AttentionPool2d, Bottleneck, ModifiedResNet, ResidualAttentionBlock, VisionTransformer
    from clip.simple_tokenizer import SimpleTokenizer

__all__ = [
    "CLIP", "AttentionPool2d", "Bottleneck", "ModifiedResNet", "ResidualAttentionBlock", "SimpleTokenizer",
    "VisionTransformer",
]  # fmt: skip


def locate(name: str) -> Path:
    """The file of a module of the installed openai-clip; a `clip` in the current folder is not it.

    Raises:
        ImportError: openai-clip is not installed, or has no such file.
    """
    try:
        path = Path(str(distribution("openai-clip").locate_file(f"{name.replace('.', '/')}.py")))
    except PackageNotFoundError as error:
        raise ImportError("openai-clip is not installed: pip install openai-clip", name=name) from error
    if not path.is_file():
        raise ImportError(f"openai-clip is damaged, it has no {path}: reinstall it", name=name, path=str(path))
    return path


def _load(name: str) -> ModuleType:
    """A module of openai-clip, its package left alone: it is not put into sys.modules, where it would lack a parent."""
    path, there = locate(name), sys.modules.get(name)
    if there is not None and Path(str(there.__file__)).resolve() == path.resolve():
        return there  # one class CLIP where the process has the package
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _model = _load("clip.model")
    CLIP, VisionTransformer, ModifiedResNet = _model.CLIP, _model.VisionTransformer, _model.ModifiedResNet
    ResidualAttentionBlock, Bottleneck, AttentionPool2d = (
        _model.ResidualAttentionBlock, _model.Bottleneck, _model.AttentionPool2d,
    )  # fmt: skip
    SimpleTokenizer = _load("clip.simple_tokenizer").SimpleTokenizer
