"""Trains the denoiser of the VQGAN's latents: `python -m training.denoiser --minutes M`.

Needs the pictures of `training.denoiser_data`. It learns what drawings look like and nothing about words: the loop
asks it to denoise the latent, and the guides alone say what is to be drawn. Resumes from its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from training.checkpoint import Run as Common
from training.denoiser_data import Sketches, load_sketches, load_vqgan
from training.export import export_run
from training.loop import adam, find, learn, options_of, run_main, train, training_parser
from training.quality import save_pictures
from training.recipes import DENOISER
from training.recipes import Denoiser as Recipe
from vqclip.generators.denoiser import Denoiser, guess, make_network, mixture
from vqclip.generators.vqgan import VQGAN, VQModel
from vqclip.weights import load as weights
from vqclip.weights.convert import latents_of


@dataclass
class Run(Common[Recipe, nn.Module]):
    """The denoiser's run: the sketches it learns from."""

    sketches: Sketches


def start(recipe: Recipe, sketches: Sketches, device: torch.device) -> Run:
    """A fresh run, its weights drawn from the recipe's seed; at first the network says "no movement"."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = make_network(**recipe.shape).to(device)
    nn.init.zeros_(model.conv_out.weight)  # type: ignore[arg-type,union-attr]  # taming's last layer
    return Run(recipe, model, adam(recipe, model.parameters()), device, sketches)


def window(codes: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """(B, side, side) out of larger grids of codes (B, H, W), one place for all."""
    top, left = (int(torch.randint(length - side + 1, (), generator=rng)) for length in codes.shape[1:])
    return codes[:, top : top + side, left : left + side]


def draw(run: Run) -> tuple[Tensor, Tensor]:
    """Clean latents (B, D, side, side) and their noise levels (B,)."""
    recipe, batch = run.recipe, run.recipe.amount(run.device)
    some = round(recipe.fine * batch)
    levels = torch.rand(batch, generator=run.rng)
    levels[:some] *= recipe.faint
    parts = []
    for codes, number in ((run.sketches.fine, some), (run.sketches.coarse, batch - some)):
        rows = recipe.held_out + torch.randint(len(codes) - recipe.held_out, (number,), generator=run.rng)
        parts.append(window(codes[rows], recipe.side, run.rng))
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
    return learn(run, progress, loss, len(clean), error=error.mean())


@torch.no_grad()
def sample(denoiser: Denoiser, count: int, channels: int, side: int, *, steps: int, seed: int) -> Tensor:
    """(B, D, side, side) latents out of pure noise by deterministic DDIM (Song et al. 2021)."""
    rng = torch.Generator().manual_seed(seed)
    noisy = torch.randn(count, channels, side, side, generator=rng).to(denoiser.device)
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
    clean = book[run.sketches.coarse[: run.recipe.held_out].long()].permute(0, 3, 1, 2).to(run.device)
    noise = torch.randn(clean.shape, generator=rng).to(run.device)
    figures = {}
    for level in (0.2, 0.5, 0.8):
        levels = torch.full((len(clean),), level, device=run.device)
        figures[f"error_{level}"] = velocity_error(run.average, clean, levels, noise).mean().item()
    denoiser = Denoiser(run.average, device=run.device, dtype=torch.bfloat16)
    drawn = sample(denoiser, 2 * columns, book.shape[1], run.recipe.side, steps=50, seed=9)
    decoder = VQGAN(vqgan, device=run.device)
    save_pictures(sheet, [torch.cat([decoder.decode(each[None]) for each in row])
                          for row in (clean[:columns], drawn[:columns], drawn[columns:])])  # fmt: skip
    return figures | {"deviation": drawn.std().item()}


def write_export(path: Path, run: Run, vqgan: str, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, with `latents_of` the VQGAN it was trained with."""
    export_run(path, run, figures, kind="denoiser", vqgan=vqgan)


def main() -> None:
    """Trains the denoiser on the sketches of `denoiser_data` and exports it at every report."""
    options = options_of(training_parser(__doc__, DENOISER).parse_args(), "denoiser", DENOISER)
    shipped = weights.STARTER / "vqgan.safetensors"
    vqgan, digest = load_vqgan(shipped).to(options.device), latents_of(weights.load(shipped).state)
    drawn = find(options.out, "denoiser/sketches.safetensors", "python -m training.denoiser_data")
    run = start(options.recipe, load_sketches(drawn.parent), options.device)
    options.go_on(run)

    def report() -> dict[str, float]:
        figures = examine(run, vqgan, options.sheet(run.steps))
        write_export(options.export, run, digest, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
