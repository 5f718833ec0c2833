"""Puts finished exports into the package: `python -m training.ship [NAME ...]`, with hashes in manifest.json.

Trains nothing. The one change it makes: the VQGAN's codebook gets unit deviation, exactly undone in the layers
around it, so that a learning rate means the same after every training.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from training.checkpoint import write_whole
from training.data import cache_folder

STARTER = Path(__file__).parent.parent / "vqclip" / "starter"


def unit_codebook(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the same VQGAN with codes of standard deviation 1.

    One factor for all channels: nearest codes stay the same ones. What goes into the codebook's space is divided
    by it, what comes out multiplied.
    """
    scale = state["quantize.embedding.weight"].double().std()
    changed = dict(state)
    for key in ("quantize.embedding.weight", "quant_conv.weight", "quant_conv.bias"):
        changed[key] = (state[key].double() / scale).to(state[key].dtype)
    changed["post_quant_conv.weight"] = (state["post_quant_conv.weight"].double() * scale).to(
        state["post_quant_conv.weight"].dtype
    )
    return changed


def ship(source: Path, target: Path) -> str:
    """Copy one export, its metadata kept; returns the SHA-256 of what was written."""
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    if metadata["kind"] == "vqgan":
        state = unit_codebook(state)
    write_whole(target, dict(sorted(state.items())), metadata)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Ship the named exports, or all there are, and bring the manifest up to date."""
    exports = cache_folder() / "export"
    for name in sys.argv[1:] or sorted(path.stem for path in exports.glob("*.safetensors")):
        digest = ship(exports / f"{name}.safetensors", STARTER / f"{name}.safetensors")
        print(f"{name}: {digest}")
    shipped = sorted(STARTER.glob("*.safetensors"))
    manifest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped}
    (STARTER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
