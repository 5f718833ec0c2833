"""What an update of the loop changes: latents side by side, what their optimizer remembers, where their draws stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """What the loop uses of an optimizer; torch's are such."""

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any:
        """What it remembers of each tensor, by the tensor."""

    def step(self) -> object:
        """Move what it was made for along the gradients that are there."""

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  # as torch's have it
        """Forget the gradients."""


MakeOptimizer = Callable[[list[Tensor]], Optimizer]


class Denoise(Protocol):
    """What brings updated latents back to what drawings look like; see `vqclip.loop.annealing`."""

    def __call__(self, latent: Tensor, progress: float) -> Tensor:
        """What becomes of latents (B, C, h, w), given the share of all updates that are made."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the latents."""


class State:
    """B latents between two updates.

    Args:
        latent: (B, C, h, w) float32, where they set out from; the caller's tensor stays as it was.
        rngs: one CPU generator for each, from which all of its crops are drawn.
        optimizer: makes what moves them; every latent must be moved as if it were alone.
        denoise: what is made of an updated latent, None for nothing.

    `latent` is what moves, `mean` its moving average, both with gradients aside (B, C, h, w); `start` stays.
    """

    def __init__(
        self, latent: Tensor, rngs: Sequence[torch.Generator], *, optimizer: MakeOptimizer,
        denoise: Denoise | None = None,
    ) -> None:  # fmt: skip
        if len(rngs) != len(latent):
            raise ValueError(f"{len(latent)} latents need as many generators; {len(rngs)} were given")
        self.start = latent.detach().clone()
        self.latent = latent.detach().clone().requires_grad_()
        self.mean = self.start.clone()
        self.rngs, self.denoise = list(rngs), denoise
        self.optimizer = optimizer([self.latent])

    def __len__(self) -> int:
        return len(self.latent)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the latents, by their numbers; between two Steps, which is where a consumer is.

        The others' gradients, moments and streams go, those of the kept ones stay as they are.
        """
        before, grad = self.latent, self.latent.grad
        self.latent = _rows(before.detach(), rows).requires_grad_()
        if grad is not None:
            self.latent.grad = _rows(grad, rows)
        self.start, self.mean = _rows(self.start, rows), _rows(self.mean, rows)
        self.rngs = [self.rngs[row] for row in rows]
        self.optimizer.param_groups[0]["params"] = [self.latent]
        remembered = self.optimizer.state.pop(before, None)
        if remembered is not None:
            self.optimizer.state[self.latent] = {
                name: _rows(value, rows) if isinstance(value, Tensor) and value.shape == before.shape else value
                for name, value in remembered.items()
            }
        if self.denoise is not None:
            self.denoise.keep(rows)


def _rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Stacked, not indexed: a list of indices would be copied to the device, and waited for."""
    return torch.stack([tensor[row] for row in rows])
