"""Draws the pictures that the denoiser learns from, as codes of the shipped VQGAN: `python -m training.denoiser_data`.

Whole drawings on plain grounds at two sizes. Trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoint import write_whole
from training.concepts import GUIDED
from training.data import load
from training.loop import device_and_folder, parser_of, run_main
from training.recipes import SKETCHES
from training.steps import draw_rows
from training.views import Bank, make_bank, make_views
from vqclip.generators.quantize import nearest_codes
from vqclip.generators.vqgan import VQModel, build, groups_of
from vqclip.weights import load as weights

CROPS, DRAWN = SKETCHES.crops, SKETCHES.styles
SIDE = 128  # pixels of a coarse picture; a fine one has twice as many
_BATCH = 32


@dataclass(frozen=True)
class Sketches:
    """Code indices of coarse pictures (N, 16, 16) and fine ones (M, 32, 32), int16, and the codebook (K, D)."""

    coarse: Tensor
    fine: Tensor
    codebook: Tensor


def load_vqgan(path: Path) -> VQModel:
    """The shipped VQGAN, float32, frozen."""
    file = weights.load(path)
    return build(file.state, groups=groups_of(file.metadata))


@torch.no_grad()
def draw_codes(bank: Bank, vqgan: VQModel, *, side: int, count: int, seed: int) -> Tensor:
    """(N, side/8, side/8) int16 codes of `count` pictures; one seed gives the same ones."""
    rng, parts, book = torch.Generator().manual_seed(seed), [], vqgan.codebook
    while sum(map(len, parts)) < count:
        rows = draw_rows(bank, min(_BATCH, count - sum(map(len, parts))), rng)
        image, _ = make_views(bank, rows, CROPS, size=side, rng=rng)
        with torch.autocast(image.device.type, torch.bfloat16):
            hidden = vqgan.quant_conv(vqgan.encoder(image * 2 - 1))
        parts.append(nearest_codes(hidden.float(), book, book.square().sum(1)).to(torch.int16).cpu())
    return torch.cat(parts)


def load_sketches(folder: Path) -> Sketches:
    """What `main` wrote."""
    tensors = load_file(folder / "sketches.safetensors")
    return Sketches(tensors["coarse"], tensors["fine"], tensors["codebook"])


def main() -> None:
    """Draws and encodes the pictures, of both sizes, and writes sketches.safetensors."""
    parser = parser_of(__doc__, seed=SKETCHES.seed)
    parser.add_argument("--coarse", type=int, default=SKETCHES.coarse, help=f"pictures of {SIDE} px")
    parser.add_argument("--fine", type=int, default=SKETCHES.fine, help=f"pictures of {2 * SIDE} px")
    arguments = parser.parse_args()
    device, out = device_and_folder(arguments)
    vqgan = load_vqgan(weights.STARTER / "vqgan.safetensors").to(device)
    icons = load(DRAWN, "concepts").only(GUIDED)
    tensors = {"codebook": vqgan.codebook.float()}
    for name, factor, count in (("coarse", 1, arguments.coarse), ("fine", 2, arguments.fine)):
        side, seed = SIDE * factor, arguments.seed + factor
        bank = make_bank(icons, side=side, variants=SKETCHES.variants, seed=seed).to(device)
        tensors[name] = draw_codes(bank, vqgan, side=side, count=count, seed=seed)
        print(f"{len(tensors[name])} {name} pictures of {len(bank.truths)} variants", flush=True)
    write_whole(out / "denoiser" / "sketches.safetensors", tensors)


if __name__ == "__main__":
    run_main(main)
