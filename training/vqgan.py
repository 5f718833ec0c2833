"""Trains the small VQGAN on drawings: `python -m training.vqgan --minutes M [--perceptual] [--adversarial]`.

Resumes from its checkpoint when started again; exports the averaged weights as it goes. Pictures come from
`training.scenes`, figures from `training.quality`; the network itself is `vqclip.generators.vqgan.VQModel`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.codebook import cluster, quantise, restart
from training.data import load
from training.discriminator import Critics
from training.loop import find_export, learn, options_of, run_main, train, training_parser
from training.quality import count_codes, measure, save_sheet
from training.recipes import VQGAN, Autoencoder
from training.scenes import Stock, compose, make_stock
from training.vqgan_run import Run, keep_latents, start, write_export

OPPONENTS = torch.tensor([[0.5, -1.0, 0.5], [1.0, 0.0, -1.0]])  # green against magenta, red against blue


def draw(run: Run) -> Tensor:
    """One batch (B, 3, S, S) in [0, 1]: crops of scenes (a quarter of them magnified), or as many pixels in
    whole scenes."""
    recipe, stock, batch = run.recipe, run.stock, run.recipe.amount(run.device)
    crop, scene = recipe.crop, recipe.scene
    if run.steps % recipe.full_every == recipe.full_every - 1:
        return compose(stock, max(1, batch * crop**2 // scene**2), scene, run.rng, canvas=scene)
    near = batch // 4
    parts = [compose(stock, near, crop, run.rng, canvas=2 * scene)] if near else []
    return torch.cat([*parts, compose(stock, batch - near, crop, run.rng, canvas=scene)])


def picture_loss(image: Tensor, target: Tensor, recipe: Autoencoder) -> tuple[Tensor, Tensor]:
    """Weighted sum of L1, L1 of gradients, of 4x4 and 8x8 averages and of colour differences; and the L1 alone.

    Pictures (B, 3, H, W) of one range; both values are scalars. The sum's last term is for flat grounds, whose colour a
    per-pixel loss leaves slightly wrong for long.
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

    def backward() -> None:
        if run.critics is None:
            (loss + extra).backward()
            return
        pull = run.critics.pull(out, target, loss)
        learning = run.quantised and whole
        torch.autograd.backward([out, extra] if learning else [out], [pull, None] if learning else [pull])
        run.critics.learn(out, target)

    stale = whole and run.quantised and run.steps % recipe.restart_every == 0 and progress < 1 - recipe.settle_share
    views = target.numel() // (3 * recipe.crop**2)
    figures = learn(run, progress, loss, views, backward=backward, l1=plain / 2, code_loss=extra)
    if stale:
        restart(run.usage, [model.codebook, run.average.codebook], hidden, run.optimizer, run.rng)
    return figures


@torch.no_grad()
def open_codebook(run: Run) -> None:
    """Fills the codebook by k-means over encoder outputs of fresh pictures and switches quantisation on."""
    model, cells = run.model, []
    while sum(map(len, cells)) < run.recipe.cells:
        with torch.autocast(run.device.type, torch.bfloat16):
            out = model.quant_conv(model.encoder(draw(run) * 2 - 1)).float()
        cells.append(out.movedim(1, -1).reshape(-1, out.shape[1]))
    rows = cluster(torch.cat(cells), len(model.codebook), rounds=run.recipe.rounds, rng=run.rng)
    for each in (model, run.average):
        each.codebook.copy_(rows)
    run.quantised = True


def examine(run: Run, held_out: Stock, *, pictures: int) -> dict[str, float]:
    """Figures of the averaged weights on so many held-out pictures, and how many codes training pictures use."""
    used = count_codes(run.average, run.stock) if run.quantised else 0
    return measure(run.average, held_out, pictures=pictures) | {"codes": used}


def main() -> None:
    """Trains the VQGAN, exports it at every report, and draws what it makes of held-out pictures."""
    parser = training_parser(__doc__, VQGAN)
    parser.add_argument("--perceptual", action="store_true", help="add the features of the exported ResNet guide")
    parser.add_argument("--adversarial", action="store_true", help="add a patch discriminator")
    parser.add_argument("--decoder", action="store_true", help="keep the latents: the decoder learns alone")
    arguments = parser.parse_args()
    options = options_of(arguments, "vqgan", VQGAN)
    device, recipe = options.device, options.recipe
    run = start(recipe, make_stock(load(recipe.styles, "train"), device))
    held_out = make_stock(load(recipe.styles, "held-out"), device)
    if arguments.perceptual or arguments.adversarial:
        guide = find_export(options.out, "guide-rn") if arguments.perceptual else None
        run.critics = Critics(
            device, clip=guide, adversarial=arguments.adversarial, feature_share=recipe.feature_share,
            patch_share=recipe.patch_share, patch_rate=recipe.patch_rate,
        )  # fmt: skip
    options.go_on(run)
    if arguments.decoder:
        keep_latents(run)

    def report() -> dict[str, float]:
        figures = examine(run, held_out, pictures=32 if run.seconds < 60 * recipe.minutes else 128)
        save_sheet(options.sheet(run.steps), run.average, held_out)
        if run.quantised:
            write_export(options.export, run, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
