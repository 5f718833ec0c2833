"""Saves and restores a training run as safetensors with a JSON header; a kill leaves the old file whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes named tensors and a JSON-able state to `path`, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(plain, temporary, {"state": json.dumps(state)})
    os.replace(temporary, path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of `save`."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file is no dict
        return tensors, json.loads(file.metadata()["state"])


def pack(model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run: weights, averaged weights and the optimizer's moments."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"moment.{key}.{name}"] = value
    return tensors


def unpack(tensors: dict[str, Tensor], model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts the tensors of `pack` back; a missing or surplus weight is an error."""
    for prefix, module in (("model.", model), ("average.", average)):
        own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        module.load_state_dict(own)
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "moment":
            key, _, parameter = rest.partition(".")
            moments = optimizer.state[parameters[parameter]]
            moments[key] = value if key == "step" else value.to(parameters[parameter].device)
