"""The contrastive loss over captions with known meanings, and the attack that makes its pictures harder.

Knows features, codes and pictures; not models, files or schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.captions import fits

SMOOTHING = 0.05
_MISS = 3.0  # weight of a caption against its near miss


@dataclass(frozen=True)
class Targets:
    """Which of T texts belong to which of B pictures.

    The texts are B captions, B near misses and then one plain text for each of the names, in this order.
    `rivals` is (B, 2B) bool: captions and near misses that count as wrong for a picture.
    """

    rivals: Tensor
    names: Tensor

    @classmethod
    def compare(cls, pictures: Tensor, captions: Tensor) -> Targets:
        """From the codes of the pictures (B, 4) and of captions and near misses (2B, 4)."""
        return cls(~fits(pictures, captions), pictures[:, 0])


def picture_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Mean over pictures of three cross-entropies: own caption among rivals, against its near miss, own name among all.

    The second counts `_MISS` times.

    Args:
        logits: (B, T) scaled similarities.
        targets: for the same B pictures.
    """
    count = len(logits)
    pool, names = logits[:, : 2 * count], logits[:, 2 * count :]
    own = torch.eye(count, 2 * count, dtype=torch.bool, device=logits.device)
    allowed = targets.rivals | own
    scores = pool.masked_fill(~allowed, -1e4).log_softmax(1)
    even = (scores * allowed).sum(1) / allowed.sum(1)
    among_texts = -((1 - SMOOTHING) * scores.diagonal() + SMOOTHING * even).mean()
    # Among 128 texts the one that differs in a word alone hardly weighs, and whose colour it is was learnt by chance.
    against_miss = F.softplus(pool.diagonal(count) - pool.diagonal()).mean()
    return among_texts + _MISS * against_miss + F.cross_entropy(names, targets.names, label_smoothing=SMOOTHING)


def text_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Mean over the B captions of the cross-entropy of their own picture among those they do not fit; a scalar.

    `logits` (B, T) as in `picture_loss`.
    """
    count = len(logits)
    own = torch.eye(count, dtype=torch.bool, device=logits.device)
    allowed = targets.rivals[:, :count] | own
    return -logits[:, :count].masked_fill(~allowed, -1e4).log_softmax(0).diagonal().mean()


def attack(
    image: Tensor, loss: Callable[[Tensor], Tensor], *, radius: float, steps: int, rng: torch.Generator,
    share: float = 0.0,
) -> Tensor:  # fmt: skip
    """Projected gradient ascent on `loss` inside an L2 ball (Madry et al. 2018; for CLIP: CLIPAG, 2023).

    Args:
        image: (B, 3, H, W) float32 in [0, 1].
        loss: picture -> scalar; every picture's share of it must not depend on the others.
        radius: of the ball, in units of [0, 1] pixels, over the whole picture.
        steps: gradient steps.
        rng: CPU generator of the start inside the ball.
        share: length of a step in radii; 1.5 / steps where it is 0.

    Returns:
        pictures of the same shape, detached, in [0, 1], at most `radius` away.
    """
    noise = torch.randn(image.shape, generator=rng).to(image.device)
    delta = climb(image, torch.zeros_like(image), noise, radius=radius, step=0.3 * radius)
    for _ in range(steps):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(image + delta), delta)
        delta = climb(image, delta.detach(), gradient, radius=radius, step=(share or 1.5 / steps) * radius)
    return image + delta


def climb(image: Tensor, delta: Tensor, gradient: Tensor, *, radius: float, step: float) -> Tensor:
    """The disturbance after one step of fixed length up the gradient, back inside the ball and the range [0, 1].

    All (B, 3, H, W); `radius` and `step` are L2 lengths over a picture. Projected gradient ascent as in Madry et al.
    2018, "Towards Deep Learning Models Resistant to Adversarial Attacks". Where noise has left that range already, the
    disturbance does not lead farther out.
    """
    delta = delta + gradient * (step / _norms(gradient))
    delta = delta * (radius / _norms(delta)).clamp_max(1)
    low, high = image.clamp_max(0), image.clamp_min(1)
    return torch.minimum(torch.maximum(image + delta, low), high) - image


def _norms(batch: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(batch.flatten(1), dim=1)
    return norms.clamp_min(1e-12).view(-1, 1, 1, 1)
