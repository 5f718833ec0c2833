"""Trains the small VQGAN on drawings: `python -m training.vqgan --minutes M [--perceptual] [--adversarial]`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. Pictures come from
`training.scenes`, figures from `training.quality`; the network itself is `vqclip.models.vqgan.VQModel`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.codebook import cluster, quantise, restart
from training.data import cache_folder, load
from training.discriminator import Critics
from training.quality import count_codes, measure, save_sheet
from training.recipes import pace
from training.scenes import Stock, compose, make_stock
from training.vqgan_run import CROP, SCENE, STYLES, Recipe, Run, keep_latents, resume_run, save_run, start, write_export
from vqclip.models.vqgan import VQModel

EXPORT_SECONDS = 330
OPPONENTS = torch.tensor([[0.5, -1.0, 0.5], [1.0, 0.0, -1.0]])  # green against magenta, red against blue
_CELLS = 40_000  # encoder outputs that the codebook starts from


def draw(run: Run) -> Tensor:
    """One batch: crops of scenes (a quarter of them magnified), or as many pixels in whole scenes."""
    stock, batch = run.stock, run.recipe.batch * (16 if run.device.type == "cuda" else 1)
    if run.steps % run.recipe.full_every == run.recipe.full_every - 1:
        return compose(stock, max(1, batch * CROP**2 // SCENE**2), SCENE, run.rng, canvas=SCENE)
    near = batch // 4
    parts = [compose(stock, near, CROP, run.rng, canvas=2 * SCENE)] if near else []
    return torch.cat([*parts, compose(stock, batch - near, CROP, run.rng, canvas=SCENE)])


def picture_loss(image: Tensor, target: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Weighted sum of L1, L1 of gradients, of 8x8 averages and of colour differences; and the L1 alone.

    The last one is for flat grounds, whose colour a per-pixel loss leaves slightly wrong for long.
    """
    error = image - target
    plain = error.abs().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    flat = F.avg_pool2d(error, 8).abs().mean() + 0.5 * F.avg_pool2d(error, 4).abs().mean()
    colour = torch.einsum("ac,bchw->bahw", OPPONENTS.to(error), error).abs().mean()
    return plain + recipe.edges * edges + recipe.flat * flat + recipe.colour * colour, plain


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step on one fresh batch."""
    if progress >= run.recipe.open_share and not run.quantised:
        open_codebook(run)
    recipe, model, target = run.recipe, run.model, draw(run) * 2 - 1
    whole = model.codebook.requires_grad  # not the decoder alone
    with torch.autocast(run.device.type, torch.bfloat16), torch.set_grad_enabled(whole):
        hidden = model.quant_conv(model.encoder(target)).float()
    extra = torch.zeros((), device=run.device)
    rows = hidden
    if run.quantised:
        rows, codes, extra = quantise(hidden, model.codebook)
        run.usage.note(codes)
    with torch.autocast(run.device.type, torch.bfloat16):
        out = model.decoder(model.post_quant_conv(rows)).float()
    loss, plain = picture_loss(out, target, recipe)
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate * pace(run.steps, min(progress, 1), restarted=run.since > 0)
    run.optimizer.zero_grad(set_to_none=True)
    if run.critics is None:
        (loss + extra).backward()
    else:
        pull = run.critics.pull(out, target, loss)
        learning = run.quantised and whole
        torch.autograd.backward([out, extra] if learning else [out], [pull, None] if learning else [pull])
        run.critics.learn(out, target)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    run.optimizer.step()
    if whole and run.quantised and run.steps % 40 == 0 and progress < 1 - recipe.settle_share:
        restart(run.usage, [model.codebook, run.average.codebook], hidden, run.optimizer, run.rng)
    follow(run.average, model, min(0.998, run.steps / (run.steps + 20)))
    run.steps, run.crops = run.steps + 1, run.crops + target.numel() // (3 * CROP**2)
    return {"loss": loss.item(), "l1": plain.item() / 2, "code_loss": extra.item()}


@torch.no_grad()
def open_codebook(run: Run) -> None:
    """Fills the codebook by k-means over encoder outputs of fresh pictures and switches quantisation on."""
    model, cells = run.model, []
    while sum(map(len, cells)) < _CELLS:
        with torch.autocast(run.device.type, torch.bfloat16):
            out = model.quant_conv(model.encoder(draw(run) * 2 - 1)).float()
        cells.append(out.movedim(1, -1).reshape(-1, out.shape[1]))
    rows = cluster(torch.cat(cells), len(model.codebook), rounds=12, rng=run.rng)
    for each in (model, run.average):
        each.codebook.copy_(rows)
    run.quantised = True


@torch.no_grad()
def follow(average: VQModel, model: VQModel, decay: float) -> None:
    """Moves the averaged weights towards the model's."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


def examine(run: Run, held_out: Stock, *, pictures: int) -> dict[str, float]:
    """Figures of the averaged weights on so many held-out pictures, and how many codes training pictures use."""
    used = count_codes(run.average, run.stock) if run.quantised else 0
    return measure(run.average, held_out, pictures=pictures) | {"codes": used}


def train(run: Run, minutes: float, held_out: Stock, folder: Path) -> None:
    """Trains until `minutes` of training time are spent, examining, saving and exporting every few of them."""
    total, saved, rows = 60 * minutes, run.seconds, []
    last, spent = time.monotonic(), time.process_time()
    while run.seconds < total:
        rows.append(update(run, (run.seconds - run.since) / (total - run.since)))
        run.seconds, last = run.seconds + time.monotonic() - last, time.monotonic()
        run.processor, spent = run.processor + time.process_time() - spent, time.process_time()
        if run.seconds - saved > EXPORT_SECONDS or run.seconds >= total:
            means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            spend = {"minutes": run.seconds / 60, "cpu_minutes": run.processor / 60}
            line = spend | {"steps": run.steps, "crops": run.crops}
            save_run(folder / "runs" / "vqgan.safetensors", run)
            figures = examine(run, held_out, pictures=32 if run.seconds < total else 128)
            log(folder / "logs" / "vqgan.jsonl", line | means | figures)
            save_sheet(folder / "logs" / f"vqgan-{run.steps:06d}.png", run.average, held_out)
            if run.quantised:
                write_export(folder / "export" / "vqgan.safetensors", run, figures)
            saved, rows = run.seconds, []
            last, spent = time.monotonic(), time.process_time()  # examining is not training


def log(path: Path, line: dict[str, float]) -> None:
    """Adds one JSON line to the log and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: round(value, 4) for key, value in line.items()})
    with path.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="training time in all, earlier runs included")
    parser.add_argument("--perceptual", action="store_true", help="add the features of the exported ResNet guide")
    parser.add_argument("--adversarial", action="store_true", help="add a patch discriminator")
    parser.add_argument("--decoder", action="store_true", help="keep the latents: the decoder learns alone")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder, device = cache_folder(), torch.device(arguments.device)
    run = start(Recipe(), make_stock(load(STYLES, "train"), device))
    if arguments.perceptual or arguments.adversarial:
        guide = folder / "export" / "guide-rn.safetensors" if arguments.perceptual else None
        run.critics = Critics(device, clip=guide, adversarial=arguments.adversarial)
    resume_run(folder / "runs" / "vqgan.safetensors", run)
    if arguments.decoder:
        keep_latents(run)
    train(run, arguments.minutes, make_stock(load(STYLES, "held-out"), device), folder)


if __name__ == "__main__":
    main()
