"""Trains the starter Kandinsky's prior, caption to image embedding: `python -m training.kandinsky_prior --minutes M`.

Needs the pictures of `training.kandinsky_data` and the guide, whose texts it reads. Resumes from its checkpoint when
started again; where the guide has learned on since, the weights go on from there with its new embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from training.captions import Meaning, leave_out, say
from training.checkpoint import Run as Common
from training.export import export_run
from training.kandinsky_data import Embeddings, fresh_embeddings, load_views
from training.loop import adam, find, find_export, learn, options_of, run_main, train, training_parser
from training.recipes import PRIOR
from training.recipes import Prior as Recipe
from vqclip.backends.kandinsky.encoders import TextEncoder, Tokenizer, text_encoder
from vqclip.backends.kandinsky.starter import PRIOR_NOISE
from vqclip.perceptors.clip import build, reading_of


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
class Run(Common[Recipe, PriorTransformer]):
    """The prior's run.

    `goals` are (N, E) embeddings at mean 0 and deviation 1, `alphas` (1000,) the noise schedule's cumulative products.
    """

    goals: Tensor
    truths: list[Meaning]
    reader: Reader
    guide: str
    alphas: Tensor

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Mean and deviation stay those of this guide, which may have learned on."""
        for kind, model in (("model", self.model), ("average", self.average)):
            for name in ("clip_mean", "clip_std"):
                tensors[f"{kind}.{name}"] = getattr(model, name).detach().clone()


def open_reader(guide: Path, device: torch.device) -> Reader:
    """The texts of an exported guide."""
    state = load_file(guide)
    model, ids = build(state), state.get("token_ids")
    return Reader(text_encoder(model).to(device), Tokenizer(ids, model.context_length, reading_of(ids)))


def start(recipe: Recipe, truths: list[Meaning], embeddings: Embeddings, reader: Reader) -> Run:
    """A fresh run, its weights drawn from the recipe's seed, mean and deviation measured on the embeddings."""
    torch.manual_seed(recipe.seed)  # the layers draw from the global generator
    model = PriorTransformer(**recipe.shape)
    for parameter in (model.positional_embedding, model.prd_embedding):
        nn.init.normal_(parameter, std=0.02)
    mean, deviation = embeddings.views.mean(0), embeddings.views.std(0)
    model.clip_mean.data.copy_(mean[None])
    model.clip_std.data.copy_(deviation[None])
    for parameter in (model.clip_mean, model.clip_std):
        parameter.requires_grad = False
    device = reader.encoder.device
    model = model.to(device)
    optimizer = adam(recipe, [parameter for parameter in model.parameters() if parameter.requires_grad])
    goals = ((embeddings.views - mean) / deviation).to(device)
    noise = UnCLIPScheduler(**PRIOR_NOISE).alphas_cumprod
    return Run(recipe, model, optimizer, device, goals, truths, reader, embeddings.guide, noise)


def update(run: Run, progress: float) -> dict[str, float]:
    """One training step: a noisy embedding and a caption, squared error of the guessed clean embedding."""
    recipe, device = run.recipe, run.device
    batch = recipe.amount(device)
    rows = torch.randint(len(run.goals), (batch,), generator=run.rng)
    steps = torch.randint(len(run.alphas), (batch,), generator=run.rng)
    empty = (torch.rand(batch, generator=run.rng) < recipe.drop).tolist()
    captions = [
        "" if silent else say(leave_out(run.truths[row], run.words), run.words)
        for row, silent in zip(rows.tolist(), empty, strict=True)
    ]
    goal, kept = run.goals[rows.to(device)], run.alphas[steps].to(device)[:, None]
    noise = torch.randn(goal.shape, generator=run.rng).to(device)
    mixed = kept.sqrt() * goal + (1 - kept).sqrt() * noise
    with torch.autocast(device.type, torch.bfloat16):
        texts, states, mask = run.reader(captions)
        guess = run.model(mixed, steps.to(device), texts, states, mask).predicted_image_embedding.float()
    loss = (guess - goal).square().mean()
    return learn(run, progress, loss, batch)


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
    options_of = [run.truths[row] for row in rows]
    said = [say(Meaning(each.name, each.colour, each.background), np.random.default_rng(4)) for each in options_of]
    guess = F.normalize(guess_embeddings(run, said, seed=2), dim=-1)
    pictures = F.normalize(run.average.post_process_latents(run.goals), dim=-1)
    near, place = (guess @ pictures.T).max(1)
    found = [run.truths[row] for row in place.tolist()]
    pairs = list(zip(options_of, found, strict=True))
    share = {f: sum(getattr(a, f) == getattr(b, f) for a, b in pairs) / count for f in ("name", "colour", "background")}
    return {"cosine": near.mean().item()} | share


def write_export(path: Path, run: Run, figures: dict[str, float]) -> None:
    """The averaged weights as a starter file, with the digest of the guide it was trained with."""
    export_run(path, run, figures, kind="kandinsky-prior", guide=run.guide)


def main() -> None:
    """Trains the prior on the guide's embeddings of the views and exports it at every report."""
    options = options_of(training_parser(__doc__, PRIOR).parse_args(), "kandinsky-prior", PRIOR)
    drawn = find(options.out, "kandinsky/views.safetensors", "python -m training.kandinsky_data").parent
    views, guide = load_views(drawn), find_export(options.out, "guide-rn")
    embeddings = fresh_embeddings(drawn, views.small, guide, options.device)
    run = start(options.recipe, views.truths, embeddings, open_reader(guide, options.device))
    options.go_on(run)

    def report() -> dict[str, float]:
        figures = examine(run)
        write_export(options.export, run, figures)
        return figures

    train(run, options, update, report)


if __name__ == "__main__":
    run_main(main)
