"""Trains the starter Kandinsky's MoVQ on drawings: `python -m training.movq --minutes M`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. Half of the pictures are
those of `training.scenes` with every drawing, half with the drawings of the guided names alone.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor

from training import checkpoint
from training.codebook import Usage, cluster, quantise, restart
from training.concepts import GUIDED
from training.data import cache_folder, load
from training.export import export, machine
from training.kandinsky_loop import follow, save_pictures, spend
from training.kandinsky_parts import MOVQ, make_movq, shift_latents
from training.quality import psnr, structure
from training.recipes import GUIDE_STYLES, pace
from training.scenes import Stock, compose, make_stock, present
from training.vqgan import picture_loss
from training.vqgan_run import CROP, SCENE, STYLES, Recipe

_CELLS = 30_000  # latents that the codebook starts from
RECIPE = Recipe(seed=71, open_share=0.25, settle_share=0.15, full_every=4)
NOISE = 0.12  # on unit latents: what a sampler leaves over, and what keeps near latents near pictures


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: VQModel
    average: VQModel
    optimizer: torch.optim.Optimizer
    usage: Usage
    stocks: tuple[Stock, Stock]
    device: torch.device
    rng: torch.Generator
    seconds: float = 0.0
    steps: int = 0
    views: int = 0
    quantised: bool = False


def start(recipe: Recipe, stocks: tuple[Stock, Stock], shape: dict[str, Any] = MOVQ) -> Run:
    """A fresh run on all drawings and on the guided ones, its weights drawn from the recipe's seed."""
    device = stocks[0].pixels.device
    model = make_movq(shape, recipe.seed).to(device)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=recipe.rate, betas=(0.9, 0.99))
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    rng = torch.Generator().manual_seed(recipe.seed)
    return Run(recipe, model, average, optimizer, Usage(shape["num_vq_embeddings"], device), stocks, device, rng)


def draw(run: Run) -> Tensor:
    """One batch in [0, 1]: windows of scenes, or as many pixels in whole scenes."""
    batch = run.recipe.batch * (16 if run.device.type == "cuda" else 1)
    whole = run.steps % run.recipe.full_every == run.recipe.full_every - 1
    size, count = (SCENE, max(2, batch * CROP**2 // SCENE**2)) if whole else (CROP, batch)
    halves = [compose(stock, count // 2, size, run.rng, canvas=SCENE) for stock in run.stocks]
    return torch.cat(halves)


def encode(run: Run, target: Tensor) -> Tensor:
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
    rows = hidden + NOISE * deviation * torch.randn(hidden.shape, generator=run.rng).to(run.device)
    extra = torch.zeros((), device=run.device)
    coded = (len(hidden) + 3) // 4
    book = model.quantize.embedding.weight
    if run.quantised:
        through, codes, extra = quantise(hidden[:coded], book)
        rows = torch.cat((through, rows[coded:]))
        run.usage.note(codes)
    with torch.autocast(run.device.type, torch.bfloat16):
        out = model.decode(rows, force_not_quantize=True).sample.float()
    loss, plain = picture_loss(out, target, recipe)
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate * pace(run.steps, min(progress, 1))
    run.optimizer.zero_grad(set_to_none=True)
    (loss + extra).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    run.optimizer.step()
    if run.quantised and run.steps % 40 == 0 and progress < 1 - recipe.settle_share:
        restart(run.usage, [book, run.average.quantize.embedding.weight], hidden, run.optimizer, run.rng)
    follow(run.average, model, min(0.998, run.steps / (run.steps + 20)))
    run.steps, run.views = run.steps + 1, run.views + target.numel() // (3 * CROP**2)
    figures = {"loss": loss, "l1": plain / 2, "code_loss": extra, "deviation": deviation.mean()}
    return {name: value.item() for name, value in figures.items()}


@torch.no_grad()
def open_codebook(run: Run) -> None:
    """Gives the latents unit deviation and fills the codebook by k-means over those of fresh pictures."""
    parts: list[Tensor] = []
    while sum(map(len, parts)) < _CELLS:
        parts.append(encode(run, draw(run) * 2 - 1).movedim(1, -1).flatten(0, 2))
    cells = torch.cat(parts)
    mean, deviation = cells.mean(0), cells.std(0)
    for each in (run.model, run.average):
        shift_latents(each, mean, deviation)
    rows = cluster((cells - mean) / deviation, len(run.usage.counts), rounds=12, rng=run.rng)
    for each in (run.model, run.average):
        each.quantize.embedding.weight.copy_(rows)
    run.quantised = True


def write_export(path: Path, run: Run, figures: dict[str, float], shape: dict[str, Any] = MOVQ) -> None:
    """The averaged weights as a starter file, the latents of the guided drawings at mean 0 and deviation 1."""
    model, rng = copy.deepcopy(run.average), torch.Generator().manual_seed(3)
    with torch.no_grad():
        image = compose(run.stocks[1], 64, SCENE, rng)
        cells = torch.cat([model.encode(part * 2 - 1).latents for part in image.split(8)]).movedim(1, -1).flatten(0, 2)
        shift_latents(model, cells.mean(0), cells.std(0))
    training = {
        "minutes": round(run.seconds / 60, 1), "machine": machine(run.device), "steps": run.steps, "crops": run.views,
        "seed": run.recipe.seed, "figures": {key: round(value, 4) for key, value in figures.items()},
    }  # fmt: skip
    tensors = dict(model.state_dict())
    name = "kandinsky-movq"
    export(path, tensors, kind=name, name=name, styles=STYLES, architecture=shape, training=training)


@torch.no_grad()
def examine(run: Run, held_out: Stock, sheet: Path, pictures: int = 24) -> dict[str, float]:
    """PSNR and SSIM of unseen drawings and of the guided ones, plain and through the codes; and a sheet of them."""
    figures, rows = {}, []
    for name, stock in (("held_out", held_out), ("guided", run.stocks[1])):
        rng = torch.Generator().manual_seed(7)
        order = torch.randperm(len(stock.pixels), generator=rng)[:pictures]
        image = present(stock, order, SCENE, rng, white=name == "guided")
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


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer)
    tensors |= {"rng": run.rng.get_state(), "usage": run.usage.counts}
    checkpoint.save(path, tensors, {name: getattr(run, name) for name in ("seconds", "steps", "views", "quantised")})


def resume_run(path: Path, run: Run) -> None:
    """Puts a checkpoint of `save_run` back, if there is one."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        run.usage.counts = tensors.pop("usage").to(run.device)
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        for name, value in state.items():
            setattr(run, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40, help="training time in all, earlier runs included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder, device = cache_folder(), torch.device(arguments.device)
    stocks = make_stock(load(STYLES, "train"), device), make_stock(load(GUIDE_STYLES, "concepts").only(GUIDED), device)
    held_out = make_stock(load(STYLES, "held-out"), device)
    run = start(RECIPE, stocks)
    resume_run(folder / "runs" / "kandinsky-movq.safetensors", run)

    def report() -> dict[str, float]:
        figures = examine(run, held_out, folder / "logs" / f"kandinsky-movq-{run.steps:06d}.png")
        save_run(folder / "runs" / "kandinsky-movq.safetensors", run)
        write_export(folder / "export" / "kandinsky-movq.safetensors", run, figures)
        return figures

    spend(run, arguments.minutes, update, report, log=folder / "logs" / "kandinsky-movq.jsonl")


if __name__ == "__main__":
    main()
