"""Vector quantisation with gradients that pass through: nearest codes, straight-through, clamp with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def nearest_codes(latent: Tensor, codebook: Tensor, square_norms: Tensor) -> Tensor:
    """Index of the codebook row nearest to each cell, in squared Euclidean distance.

    |z - e|^2 = |z|^2 - 2 z.e + |e|^2; the first part is the same for all rows and is left out.

    Args:
        latent: (B, D, h, w) float32.
        codebook: (K, D) float32 rows.
        square_norms: (K,) their squared lengths.

    Returns:
        (B, h, w) int64.
    """
    cells = latent.detach().movedim(1, -1)  # (B, h, w, D)
    scores = torch.addmm(square_norms, cells.reshape(-1, cells.shape[-1]), codebook.T, alpha=-2)
    return scores.argmin(1).view(cells.shape[:-1])


def deviation(codebook: Tensor) -> float:
    """Root mean square deviation of the numbers of code rows (K, D) from their mean row.

    A code counts as much as it stands out, by its own squared deviation: in a large codebook most rows may never have
    been used and lie close together, which says nothing about how far apart those are that draw.
    """
    away = codebook.double() - codebook.double().mean(0)
    square = away.square().mean(1)  # (K,)
    total = float(square.sum())
    return float((square / total * square).sum().sqrt()) if total > 0 else 0.0


def look_up(codes: Tensor, codebook: Tensor) -> Tensor:
    """(B, h, w) indices -> (B, D, h, w) codebook rows."""
    return F.embedding(codes, codebook).movedim(-1, 1).contiguous()


class _Swap(torch.autograd.Function):
    """Forward `value`; backward hands the gradient to `source` as it is."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """`value` forward, identity onto `source` backward; both of one, any shape.

    Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons"; in a VQ-VAE van den Oord et
    al. 2017, section 3.2.
    """
    swapped: Tensor = _Swap.apply(source, value)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return swapped


class _ClampWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        clamped = value.clamp(low, high)
        ctx.save_for_backward(value - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (excess,) = ctx.saved_tensors
        return grads[0] * (grads[0] * excess >= 0), None, None


def clamp_with_grad(value: Tensor, low: float, high: float) -> Tensor:
    """Clamp, of any shape, whose gradient survives saturation where descending it would bring the value back.

    Inside [low, high] all gradient passes; outside, only that which moves the value towards the range
    (gradient x excess >= 0). A plain clamp leaves saturated pixels stuck for ever.
    """
    clamped: Tensor = _ClampWithGrad.apply(value, low, high)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return clamped
