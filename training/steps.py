"""One training step of a small CLIP: fresh pictures and captions, an attack, and the update of the weights.

Knows nothing of files, minutes or examinations.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from clip.model import CLIP
from torch import Tensor

from training.captions import (
    UNKNOWN,
    UNSAID,
    Codes,
    Meaning,
    Tokens,
    leave_out,
    list_words,
    near_miss,
    say,
    with_article,
)
from training.contrast import Targets, attack, climb, picture_loss, text_loss
from training.recipes import Recipe, pace, strengthen
from training.towers import encode_image, encode_text, freeze_image_tower
from training.views import Bank, make_views


@dataclass
class Run:
    """Everything that changes while training, and the fixed parts it needs at every step."""

    recipe: Recipe
    model: CLIP
    average: CLIP
    optimizer: torch.optim.Optimizer
    bank: Bank
    codes: Codes
    tokens: Tokens
    device: torch.device
    rng: torch.Generator
    words: np.random.Generator
    seconds: float = 0.0
    steps: int = 0
    views: int = 0
    radius: float = 0.0


def start(recipe: Recipe, bank: Bank, vocabulary: list[str], device: torch.device) -> Run:
    """A fresh run.

    Args:
        recipe: its seed draws the weights.
        bank: pictures; they move to the device, where the views are then made.
        vocabulary: every name that has rows in the token table, the bank's and others.
        device: where to train.
    """
    bank = replace(bank, pixels=bank.pixels.to(device))
    names = sorted({truth.name for truth in bank.truths})
    tokens = Tokens(list_words(vocabulary))
    torch.manual_seed(recipe.seed)  # clip.model.CLIP draws its weights from the global generator
    model = CLIP(**recipe.architecture(len(tokens.ids))).to(device)
    model.logit_scale.data.fill_(math.log(16))
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    average = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    rng = torch.Generator().manual_seed(recipe.seed)
    words = np.random.default_rng(recipe.seed)
    run = Run(recipe, model, average, optimizer, bank, Codes(names), tokens, device, rng, words)
    run.radius = 0.2 * recipe.radius
    return run


def draw_rows(bank: Bank, count: int, rng: torch.Generator) -> Tensor:
    """(B,) variants: an icon at random, then its own colours in half of the cases."""
    variants = torch.bincount(bank.icons)
    chances = torch.where(bank.original, 1.0, 1.0 / (variants[bank.icons] - 1).clamp_min(1))
    return torch.multinomial(chances, count, replacement=True, generator=rng)


def draw_texts(run: Run, truths: list[Meaning]) -> tuple[list[str], Tensor]:
    """2B captions, true ones first and then near misses, with their codes (2B, 4)."""
    said = [leave_out(truth, run.words) for truth in truths]
    missed = [near_miss(one, truth, run.codes.names, run.words) for one, truth in zip(said, truths, strict=True)]
    captions = [say(meaning, run.words) for meaning in (*said, *missed)]
    return captions, run.codes.encode([*said, *missed], UNSAID)


def encode_all(run: Run, captions: list[str]) -> Tensor:
    """(2B + names, E): the captions, then every name in its plain form."""
    plain = [with_article(name, name) if run.words.random() < 0.5 else name for name in run.codes.names]
    parts = [run.tokens(captions), run.tokens(plain)]
    return torch.cat([encode_text(run.model, part.to(run.device)) for part in parts])


def update(run: Run, progress: float) -> dict[str, float]:
    """One fresh batch: one ordinary step, or several steps on pictures that every step makes harder.

    The attack shares its backward passes with the training (Shafahi et al. 2019, "Adversarial training for free"):
    each replay takes one gradient for the weights and for the picture. One cheap step of the folded tower goes
    before, so that no replay sees a clean picture. Texts are encoded once and learn in the last replay.
    """
    recipe, model, device = run.recipe, run.model, run.device
    rows = draw_rows(run.bank, recipe.batch * (4 if device.type == "cuda" else 1), run.rng)
    image, truths = make_views(run.bank, rows, recipe.crops, size=recipe.size, rng=run.rng)
    captions, caption_codes = draw_texts(run, truths)
    targets = Targets.compare(run.codes.encode(truths, UNKNOWN).to(device), caption_codes.to(device))
    radius = run.radius
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate * pace(run.steps, progress)
    with torch.autocast(device.type, torch.bfloat16):
        texts = encode_all(run, captions)
        fixed = texts.detach()
        if radius:
            scale, frozen = model.logit_scale.exp().detach(), freeze_image_tower(model.eval(), torch.bfloat16)
            delta = attack(
                image, lambda x: picture_loss(scale * frozen(x).float() @ fixed.T.float(), targets),
                radius=radius, steps=1, share=0.7, rng=run.rng,
            ) - image  # fmt: skip
        else:
            delta = torch.zeros_like(image)
    model.train()
    for replay in range(recipe.replays if radius else 1):
        last = replay + 1 == (recipe.replays if radius else 1)
        delta.requires_grad = not last
        with torch.autocast(device.type, torch.bfloat16):
            features = encode_image(model, image + delta)
            logits = (model.logit_scale.exp() * features @ (texts if last else fixed).T).float()
        loss = picture_loss(logits, targets) + 0.5 * text_loss(logits, targets)
        learn(run, loss)
        if delta.grad is not None:
            delta = climb(image, delta.detach(), delta.grad, radius=radius, step=0.7 * radius)
    run.steps, run.views = run.steps + 1, run.views + len(rows)
    right = (logits[:, -len(run.codes.names) :].argmax(1) == targets.names).float().mean().item()
    if radius:
        run.radius = strengthen(radius, right, recipe)
    return {"loss": loss.item(), "right": right, "radius": radius, "scale": model.logit_scale.exp().item()}


def learn(run: Run, loss: Tensor) -> None:
    """One step of the optimizer; weights that the loss does not reach stay as they are."""
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.model.logit_scale.data.clamp_(math.log(4), math.log(50))
    follow(run.average, run.model, min(0.998, run.steps / (run.steps + 20)))


@torch.no_grad()
def follow(average: CLIP, model: CLIP, decay: float) -> None:
    """Moves the averaged weights, batch statistics included, towards the model's."""
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
