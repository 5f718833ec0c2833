"""Writes a trained model as a safetensors file for `vqclip/starter`: fp16 weights, token ids, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.checkpoint import Run, write_whole
from training.loop import machine
from training.recipes import describe
from training.sources import STYLES

VERSION = "1"
LICENCE = "MIT; trained on drawings under Apache-2.0, MIT and CC-BY-4.0, credited in MODELS.md"


def describe_styles(styles: Iterable[str]) -> list[dict[str, str]]:
    """Name, version, licence and author of every drawing set that was trained on."""
    found = [STYLES[style] for style in styles]
    return [{"name": p.name, "version": p.version, "licence": p.licence, "author": p.author} for p in found]


def export(
    path: Path, tensors: dict[str, Tensor], *, kind: str, name: str, styles: Iterable[str],
    architecture: dict[str, Any], training: dict[str, Any],
) -> None:  # fmt: skip
    """Writes one starter model atomically.

    Args:
        path: of the .safetensors file.
        tensors: the state dict; floating tensors become fp16, the rest keeps its type.
        kind: "clip", "vqgan", "denoiser" or one of the small Kandinsky's parts.
        name: as in the recipe table.
        styles: the drawing sets it was trained on; share-alike sets are refused.
        architecture: constructor arguments.
        training: minutes, machine, views, seed, recipe and figures.

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
    write_whole(path, halves, metadata)


def export_run(
    path: Path, run: Run[Any, Any], figures: dict[str, float], *, kind: str, name: str = "",
    tensors: dict[str, Tensor] | None = None, architecture: dict[str, Any] | None = None, **said: Any,
) -> None:  # fmt: skip
    """Writes the averaged weights of a run, with its time, place, counts, recipe and figures; raises as `export`.

    Args:
        path: as for `export`.
        run: whose recipe names the drawing sets.
        figures: what was measured last.
        kind: as for `export`.
        name: where it is not the kind.
        tensors: a state dict, where it is not the averaged weights as they are.
        architecture: constructor arguments, where they are not the recipe's `shape`.
        **said: what else is to be known of the training, such as the digest of what it was trained with.
    """
    recipe = describe(run.recipe)
    shape = recipe.pop("shape", architecture)
    training = {
        "minutes": round(run.seconds / 60, 1), "cpu_minutes": round(run.processor / 60, 1),
        "machine": machine(run.device), "steps": run.steps, run.counted: run.views, "seed": run.recipe.seed, **said,
        "figures": {key: round(value, 4) for key, value in figures.items()}, "recipe": recipe,
    }  # fmt: skip
    if run.changes:
        training["changes"] = run.changes
    export(
        path, dict(run.average.state_dict()) if tensors is None else tensors, kind=kind, name=name or kind,
        styles=run.recipe.styles, architecture=architecture or shape, training=training,
    )  # fmt: skip
