"""The form in which the starter Kandinsky's UNet reads image embeddings, and how another guide's are brought into it.

Linear algebra only; trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.kandinsky_data import Embeddings
from vqclip.job import InputError

_SOFT = 0.05  # share of the mean variance added to every direction before whitening


@dataclass(frozen=True)
class Reading:
    """Embeddings in the network's form: `views` (N, E) and `zero` (E,) are matrix @ embedding + offset."""

    views: Tensor
    zero: Tensor
    matrix: Tensor
    offset: Tensor
    guide: str


def whiten(embeddings: Embeddings) -> Reading:
    """Mean 0 and about unit deviation in every direction that carries something: the small CLIP's embeddings fill
    some thirty of theirs, a hundred to one in deviation, which gradient descent would follow one after the other."""
    views = embeddings.views
    mean, covariance = views.mean(0), torch.cov(views.T)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ torch.diag((values.clamp_min(0) + _SOFT * values.mean()).rsqrt()) @ vectors.T
    return read(embeddings, matrix, -matrix @ mean)


def translate(embeddings: Embeddings, form: Tensor) -> Reading:
    """The linear map of another guide's embeddings (N, E) that best gives the same `form` (N, E) of the same views.

    Raises:
        InputError: another number of views.
    """
    if len(form) != len(embeddings.views):
        raise InputError(f"the checkpoint knows {len(form)} views, there are {len(embeddings.views)}; start anew")
    views = embeddings.views.double()
    centred, goal = views - views.mean(0), form.double() - form.double().mean(0)
    square = centred.T @ centred
    ridge = 1e-3 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    matrix = torch.linalg.solve(square + ridge, centred.T @ goal).T
    offset = form.double().mean(0) - matrix @ views.mean(0)
    return read(embeddings, matrix.float(), offset.float())


def read(embeddings: Embeddings, matrix: Tensor, offset: Tensor) -> Reading:
    """The form that a known map gives: `matrix` (E, E), `offset` (E,)."""
    views, zero = embeddings.views @ matrix.T + offset, matrix @ embeddings.zero + offset
    return Reading(views, zero, matrix, offset, embeddings.guide)
