"""Trains the starter Kandinsky's UNet, image embedding to latents: `python -m training.kandinsky_unet --minutes M`.

Needs the pictures of `training.kandinsky_data`. Resumes from its checkpoint when started again. The guide may
go on learning meanwhile: the network itself reads embeddings in a fixed form of its own, and only the linear
map into that form is fitted anew. The export has the map folded into its first layers.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.checkpoint import Run as Common
from training.export import export_run
from training.kandinsky_data import Embeddings, fresh_embeddings, load_movq, load_views
from training.kandinsky_reading import Reading, read, translate, whiten
from training.loop import adam, find, find_export, learn, options_of, run_main, train, training_parser
from training.quality import save_pictures
from training.recipes import UNET
from training.recipes import Unet as Recipe
from vqclip.backends.kandinsky.starter import DECODER_NOISE


@dataclass
class Run(Common[Recipe, UNet2DConditionModel]):
    """The UNet's run.

    `latents` (N, 4, h, w) float32 of the views. `form` (N, E): their embeddings as the network reads them, to which
    every guide is fitted. `alphas` (1000,): the noise schedule's cumulative products.
    """

    latents: Tensor
    embeddings: Embeddings  # of the views by the present guide
    alphas: Tensor
    reading: Reading = field(init=False)
    form: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reading = whiten(self.embeddings)
        self.form = self.reading.views

    def see(self, embeddings: Embeddings) -> None:
        """Another guide's embeddings of the same views are brought into the network's form; nothing for the same."""
        if embeddings.guide != self.reading.guide:
            self.reading = translate(embeddings, self.form)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The form (N, E) and the map into it."""
        tensors = {"form": self.form, "matrix": self.reading.matrix, "offset": self.reading.offset}
        return tensors, {"guide": self.reading.guide}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back what `kept` gave, for the present guide."""
        self.form = tensors["form"]
        same = state["guide"] == self.embeddings.guide
        known = read(self.embeddings, tensors["matrix"], tensors["offset"]) if same else None
        self.reading = known or translate(self.embeddings, self.form)


def fold(model: UNet2DConditionModel, reading: Reading) -> UNet2DConditionModel:
    """A copy of the network that takes the guide's embeddings as they are."""
    folded = copy.deepcopy(model)
    for layer in (folded.encoder_hid_proj.image_embeds, folded.add_embedding.image_proj):
        weight = layer.weight.data.float().cpu()
        layer.bias.data.add_((weight @ reading.offset).to(layer.bias.device))
        layer.weight.data.copy_(weight @ reading.matrix)
    return folded


def start(recipe: Recipe, latents: Tensor, embeddings: Embeddings, device: torch.device) -> Run:
    """A fresh run on latents (N, 4, h, w), its weights drawn from the recipe's seed; at first it says "no movement"."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = UNet2DConditionModel(**recipe.shape).to(device)
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)
    known, noise = latents.to(device, torch.float32), DDPMScheduler(**DECODER_NOISE).alphas_cumprod
    return Run(recipe, model, adam(recipe, model.parameters()), device, known, embeddings, noise)


def attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Plain matrix products on a CPU: over 96 tokens they are faster than the flash kernel, most of all backwards."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step: noise on latents, the network's guess of their velocity, weighted squared error.

    Velocity (Salimans and Ho 2022, "Progressive Distillation"), where Kandinsky's own network guesses the noise: at the
    last of the thousand steps an error in the noise is 25 times as large in the picture, which takes long to unlearn.
    """
    recipe, model, device = run.recipe, run.model, run.device
    batch = recipe.amount(device)
    rows = torch.randint(len(run.latents), (batch,), generator=run.rng)
    steps = torch.randint(len(run.alphas), (batch,), generator=run.rng)
    form = run.reading.views[rows] + recipe.blur * torch.randn(batch, len(run.reading.zero), generator=run.rng)
    form[torch.rand(batch, generator=run.rng) < recipe.drop] = run.reading.zero
    noise = torch.randn(batch, *run.latents.shape[1:], generator=run.rng).to(device)
    kept, goal = run.alphas[steps].to(device)[:, None, None, None], run.latents[rows.to(device)]
    mixed, speed = (kept.sqrt() * a + (1 - kept).sqrt() * b for a, b in ((goal, noise), (noise, -goal)))
    with torch.autocast(device.type, torch.bfloat16), attention(device):
        condition = {"image_embeds": form.to(device)}
        guess = model(mixed, steps.to(device), None, added_cond_kwargs=condition).sample[:, :4].float()
    error = (guess - speed).square().mean((1, 2, 3))
    clean = (kept / (1 - kept)).flatten()
    loss = (error * (recipe.gamma / clean).clamp(max=1)).mean()
    return learn(run, progress, loss, batch, error=error.mean())


@torch.no_grad()
def sample(model: UNet2DConditionModel, form: Tensor, zero: Tensor, *, guidance: float, seed: int) -> Tensor:
    """(B, 4, 16, 16) latents for B embeddings: 30 steps of DDIM with guidance away from the zero image."""
    scheduler = DDIMScheduler(**DECODER_NOISE)
    scheduler.set_timesteps(30)
    size = model.config["sample_size"]
    device = next(model.parameters()).device
    latents = torch.randn(len(form), 4, size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    condition = {"image_embeds": torch.cat((zero.expand_as(form), form)).to(device)}
    with torch.autocast(device.type, torch.bfloat16), attention(device):
        for step in scheduler.timesteps:
            guess = model(latents.repeat(2, 1, 1, 1), step, None, added_cond_kwargs=condition).sample[:, :4].float()
            without, given = guess.chunk(2)
            latents = scheduler.step(without + guidance * (given - without), step, latents).prev_sample
    return latents


@torch.no_grad()
def examine(run: Run, movq: nn.Module, sheet: Path, columns: int = 14) -> dict[str, float]:
    """Mean error at fixed noise, and a sheet: training pictures, and what their embeddings give with two seeds."""
    rng = torch.Generator().manual_seed(5)
    rows = torch.randint(len(run.latents), (columns,), generator=rng)
    form, zero = run.reading.views[rows], run.reading.zero
    lines = [run.latents[rows.to(run.device)]]
    lines += [sample(run.average, form, zero, guidance=guidance, seed=9) for guidance in (1.5, 4.0)]
    save_pictures(sheet, [movq.decode(line, force_not_quantize=True).sample / 2 + 0.5 for line in lines])
    return {"deviation": lines[-1].std().item(), "sampled_error": (lines[1] - lines[0]).square().mean().item()}


def write_export(path: Path, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file that takes the guide's embeddings as they are."""
    tensors = dict(fold(run.average, run.reading).state_dict())
    export_run(path, run, figures, kind="kandinsky-unet", tensors=tensors, guide=run.reading.guide)


def main() -> None:
    """Trains the UNet on the views and the guide's embeddings of them, and exports it at every report."""
    options = options_of(training_parser(__doc__, UNET).parse_args(), "kandinsky-unet", UNET)
    out, device = options.out, options.device
    drawn = find(out, "kandinsky/views.safetensors", "python -m training.kandinsky_data").parent
    views, guide = load_views(drawn), find_export(out, "guide-rn")
    run = start(options.recipe, views.latents, fresh_embeddings(drawn, views.small, guide, device), device)
    options.go_on(run)
    movq = load_movq(find_export(out, "kandinsky-movq")).to(device)

    def report() -> dict[str, float]:
        run.see(fresh_embeddings(drawn, views.small, guide, device))  # it may still be in training
        figures = examine(run, movq, options.sheet(run.steps))
        write_export(options.export, run, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
