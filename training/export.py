"""Writes a trained model as a safetensors file for `vqclip/starter`: fp16 weights, token ids, provenance."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.sources import STYLES

VERSION = "1"
LICENCE = "MIT; trained on drawings under Apache-2.0, MIT and CC-BY-4.0, credited in MODELS.md"


def describe_styles(styles: Iterable[str]) -> list[dict[str, str]]:
    """Name, version, licence and author of every drawing set that was trained on."""
    found = [STYLES[style] for style in styles]
    return [{"name": p.name, "version": p.version, "licence": p.licence, "author": p.author} for p in found]


def machine(device: torch.device) -> str:
    """Where a training runs, for the exported file: the accelerator, or how many threads of how many cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    of = f"{threads} thread{'s' * (threads > 1)} of {cores} core{'s' * (cores > 1)}, {platform.machine()}"
    return of if device.type == "cpu" else f"{device.type}, {of}"


def export(
    path: Path, tensors: dict[str, Tensor], *, kind: str, name: str, styles: Iterable[str],
    architecture: dict[str, Any], training: dict[str, Any],
) -> None:  # fmt: skip
    """Writes one starter model atomically.

    Args:
        path: of the .safetensors file.
        tensors: the state dict; floating tensors become fp16, the rest keeps its type.
        kind: "clip" or "vqgan".
        name: as in the recipe table.
        styles: the drawing sets it was trained on; share-alike sets are refused.
        architecture: constructor arguments.
        training: minutes, machine, views, seed and figures.

    Raises:
        ValueError: for a share-alike style, or a weight that fp16 can not hold.
    """
    styles = list(styles)
    if barred := [style for style in styles if "SA" in STYLES[style].licence]:
        raise ValueError(f"{name} was trained on {barred}, whose licence is share-alike; it can not ship")
    halves = {}
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        halves[key] = value.to(torch.float16) if value.is_floating_point() else value
        if not halves[key].isfinite().all():
            raise ValueError(f"{name}: {key} has values that fp16 can not hold")
    metadata = {
        "format": "vqclip-1", "kind": kind, "name": name, "version": VERSION, "licence": LICENCE,
        "provenance": json.dumps(describe_styles(styles)), "architecture": json.dumps(architecture),
        "training": json.dumps(training),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file(halves, temporary, metadata)
    os.replace(temporary, path)
