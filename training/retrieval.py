"""Examines a CLIP on drawings of a style it never saw: does it name them, with and without an attack?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.captions import Tokens, with_article
from training.contrast import attack
from training.data import load
from training.towers import encode_image, encode_text
from training.views import make_bank
from vqclip.perceptors.openai_clip import CLIP

ATTACKED = 128


@dataclass(frozen=True)
class Exam:
    """White-background pictures (N, 3, size, size) in [0, 1] with the numbers of their names."""

    title: str
    image: Tensor
    answers: Tensor
    names: list[str]


def make_exam(title: str, styles: tuple[str, ...], names: list[str], size: int, *, most: int = 400) -> Exam:
    """An even sample of the untouched icons of some styles, shown whole on white."""
    icons = load(styles, "concepts")
    bank = make_bank(icons, side=size, variants=0, seed=0)
    keep = [row for row, truth in enumerate(bank.truths) if truth.name in names]
    keep = keep[:: max(1, len(keep) // most)]
    picture = bank.pixels[keep].permute(0, 3, 1, 2).float() / 255
    image = picture[:, :3] + 1 - picture[:, 3:]
    return Exam(title, image.clamp(0, 1), torch.tensor([names.index(bank.truths[row].name) for row in keep]), names)


@torch.no_grad()
def evaluate(exam: Exam, model: CLIP, tokens: Tokens, *, radius: float = 1.0) -> dict[str, float]:
    """Shares of pictures whose name comes first, or among the first five, of all names; then under attack.

    Args:
        exam: the pictures.
        model: in evaluation mode.
        tokens: its token table.
        radius: L2 radius of a five-step attack on 128 of the pictures at 64 px, in proportion at others.
    """
    device = next(model.parameters()).device
    texts = encode_text(model, tokens([with_article(name, name) for name in exam.names]).to(device))
    image, answers = exam.image.to(device), exam.answers.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        scores = torch.cat([encode_image(model, part) @ texts.T for part in image.split(64)]).float()
    ranks = (scores > scores.gather(1, answers[:, None])).sum(1)
    some = torch.linspace(0, len(image) - 1, min(ATTACKED, len(image))).long()
    scale = model.logit_scale.exp()

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(scale * encode_image(model, x) @ texts.T, answers[some])

    rng = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        harder = attack(image[some], loss, radius=radius * image.shape[-1] / 64, steps=5, rng=rng)
    attacked = (encode_image(model, harder) @ texts.T).argmax(1) == answers[some]
    figures = {"top1": (ranks < 1), "top5": (ranks < 5), "attacked": attacked}
    return {f"{exam.title}_{key}": value.float().mean().item() for key, value in figures.items()}
