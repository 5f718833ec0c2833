"""Trains the starter Kandinsky's MoVQ on drawings: `python -m training.movq --minutes M`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. Half of the pictures are
those of `training.scenes` with every drawing, half with the drawings of the guided names alone.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor

from training.codebook import Usage, cluster, quantise, restart
from training.concepts import GUIDED
from training.data import load
from training.export import export_run
from training.kandinsky_parts import make_movq, shift_latents
from training.loop import adam, learn, options_of, run_main, train, training_parser
from training.quality import psnr, save_pictures, structure
from training.recipes import GUIDE_STYLES, MOVQ
from training.recipes import Movq as Recipe
from training.scenes import Stock, compose, make_stock, present
from training.vqgan import picture_loss
from training.vqgan_run import CodedRun


@dataclass
class Run(CodedRun[Recipe, VQModel]):
    """The MoVQ's run: all drawings and the guided ones."""

    stocks: tuple[Stock, Stock]


def start(recipe: Recipe, stocks: tuple[Stock, Stock]) -> Run:
    """A fresh run, its weights drawn from the recipe's seed."""
    device = stocks[0].pixels.device
    model = make_movq(recipe.shape, recipe.seed).to(device)
    optimizer = adam(recipe, [p for p in model.parameters() if p.requires_grad])
    return Run(recipe, model, optimizer, device, Usage(recipe.shape["num_vq_embeddings"], device), stocks)


def draw(run: Run) -> Tensor:
    """One batch (B, 3, S, S) in [0, 1]: windows of scenes, or as many pixels in whole scenes."""
    recipe, batch = run.recipe, run.recipe.amount(run.device)
    whole = run.steps % recipe.full_every == recipe.full_every - 1
    some = max(2, batch * recipe.crop**2 // recipe.scene**2)
    size, count = (recipe.scene, some) if whole else (recipe.crop, batch)
    halves = [compose(stock, count // 2, size, run.rng, canvas=recipe.scene) for stock in run.stocks]
    return torch.cat(halves)


def encode(run: Run, target: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, D, h, w) float32, before the codes."""
    with torch.autocast(run.device.type, torch.bfloat16):
        hidden: Tensor = run.model.quant_conv(run.model.encoder(target))
    return hidden.float()


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step on one fresh batch; once the codebook is open, a quarter of it goes through the codes."""
    if progress >= run.recipe.open_share and not run.quantised:
        open_codebook(run)
    recipe, model, target = run.recipe, run.model, draw(run) * 2 - 1
    hidden = encode(run, target)
    deviation = hidden.detach().std((0, 2, 3), keepdim=True)
    rows = hidden + recipe.noise * deviation * torch.randn(hidden.shape, generator=run.rng).to(run.device)
    extra = torch.zeros((), device=run.device)
    coded = math.ceil(recipe.coded_share * len(hidden))
    book = model.quantize.embedding.weight
    if run.quantised:
        through, codes, extra = quantise(hidden[:coded], book)
        rows = torch.cat((through, rows[coded:]))
        run.usage.note(codes)
    with torch.autocast(run.device.type, torch.bfloat16):
        out = model.decode(rows, force_not_quantize=True).sample.float()
    loss, plain = picture_loss(out, target, recipe)
    stale = run.quantised and run.steps % recipe.restart_every == 0 and progress < 1 - recipe.settle_share
    figures = learn(
        run, progress, loss, target.numel() // (3 * recipe.crop**2), backward=(loss + extra).backward,
        l1=plain / 2, code_loss=extra, deviation=deviation.mean(),
    )  # fmt: skip
    if stale:
        restart(run.usage, [book, run.average.quantize.embedding.weight], hidden, run.optimizer, run.rng)
    return figures


@torch.no_grad()
def open_codebook(run: Run) -> None:
    """Gives the latents unit deviation and fills the codebook by k-means over those of fresh pictures."""
    parts: list[Tensor] = []
    while sum(map(len, parts)) < run.recipe.cells:
        parts.append(encode(run, draw(run) * 2 - 1).movedim(1, -1).flatten(0, 2))
    cells = torch.cat(parts)
    mean, deviation = cells.mean(0), cells.std(0)
    for each in (run.model, run.average):
        shift_latents(each, mean, deviation)
    rows = cluster((cells - mean) / deviation, len(run.usage.counts), rounds=run.recipe.rounds, rng=run.rng)
    for each in (run.model, run.average):
        each.quantize.embedding.weight.copy_(rows)
    run.quantised = True


def write_export(path: Path, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, the latents of the guided drawings at mean 0 and deviation 1."""
    model, rng = copy.deepcopy(run.average), torch.Generator().manual_seed(3)
    with torch.no_grad():
        image = compose(run.stocks[1], 64, run.recipe.scene, rng)
        cells = torch.cat([model.encode(part * 2 - 1).latents for part in image.split(8)]).movedim(1, -1).flatten(0, 2)
        shift_latents(model, cells.mean(0), cells.std(0))
    export_run(path, run, figures, kind="kandinsky-movq", tensors=dict(model.state_dict()))


@torch.no_grad()
def examine(run: Run, held_out: Stock, sheet: Path, pictures: int = 24) -> dict[str, float]:
    """PSNR and SSIM of unseen drawings and of the guided ones, plain and through the codes; and a sheet of them."""
    figures, rows = {}, []
    for name, stock in (("held_out", held_out), ("guided", run.stocks[1])):
        rng = torch.Generator().manual_seed(7)
        order = torch.randperm(len(stock.pixels), generator=rng)[:pictures]
        image = present(stock, order, run.recipe.scene, rng, white=name == "guided")
        latents = torch.cat([run.average.encode(part * 2 - 1).latents for part in image.split(8)])
        rows.append(image[:12])
        for kind, plain in (("plain", True), ("codes", False)):
            parts = [run.average.decode(part, force_not_quantize=plain).sample for part in latents.split(8)]
            out = (torch.cat(parts) / 2 + 0.5).clamp(0, 1)
            figures[f"psnr_{name}_{kind}"] = psnr(out, image).mean().item()
            figures[f"ssim_{name}_{kind}"] = structure(out, image).mean().item()
            rows.append(out[:12])
    save_pictures(sheet, rows)
    return figures


def main() -> None:
    """Trains the MoVQ and exports it at every report."""
    options = options_of(training_parser(__doc__, MOVQ).parse_args(), "kandinsky-movq", MOVQ)
    device, styles = options.device, options.recipe.styles
    guided = load(GUIDE_STYLES, "concepts").only(GUIDED)
    run = start(options.recipe, (make_stock(load(styles, "train"), device), make_stock(guided, device)))
    held_out = make_stock(load(styles, "held-out"), device)
    options.go_on(run)

    def report() -> dict[str, float]:
        figures = examine(run, held_out, options.sheet(run.steps))
        write_export(options.export, run, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
