"""Trains the denoiser of the VQGAN's latents: `python -m training.denoiser --minutes M`.

Needs the pictures of `training.denoiser_data`. It learns what drawings look like and nothing about words: the loop
asks it to tidy the latent, and the guides alone say what is to be drawn. Resumes from its checkpoint.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training import checkpoint
from training.data import cache_folder
from training.denoiser_data import DRAWN, Sketches, load_sketches, load_vqgan
from training.export import export, machine
from training.kandinsky_loop import follow, save_pictures, spend
from training.recipes import pace
from vqclip.models import weights
from vqclip.models.convert import latents_of
from vqclip.models.denoiser import Denoiser, guess, make_network, mixture
from vqclip.models.vqgan import VQGAN, VQModel

SHAPE: dict[str, Any] = {"channels": 64, "width": 64, "multipliers": (1, 2, 3), "groups": 8}
CELLS = 16  # of a training latent's side: a coarse picture whole, a window of a fine one
HELD_OUT = 256  # pictures of either size that are never trained on


@dataclass(frozen=True)
class Recipe:
    """How it is trained; `batch` is for a CPU, a GPU takes eight times as much."""

    seed: int = 17
    batch: int = 64
    rate: float = 1.2e-3
    fine: float = 0.3  # share of windows of fine pictures
    faint: float = 0.6  # the highest level that these are shown at: under more noise a window says nothing
    gamma: float = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    sketches: Sketches
    device: torch.device
    rng: torch.Generator
    seconds: float = 0.0
    steps: int = 0
    views: int = 0


def start(recipe: Recipe, sketches: Sketches, device: torch.device, shape: dict[str, Any]) -> Run:
    """A fresh run, its weights drawn from the recipe's seed; at first the network says "no movement"."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = make_network(**shape).to(device)
    nn.init.zeros_(model.conv_out.weight)  # type: ignore[arg-type,union-attr]  # taming's last layer
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    return Run(recipe, model, average, optimizer, sketches, device, torch.Generator().manual_seed(recipe.seed))


def window(codes: Tensor, rng: torch.Generator) -> Tensor:
    """(B, CELLS, CELLS) out of larger grids of codes (B, H, W), one place for all."""
    top, left = (int(torch.randint(side - CELLS + 1, (), generator=rng)) for side in codes.shape[1:])
    return codes[:, top : top + CELLS, left : left + CELLS]


def draw(run: Run) -> tuple[Tensor, Tensor]:
    """Clean latents (B, D, 16, 16) and their noise levels (B,)."""
    batch = run.recipe.batch * (8 if run.device.type == "cuda" else 1)
    some = round(run.recipe.fine * batch)
    levels = torch.rand(batch, generator=run.rng)
    levels[:some] *= run.recipe.faint
    parts = []
    for codes, count in ((run.sketches.fine, some), (run.sketches.coarse, batch - some)):
        rows = HELD_OUT + torch.randint(len(codes) - HELD_OUT, (count,), generator=run.rng)
        parts.append(window(codes[rows], run.rng))
    latents = run.sketches.codebook[torch.cat(parts).long()].permute(0, 3, 1, 2)
    return latents.to(run.device), (levels * 0.999).to(run.device)


def velocity_error(model: nn.Module, clean: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
    """(B,) mean squared errors of the network's velocity at the levels (B,)."""
    keep, loud = (factor[:, None, None, None] for factor in mixture(levels))
    with torch.autocast(clean.device.type, torch.bfloat16):
        found = guess(model, keep * clean + loud * noise, levels).float()
    return (found - (keep * noise - loud * clean)).square().mean((1, 2, 3))


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step: noise on latents, the network's guess of their velocity, weighted squared error."""
    clean, levels = draw(run)
    noise = torch.randn(clean.shape, generator=run.rng).to(run.device)
    error = velocity_error(run.model, clean, levels, noise)
    keep, loud = mixture(levels)
    loss = (error * (run.recipe.gamma * (loud / keep).square()).clamp(max=1)).mean()
    for group in run.optimizer.param_groups:
        group["lr"] = run.recipe.rate * pace(run.steps, min(progress, 1))
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    follow(run.average, run.model, min(0.999, run.steps / (run.steps + 20)))
    run.steps, run.views = run.steps + 1, run.views + len(clean)
    return {"loss": loss.item(), "error": error.mean().item()}


@torch.no_grad()
def sample(denoiser: Denoiser, count: int, channels: int, *, steps: int, seed: int) -> Tensor:
    """(B, D, 16, 16) latents out of pure noise by deterministic DDIM (Song et al. 2021)."""
    rng = torch.Generator().manual_seed(seed)
    noisy = torch.randn(count, channels, CELLS, CELLS, generator=rng).to(denoiser.device)
    levels = torch.linspace(0.999, 0, steps + 1)
    for level, following in pairwise(levels):
        clean = denoiser.clean(noisy, float(level))
        (keep, loud), (kept, left) = mixture(level), mixture(following)
        noisy = kept * clean + left * (noisy - keep * clean) / loud
    return noisy


@torch.no_grad()
def examine(run: Run, vqgan: VQModel, sheet: Path, columns: int = 12) -> dict[str, float]:
    """Errors on held-out pictures at three levels, and a sheet: training pictures and what comes out of noise."""
    rng, book = torch.Generator().manual_seed(5), run.sketches.codebook
    clean = book[run.sketches.coarse[:HELD_OUT].long()].permute(0, 3, 1, 2).to(run.device)
    noise = torch.randn(clean.shape, generator=rng).to(run.device)
    figures = {}
    for level in (0.2, 0.5, 0.8):
        levels = torch.full((len(clean),), level, device=run.device)
        figures[f"error_{level}"] = velocity_error(run.average, clean, levels, noise).mean().item()
    denoiser = Denoiser(run.average, device=run.device, dtype=torch.bfloat16)
    drawn = sample(denoiser, 2 * columns, book.shape[1], steps=50, seed=9)
    decoder = VQGAN(vqgan, device=run.device)
    save_pictures(sheet, [torch.cat([decoder.decode(each[None]) for each in row])
                          for row in (clean[:columns], drawn[:columns], drawn[columns:])])  # fmt: skip
    return figures | {"deviation": drawn.std().item()}


def write_export(path: Path, run: Run, vqgan: str, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, with `latents_of` the VQGAN it was trained with."""
    training = {
        "minutes": round(run.seconds / 60, 1), "machine": machine(run.device), "steps": run.steps,
        "views": run.views, "seed": run.recipe.seed, "vqgan": vqgan,
        "figures": {key: round(value, 4) for key, value in figures.items()},
    }  # fmt: skip
    tensors = dict(run.average.state_dict())
    export(path, tensors, kind="denoiser", name="denoiser", styles=DRAWN, architecture=SHAPE, training=training)


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer) | {"rng": run.rng.get_state()}
    checkpoint.save(path, tensors, {"seconds": run.seconds, "steps": run.steps, "views": run.views})


def resume_run(path: Path, run: Run) -> None:
    """Puts a checkpoint of `save_run` back, if there is one."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        for name, value in state.items():
            setattr(run, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="training time in all, earlier runs included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder, device = cache_folder(), torch.device(arguments.device)
    shipped = weights.STARTER / "vqgan.safetensors"
    sketches, vqgan = load_sketches(folder / "denoiser"), load_vqgan(shipped).to(device)
    run = start(Recipe(), sketches, device, SHAPE)
    resume_run(folder / "runs" / "denoiser.safetensors", run)
    digest = latents_of(weights.load(shipped).state)

    def report() -> dict[str, float]:
        figures = examine(run, vqgan, folder / "logs" / f"denoiser-{run.steps:06d}.png")
        save_run(folder / "runs" / "denoiser.safetensors", run)
        write_export(folder / "export" / "denoiser.safetensors", run, digest, figures)
        return figures

    spend(run, arguments.minutes, update, report, log=folder / "logs" / "denoiser.jsonl", every=300)


if __name__ == "__main__":
    main()
