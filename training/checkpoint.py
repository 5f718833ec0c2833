"""Every training's way to be saved and to go on: one whole file, checked when read, with the one before it kept."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.recipes import Training, describe
from vqclip.job import InputError
from vqclip.weights.convert import digest_of

R = TypeVar("R", bound=Training)
M = TypeVar("M", bound=nn.Module)
COUNTERS = ("seconds", "processor", "steps", "views", "since", "changes")


@dataclass
class Run(Generic[R, M]):
    """Everything that changes while training; subclasses add what they need at every step, and what else they keep.

    The average starts as a copy of the model, both generators from the recipe's seed.
    """

    counted: ClassVar[str] = "views"  # what `views` are called in an exported file

    recipe: R
    model: M
    optimizer: torch.optim.Optimizer
    device: torch.device
    average: M = field(init=False)
    rng: torch.Generator = field(init=False)
    words: np.random.Generator = field(init=False)  # what is said, where anything is
    seconds: float = field(default=0.0, kw_only=True)
    processor: float = field(default=0.0, kw_only=True)  # seconds of CPU time
    since: float = field(default=0.0, kw_only=True)  # seconds spent when the present cosine of rates began
    steps: int = field(default=0, kw_only=True)
    views: int = field(default=0, kw_only=True)
    changes: list[dict[str, Any]] = field(default_factory=list, kw_only=True)  # of the recipe while it ran

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self.rng = torch.Generator().manual_seed(self.recipe.seed)
        self.words = np.random.default_rng(self.recipe.seed)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A state dict and JSON values to be saved beside those that every run has."""
        return {}, {}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back what `kept` gave. Called before the weights are loaded from the state dict, which it may change."""


def save_run(path: Path, run: Run[Any, Any]) -> None:
    """Weights, averages, moments, generators, counters, recipe and what the run keeps of its own, for `resume_run`."""
    tensors, own = run.kept()
    tensors = tensors | pack(run.model, run.optimizer)
    tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    tensors |= {"rng": run.rng.get_state(), "global_rng": torch.get_rng_state()}
    if run.device.type == "cuda":
        tensors["cuda_rng"] = torch.cuda.get_rng_state(run.device)
    state = {name: getattr(run, name) for name in COUNTERS} | {"words": run.words.bit_generator.state}
    save(path, tensors, state | {"recipe": describe(run.recipe), "own": own})


def resume_run(path: Path, run: Run[Any, Any], *, changed: bool = False) -> None:
    """Puts a checkpoint of `save_run` back, if there is one: the run goes on bit for bit on the same machine.

    Args:
        path: of the checkpoint.
        run: a fresh one.
        changed: take another recipe than the checkpoint's, and note in `run.changes` what is another one since when.

    Raises:
        InputError: damaged checkpoints alone, one of another recipe, or one whose weights have other shapes.
    """
    found = load(path)
    if found is None:
        return
    tensors, state = found
    changes = compare(state["recipe"], describe(run.recipe))
    if changes and not changed:
        said = ", ".join(f"{each['key']} was {each['was']} and is {each['is']}" for each in changes)
        raise InputError(f"{path}: {said}; --changed goes on nevertheless, --no-resume begins anew")
    try:
        run.restore(tensors, state["own"])
        unpack(tensors, run.model, run.optimizer)
        run.average.load_state_dict(_under("average.", tensors))
    except (RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: does not fit this training ({said}); --no-resume begins anew") from error
    for name in COUNTERS:
        setattr(run, name, state[name])
    run.changes += [{"minutes": round(run.seconds / 60, 1)} | each for each in changes]
    run.words.bit_generator.state = state["words"]
    run.rng.set_state(tensors["rng"])
    torch.set_rng_state(tensors["global_rng"])
    if run.device.type == "cuda" and "cuda_rng" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_rng"], run.device)


def compare(was: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Which values of a recipe are others. `minutes` may be: a training is often given more."""
    keys = [key for key in sorted(was.keys() | now.keys()) if key != "minutes" and was.get(key) != now.get(key)]
    return [{"key": key, "was": was.get(key), "is": now.get(key)} for key in keys]


def pack(model: nn.Module, optimizer: torch.optim.Optimizer, prefix: str = "") -> dict[str, Tensor]:
    """Weights and the optimizer's moments of one network, as one state dict."""
    tensors = {f"{prefix}model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}moment.{key}.{name}"] = value
    return tensors


def unpack(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, prefix: str = "") -> None:
    """Puts the state dict of `pack` back; a missing or surplus weight is a RuntimeError."""
    model.load_state_dict(_under(f"{prefix}model.", tensors))
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(f"{prefix}moment.", tensors).items():
        key, _, parameter = name.partition(".")
        moments.setdefault(order.index(parameter), {})[key] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def write_whole(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, *, before: Path | None = None
) -> None:
    """A safetensors file that is there whole or not at all, also after a power cut.

    Args:
        path: of the file, replaced at once.
        tensors: a state dict, moved to the CPU.
        metadata: strings of its header.
        before: where the file that was there until now is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, part, metadata)
    _flush(part)
    if before is not None and path.exists():
        os.replace(path, before)
    os.replace(part, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Waits until a file is on the disk, or a folder's names; Windows can not open a folder."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes a state dict and a JSON-able state to `path`, with their digest; the one before stays beside it."""
    text = json.dumps(state)
    write_whole(path, tensors, {"state": text, "digest": _digest(tensors, text)}, before=previous(path))


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_suffix(".previous.safetensors")


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The state dict and the state of `save`: the last ones, or those before where the last file is missing or damaged.

    None where neither is there. A damaged file is put aside, so that the next `save` keeps the good one.

    Raises:
        InputError: all there is is damaged.
    """
    there = [each for each in (path, previous(path)) if each.exists()]
    found = next((each for each in there if _read(each) is not None), None)
    if there and found is None:
        said = " and ".join(map(str, there))
        raise InputError(f"{said}: damaged, and there is no other checkpoint; --no-resume begins anew")
    if found is not None and found != there[0]:
        os.replace(path, path.with_suffix(".damaged"))
        print(f"{path}: damaged, put aside; goes on from the one before, {found.name}", flush=True)
    return None if found is None else _read(found)


def put_aside(path: Path) -> None:
    """Keeps the last checkpoint under another name: a run that begins anew never goes on from it."""
    if path.exists():
        os.replace(path, path.with_suffix(".earlier.safetensors"))
    previous(path).unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a file, no dict
            metadata = file.metadata() or {}
        text = metadata["state"]
        return (tensors, json.loads(text)) if metadata["digest"] == _digest(tensors, text) else None
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    return hashlib.sha256((digest_of({k: v.cpu() for k, v in tensors.items()}) + text).encode()).hexdigest()
