"""Trains the starter Kandinsky's prior, caption to image embedding: `python -m training.kandinsky_prior --minutes M`.

Needs the pictures of `training.kandinsky_data` and the guide, whose texts it reads. Resumes from its checkpoint when
started again; where the guide has learned on since, the weights go on from there with its new embeddings.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from training import checkpoint
from training.captions import Meaning, leave_out, say
from training.data import cache_folder
from training.export import export, machine
from training.kandinsky_data import DRAWN, Embeddings, fresh_embeddings, load_views
from training.kandinsky_loop import follow, spend
from training.recipes import pace
from vqclip.backends.kandinsky_starter import PRIOR_NOISE
from vqclip.backends.kandinsky_starter_eyes import TextEncoder, Tokenizer, text_encoder
from vqclip.models.clip import build, reading_of

SHAPE: dict[str, Any] = {
    "num_attention_heads": 4, "attention_head_dim": 48, "num_layers": 4, "embedding_dim": 256,
    "num_embeddings": 20, "additional_embeddings": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How it is trained; `batch` is for a CPU, a GPU takes eight times as much."""

    seed: int = 97
    batch: int = 128
    rate: float = 1e-3
    drop: float = 0.1  # of the captions become ""


@dataclass(frozen=True)
class Reader:
    """The guide's texts: frozen tower and tokenizer."""

    encoder: TextEncoder
    tokenizer: Tokenizer

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, E) embeddings, (B, L, E) hidden states and (B, L) bool mask, as the pipeline makes them."""
        rows = self.tokenizer(captions, padding="max_length", truncation=True)
        device = self.encoder.device
        out = self.encoder(rows.input_ids.to(device))
        return out.text_embeds, out.last_hidden_state, rows.attention_mask.bool().to(device)


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: PriorTransformer
    average: PriorTransformer
    optimizer: torch.optim.Optimizer
    goals: Tensor  # (N, E) embeddings at mean 0 and deviation 1
    truths: list[Meaning]
    reader: Reader
    guide: str
    kept: Tensor  # (1000,) cumulative alphas
    device: torch.device
    rng: torch.Generator
    words: np.random.Generator
    seconds: float = 0.0
    steps: int = 0
    views: int = 0


def open_reader(guide: Path, device: torch.device) -> Reader:
    """The texts of an exported guide."""
    state = load_file(guide)
    model, ids = build(state), state.get("token_ids")
    return Reader(text_encoder(model).to(device), Tokenizer(ids, model.context_length, reading_of(ids)))


def start(
    recipe: Recipe, truths: list[Meaning], embeddings: Embeddings, reader: Reader, *, shape: dict[str, Any]
) -> Run:
    """A fresh run, its weights drawn from the recipe's seed, mean and deviation measured on the embeddings."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = PriorTransformer(**shape)
    for parameter in (model.positional_embedding, model.prd_embedding):
        nn.init.normal_(parameter, std=0.02)
    mean, deviation = embeddings.views.mean(0), embeddings.views.std(0)
    model.clip_mean.data.copy_(mean[None])
    model.clip_std.data.copy_(deviation[None])
    for parameter in (model.clip_mean, model.clip_std):
        parameter.requires_grad = False
    device = reader.encoder.device
    model = model.to(device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    goals = ((embeddings.views - mean) / deviation).to(device)
    rng, words = torch.Generator().manual_seed(recipe.seed), np.random.default_rng(recipe.seed)
    kept = UnCLIPScheduler(**PRIOR_NOISE).alphas_cumprod
    return Run(
        recipe, model, average, optimizer, goals, truths, reader, embeddings.guide, kept, device, rng, words
    )  # fmt: skip


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step: a noisy embedding and a caption, squared error of the guessed clean embedding."""
    recipe, device = run.recipe, run.device
    batch = recipe.batch * (8 if device.type == "cuda" else 1)
    rows = torch.randint(len(run.goals), (batch,), generator=run.rng)
    steps = torch.randint(len(run.kept), (batch,), generator=run.rng)
    empty = (torch.rand(batch, generator=run.rng) < recipe.drop).tolist()
    captions = [
        "" if silent else say(leave_out(run.truths[row], run.words), run.words)
        for row, silent in zip(rows.tolist(), empty, strict=True)
    ]
    goal, kept = run.goals[rows.to(device)], run.kept[steps].to(device)[:, None]
    noise = torch.randn(goal.shape, generator=run.rng).to(device)
    mixed = kept.sqrt() * goal + (1 - kept).sqrt() * noise
    with torch.autocast(device.type, torch.bfloat16):
        texts, states, mask = run.reader(captions)
        guess = run.model(mixed, steps.to(device), texts, states, mask).predicted_image_embedding.float()
    loss = (guess - goal).square().mean()
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate * pace(run.steps, min(progress, 1))
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    follow(run.average, run.model, min(0.998, run.steps / (run.steps + 20)))
    run.steps, run.views = run.steps + 1, run.views + batch
    return {"loss": loss.item()}


@torch.no_grad()
def guess_embeddings(run: Run, captions: list[str], seed: int, guidance: float = 4.0) -> Tensor:
    """(B, E) image embeddings in the guide's own scale, sampled in 25 steps with guidance as the pipeline does."""
    scheduler = UnCLIPScheduler(**PRIOR_NOISE)
    scheduler.set_timesteps(25)
    rng, count = torch.Generator().manual_seed(seed), len(captions)
    latents = torch.randn(count, run.goals.shape[1], generator=rng).to(run.device)
    texts, states, mask = run.reader([""] * count + captions)
    for place, step in enumerate(scheduler.timesteps):
        both = run.average(latents.repeat(2, 1), step, texts, states, mask).predicted_image_embedding
        without, given = both.chunk(2)
        following = scheduler.timesteps[place + 1] if place + 1 < len(scheduler.timesteps) else None
        guess = without + guidance * (given - without)
        latents = scheduler.step(guess, step, latents, generator=rng, prev_timestep=following).prev_sample
    return run.average.post_process_latents(latents)


def examine(run: Run, count: int = 128) -> dict[str, float]:
    """How near guessed embeddings come to those of pictures of which their full caption is true.

    `named` is the share of guesses whose nearest training picture has the asked name; `colour` and `ground` likewise.
    """
    rows = np.random.default_rng(3).permutation(len(run.truths))[:count]
    asked = [run.truths[row] for row in rows]
    said = [say(Meaning(each.name, each.colour, each.background), np.random.default_rng(4)) for each in asked]
    guess = F.normalize(guess_embeddings(run, said, seed=2), dim=-1)
    pictures = F.normalize(run.average.post_process_latents(run.goals), dim=-1)
    near, place = (guess @ pictures.T).max(1)
    found = [run.truths[row] for row in place.tolist()]
    pairs = list(zip(asked, found, strict=True))
    share = {f: sum(getattr(a, f) == getattr(b, f) for a, b in pairs) / count for f in ("name", "colour", "background")}
    return {"cosine": near.mean().item()} | share


def write_export(path: Path, run: Run, shape: dict[str, Any], figures: dict[str, float]) -> None:
    """The averaged weights as a starter file."""
    training = {
        "minutes": round(run.seconds / 60, 1), "machine": machine(run.device), "steps": run.steps,
        "views": run.views, "seed": run.recipe.seed, "guide": run.guide,
        "figures": {key: round(value, 4) for key, value in figures.items()},
    }  # fmt: skip
    name, tensors = "kandinsky-prior", dict(run.average.state_dict())
    export(path, tensors, kind=name, name=name, styles=DRAWN, architecture=shape, training=training)


def save_run(path: Path, run: Run) -> None:
    """A checkpoint from which `resume_run` goes on."""
    tensors = checkpoint.pack(run.model, run.average, run.optimizer) | {"rng": run.rng.get_state()}
    state = {"seconds": run.seconds, "steps": run.steps, "views": run.views, "guide": run.guide,
             "words": run.words.bit_generator.state}  # fmt: skip
    checkpoint.save(path, tensors, state)


def resume_run(path: Path, run: Run) -> None:
    """Puts a checkpoint of `save_run` back, if there is one; mean and deviation stay those of this guide."""
    if path.exists():
        tensors, state = checkpoint.load(path)
        run.rng.set_state(tensors.pop("rng"))
        for kind, model in (("model", run.model), ("average", run.average)):
            for name in ("clip_mean", "clip_std"):
                tensors[f"{kind}.{name}"] = getattr(model, name).detach().clone()
        checkpoint.unpack(tensors, run.model, run.average, run.optimizer)
        run.words.bit_generator.state = state["words"]
        for name in ("seconds", "steps", "views"):
            setattr(run, name, state[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=12, help="training time in all, earlier runs included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    folder, device = cache_folder(), torch.device(arguments.device)
    views, guide = load_views(folder / "kandinsky"), folder / "export" / "guide-rn.safetensors"
    embeddings = fresh_embeddings(folder / "kandinsky", views.small, guide, device)
    run = start(Recipe(), views.truths, embeddings, open_reader(guide, device), shape=SHAPE)
    resume_run(folder / "runs" / "kandinsky-prior.safetensors", run)

    def report() -> dict[str, float]:
        figures = examine(run)
        save_run(folder / "runs" / "kandinsky-prior.safetensors", run)
        write_export(folder / "export" / "kandinsky-prior.safetensors", run, SHAPE, figures)
        return figures

    spend(run, arguments.minutes, update, report, log=folder / "logs" / "kandinsky-prior.jsonl", every=240)


if __name__ == "__main__":
    main()
