"""Trains the starter Kandinsky's UNet, image embedding to latents: `python -m training.kandinsky_unet --minutes M`.

Needs the pictures of `training.kandinsky_data`. Resumes from its checkpoint when started again. The guide may
go on learning meanwhile: the network itself reads embeddings in a fixed form of its own, and only the linear
map into that form is fitted anew. The export has the map folded into its first layers.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training import checkpoint
from training.data import cache_folder
from training.export import export, machine
from training.kandinsky_data import DRAWN, Embeddings, fresh_embeddings, load_movq, load_views
from training.kandinsky_loop import follow, save_pictures, spend
from training.kandinsky_reading import Reading, read, translate, whiten
from training.recipes import pace
from vqclip.backends.kandinsky_starter import DECODER_NOISE

SHAPE: dict[str, Any] = {
    "sample_size": 16, "in_channels": 4, "out_channels": 8, "addition_embed_type": "image",
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": [32, 64, 128], "layers_per_block": 1,
    "encoder_hid_dim": 256, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 64,
    "attention_head_dim": 32, "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How it is trained; `batch` is for a CPU, a GPU takes eight times as much."""

    seed: int = 91
    batch: int = 48
    rate: float = 1.5e-3
    drop: float = 0.1  # of the embeddings become that of the zero image
    blur: float = 0.1  # noise on the embeddings in the network's form: the prior's are not exact either
    gamma: float = 5.0  # Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy"


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: UNet2DConditionModel
    average: UNet2DConditionModel
    optimizer: torch.optim.Optimizer
    latents: Tensor
    reading: Reading
    form: (
        Tensor  # (N, E) what the views' embeddings were in the network's form at the start: every guide is fitted to it
    )
    kept: Tensor  # (1000,) cumulative alphas
    device: torch.device
    rng: torch.Generator
    seconds: float = 0.0
    steps: int = 0
    views: int = 0


def fold(model: UNet2DConditionModel, reading: Reading) -> UNet2DConditionModel:
    """A copy of the network that takes the guide's embeddings as they are."""
    folded = copy.deepcopy(model)
    for layer in (folded.encoder_hid_proj.image_embeds, folded.add_embedding.image_proj):
        weight = layer.weight.data.float().cpu()
        layer.bias.data.add_((weight @ reading.offset).to(layer.bias.device))
        layer.weight.data.copy_(weight @ reading.matrix)
    return folded


def start(recipe: Recipe, latents: Tensor, reading: Reading, device: torch.device, shape: dict[str, Any]) -> Run:
    """A fresh run, its weights drawn from the recipe's seed; at first the network says "no movement"."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = UNet2DConditionModel(**shape).to(device)
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    rng = torch.Generator().manual_seed(recipe.seed)
    kept = DDPMScheduler(**DECODER_NOISE).alphas_cumprod
    return Run(
        recipe, model, average, optimizer, latents.to(device, torch.float32), reading,
        reading.views, kept, device, rng,
    )  # fmt: skip


def attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Plain matrix products on a CPU: over 96 tokens they are faster than the flash kernel, most of all backwards."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step: noise on latents, the network's guess of their velocity, weighted squared error.

    Velocity (Salimans and Ho 2022, "Progressive Distillation"), where Kandinsky's own network guesses the noise: at the
    last of the thousand steps an error in the noise is 25 times as large in the picture, which takes long to unlearn.
    """
    recipe, model, device = run.recipe, run.model, run.device
    batch = recipe.batch * (8 if device.type == "cuda" else 1)
    rows = torch.randint(len(run.latents), (batch,), generator=run.rng)
    steps = torch.randint(len(run.kept), (batch,), generator=run.rng)
    form = run.reading.views[rows] + recipe.blur * torch.randn(batch, len(run.reading.zero), generator=run.rng)
    form[torch.rand(batch, generator=run.rng) < recipe.drop] = run.reading.zero
    noise = torch.randn(batch, *run.latents.shape[1:], generator=run.rng).to(device)
    kept, goal = run.kept[steps].to(device)[:, None, None, None], run.latents[rows.to(device)]
    mixed, speed = (kept.sqrt() * a + (1 - kept).sqrt() * b for a, b in ((goal, noise), (noise, -goal)))
    with torch.autocast(device.type, torch.bfloat16), attention(device):
        condition = {"image_embeds": form.to(device)}
        guess = model(mixed, steps.to(device), None, added_cond_kwargs=condition).sample[:, :4].float()
    error = (guess - speed).square().mean((1, 2, 3))
    clean = (kept / (1 - kept)).flatten()
    loss = (error * (recipe.gamma / clean).clamp(max=1)).mean()
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate * pace(run.steps, min(progress, 1))
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    run.optimizer.step()
    follow(run.average, model, min(0.998, run.steps / (run.steps + 20)))
    run.steps, run.views = run.steps + 1, run.views + batch
    return {"loss": loss.item(), "error": error.mean().item()}


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


def write_export(path: Path, run: Run, shape: dict[str, Any], figures: dict[str, float]) -> None:
    """The averaged weights as a starter file that takes the guide's embeddings as they are."""
    training = {
        "minutes": round(run.seconds / 60, 1), "machine": machine(run.device), "steps": run.steps,
        "views": run.views, "seed": run.recipe.seed, "guide": run.reading.guide,
        "figures": {key: round(value, 4) for key, value in figures.items()},
    }  # fmt: skip
    name, tensors = "kandinsky-unet", dict(fold(run.average, run.reading).state_dict())
    export(path, tensors, kind=name, name=name, styles=DRAWN, architecture=shape, training=training)


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer) | {"rng": run.rng.get_state()}
    tensors |= {"form": run.form, "matrix": run.reading.matrix, "offset": run.reading.offset}
    state = {"seconds": run.seconds, "steps": run.steps, "views": run.views, "guide": run.reading.guide}
    checkpoint.save(path, tensors, state)


def resume_run(path: Path, run: Run, embeddings: Embeddings) -> None:
    """Puts a checkpoint of `save_run` back, if there is one; another guide's embeddings are brought into its form."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        run.form, matrix, offset = (tensors.pop(key) for key in ("form", "matrix", "offset"))
        same = state["guide"] == embeddings.guide
        run.reading = read(embeddings, matrix, offset) if same else translate(embeddings, run.form)
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        for name in ("seconds", "steps", "views"):
            setattr(run, name, state[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=70, help="training time in all, earlier runs included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder, device = cache_folder(), torch.device(arguments.device)
    views = load_views(folder / "kandinsky")
    guide = folder / "export" / "guide-rn.safetensors"
    embeddings = fresh_embeddings(folder / "kandinsky", views.small, guide, device)
    run = start(Recipe(), views.latents, whiten(embeddings), device, SHAPE)
    resume_run(folder / "runs" / "kandinsky-unet.safetensors", run, embeddings)
    movq = load_movq(folder / "export" / "kandinsky-movq.safetensors").to(device)

    def report() -> dict[str, float]:
        seen = fresh_embeddings(folder / "kandinsky", views.small, guide, device)
        if seen.guide != run.reading.guide:  # it is still being trained
            run.reading = translate(seen, run.form)
        figures = examine(run, movq, folder / "logs" / f"kandinsky-unet-{run.steps:06d}.png")
        save_run(folder / "runs" / "kandinsky-unet.safetensors", run)
        write_export(folder / "export" / "kandinsky-unet.safetensors", run, SHAPE, figures)
        return figures

    spend(run, arguments.minutes, update, report, log=folder / "logs" / "kandinsky-unet.jsonl", every=400)


if __name__ == "__main__":
    main()
