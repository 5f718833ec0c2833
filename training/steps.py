"""One training step of a small CLIP: fresh pictures and captions, an attack, and the update of the weights.

Knows nothing of files, minutes or examinations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
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
from training.checkpoint import Run as Common
from training.concepts import GUIDED
from training.contrast import Targets, attack, climb, picture_loss, text_loss
from training.loop import average, set_rate, step
from training.mirages import Mirages, rejection
from training.pool import EMPTY, Pool
from training.recipes import Recipe, strengthen
from training.towers import encode_image, encode_text, freeze_image_tower
from training.views import Bank, cloud, disturb, make_views
from vqclip.perceptors.openai_clip import CLIP


@dataclass
class Run(Common[Recipe, CLIP]):
    """A CLIP's run."""

    bank: Bank
    codes: Codes
    tokens: Tokens
    radius: float = field(default=0.0, kw_only=True)
    mirages: Mirages | None = field(default=None, kw_only=True)
    forged: Pool = field(default=EMPTY, kw_only=True)  # see forgeries.py
    redrawn: Pool = field(default=EMPTY, kw_only=True)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The chains' state dict, and the radius."""
        tensors, state = ({}, {}) if self.mirages is None else self.mirages.state()
        return tensors, state | {"radius": self.radius}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Puts back the state dict and values of `kept`."""
        self.radius = state["radius"]
        if self.mirages is not None:
            self.mirages.restore(tensors, state)


def start(recipe: Recipe, bank: Bank, vocabulary: list[str], device: torch.device) -> Run:
    """A fresh run.

    Args:
        recipe: its seed draws the weights.
        bank: pictures; they move to the device, where the views are then made.
        vocabulary: every name that has rows in the token table, the bank's and others.
        device: where to train.
    """
    bank = bank.to(device)
    names = sorted({truth.name for truth in bank.truths})
    tokens = Tokens(list_words(vocabulary))
    torch.manual_seed(recipe.seed)  # clip.model.CLIP draws its weights from the global generator
    model = CLIP(**recipe.architecture(len(tokens.ids))).to(device)
    model.logit_scale.data.fill_(math.log(recipe.first_scale))
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas)
    run = Run(recipe, model, optimizer, device, bank, Codes(names), tokens)
    run.radius = recipe.first_radius * recipe.radius
    if recipe.radius and recipe.rejection:
        run.mirages = Mirages.start(recipe.chains, recipe.size, bank.truths, recipe.seed, device)
    return run


def draw_rows(bank: Bank, count: int, rng: torch.Generator, *, focus: float = 1.0) -> Tensor:
    """(B,) variants: icons at random, guided names `focus` times as often; half of the time in their own colours."""
    variants = torch.bincount(bank.icons)
    chances = torch.where(bank.original, 1.0, 1.0 / (variants[bank.icons] - 1).clamp_min(1))
    if focus != 1:
        chances = chances * torch.tensor([focus if truth.name in GUIDED else 1.0 for truth in bank.truths])
    return torch.multinomial(chances, count, replacement=True, generator=rng)


def draw_views(run: Run, pool: Pool, count: int) -> tuple[Tensor, list[Meaning]]:
    """Crops (count, 3, S, S) of pictures of a pool and what they are meant to show."""
    rows = torch.randint(len(pool), (count,), generator=run.rng)
    image = pool.views(rows, run.recipe.crops, size=run.recipe.size, rng=run.rng)
    return image.to(run.device), [pool.meant[row] for row in rows.tolist()]


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


@dataclass(frozen=True)
class Batch:
    """B real pictures and M chains with their texts: (B + M, 3, S, S), (2B + names, E) and (M, E)."""

    image: Tensor
    targets: Targets
    texts: Tensor
    chain_texts: Tensor

    @property
    def real(self) -> int:
        """B."""
        return len(self.image) - len(self.chain_texts)


def draw_batch(run: Run) -> Batch:
    """Fresh views, a quarter of redrawn pictures where there are any; for a model that is attacked as many chains."""
    recipe, device = run.recipe, run.device
    rows = draw_rows(run.bank, recipe.amount(device), run.rng, focus=recipe.focus)
    image, truths = make_views(run.bank, rows, recipe.crops, size=recipe.size, rng=run.rng)
    some = int(recipe.chain_share * len(rows))
    if len(run.redrawn):
        again, shown = draw_views(run, run.redrawn, some)
        image[:some], truths[:some] = disturb(again, recipe.crops, run.rng), shown
    captions, codes = draw_texts(run, truths)
    targets = Targets.compare(run.codes.encode(truths, UNKNOWN).to(device), codes.to(device))
    with torch.autocast(device.type, torch.bfloat16):
        texts = encode_all(run, captions)
        if run.mirages is None:
            return Batch(image, targets, texts, texts[:0])
        forged = draw_views(run, run.forged, some) if len(run.forged) else None
        chains, goals = run.mirages.draw(some, image, truths, forged)
        chains = cloud(chains, recipe.crops, run.rng)
        towards = encode_text(run.model, run.tokens(goals).to(device))
    return Batch(torch.cat((image, chains)), targets, texts, towards)


def first_attack(run: Run, batch: Batch) -> Tensor:
    """(B + M, 3, S, S): one cheap step of the folded tower on the real pictures, nothing on the chains."""
    delta = torch.zeros_like(batch.image)
    if run.radius:
        image, texts = batch.image[: batch.real], batch.texts.detach().T.float()
        scale = run.model.logit_scale.exp().detach()
        with torch.autocast(run.device.type, torch.bfloat16):
            frozen = freeze_image_tower(run.model.eval(), torch.bfloat16)
            harder = attack(
                image, lambda x: picture_loss(scale * frozen(x).float() @ texts, batch.targets),
                radius=run.radius, steps=1, share=run.recipe.reach, rng=run.rng,
            )  # fmt: skip
        delta[: batch.real] = harder - image
    return delta


def losses_of(run: Run, batch: Batch, delta: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
    """The loss and the (B, 2B + names) logits of the real pictures; texts learn in the last replay only."""
    texts = batch.texts if last else batch.texts.detach()
    with torch.autocast(run.device.type, torch.bfloat16):
        features = encode_image(run.model, batch.image + delta)
        scale = run.model.logit_scale.exp()
        similarity = (features[: batch.real] @ texts.T).float()
    logits = scale * similarity
    loss = picture_loss(logits, batch.targets) + run.recipe.text_weight * text_loss(logits, batch.targets)
    if len(batch.chain_texts):
        chain_texts = batch.chain_texts if last else batch.chain_texts.detach()
        reached = (features[batch.real :].float() * chain_texts.float()).sum(1)
        loss = loss + run.recipe.rejection * rejection(reached, similarity[:, : batch.real], scale)
    return loss, logits


def update(run: Run, progress: float) -> dict[str, float]:
    """One fresh batch: one ordinary step, or several steps on pictures that every step makes harder.

    The attack shares its backward passes with the training (Shafahi et al. 2019, "Adversarial training for free"):
    each replay takes one gradient for the weights and for the picture. One cheap step of the folded tower goes
    before, so that no replay sees a clean picture. Texts are encoded once and learn in the last replay.
    """
    recipe, model, radius = run.recipe, run.model, run.radius
    set_rate(run, progress)
    batch = draw_batch(run)
    delta = first_attack(run, batch)
    model.train()
    for replay in range(recipe.replays if radius else 1):
        last = replay + 1 == (recipe.replays if radius else 1)
        delta.requires_grad = bool(radius)
        loss, logits = losses_of(run, batch, delta, last=last)
        step(run, loss.backward)
        model.logit_scale.data.clamp_(math.log(4), math.log(recipe.sharpest))
        average(run)
        if delta.grad is not None:
            delta = climb_on(run, batch, delta.detach(), delta.grad)
    if run.mirages is not None:
        run.mirages.keep(delta[batch.real :])
    run.steps, run.views = run.steps + 1, run.views + batch.real
    right = (logits[:, -len(run.codes.names) :].argmax(1) == batch.targets.names).float().mean().item()
    if radius:
        run.radius = strengthen(radius, right, recipe)
    return {"loss": loss.item(), "right": right, "radius": radius, "scale": model.logit_scale.exp().item()}


def climb_on(run: Run, batch: Batch, delta: Tensor, gradient: Tensor) -> Tensor:
    """The next disturbance (B + M, 3, S, S): real pictures inside their ball, chains wherever the similarity rises."""
    real = batch.real
    stride = run.recipe.reach * run.radius
    near = climb(batch.image[:real], delta[:real], gradient[:real], radius=run.radius, step=stride)
    far = delta[real:] if run.mirages is None else run.mirages.move(delta[real:], gradient[real:])
    return torch.cat((near, far))
