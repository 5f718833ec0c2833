"""What an update of the loop changes: latents side by side, what their optimizer remembers, where their draws stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    def saved(self, rows: slice) -> dict[str, Tensor]:
        """All that the next call depends on, of some of the latents: names -> tensors of any shape."""

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what was saved, tensors of any shape."""


class State:
    """B latents between two updates.

    Args:
        latent: (B, C, h, w) float32, where they set out from; the caller's tensor stays as it was.
        rngs: one CPU generator for each, from which all of its crops are drawn.
        optimizer: makes what moves them; every latent must be moved as if it were alone.
        denoise: what is made of an updated latent, None for nothing.

    `latent` is what moves, `mean` its moving average, `start` stays, each (B, C, h, w). `seen` says whether the latents
    were looked at since they moved, so that the gradients of the next update are there.
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
        self.rngs, self.denoise, self.seen = list(rngs), denoise, False
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

    def saved(self, rows: slice) -> dict[str, Tensor]:
        """All that the rest of a run of some of the latents depends on, to be asked between two Steps.

        Returns:
            Names -> tensors of any shape, each a copy on the CPU.
        """
        made = {"latent": self.latent, "mean": self.mean, "start": self.start}
        if self.latent.grad is not None:
            made["gradient"] = self.latent.grad
        made |= {
            f"optimizer.{name}": torch.as_tensor(value)
            for name, value in self.optimizer.state.get(self.latent, {}).items()
        }
        own = {name: value[rows] if value.shape == self.latent.shape else value for name, value in made.items()}
        if self.denoise is not None:
            own |= {f"denoise.{name}": value for name, value in self.denoise.saved(rows).items()}
        return {name: value.detach().cpu().clone() for name, value in own.items()} | streams("crops", self.rngs[rows])

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what was saved of as many latents; the tensors are copied.

        Raises:
            KeyError, ValueError: something is missing or of another shape.
        """
        with torch.no_grad():
            for name in ("latent", "mean", "start"):
                own = getattr(self, name)
                if saved[name].shape != own.shape:
                    raise ValueError(f"{name}: {list(saved[name].shape)} was saved, {list(own.shape)} is needed")
                own.copy_(saved[name])
            gradient = saved.get("gradient")
            self.latent.grad = None if gradient is None else gradient.to(self.latent.device, copy=True)
        remembered = within(saved, "optimizer")
        if remembered:
            known = {} if not self.optimizer.state else self.optimizer.state[self.latent]
            self.optimizer.state[self.latent] = {
                name: value.to(self.latent.device if value.dim() else _home(known, name), copy=True)
                for name, value in remembered.items()
            }
        if self.denoise is not None:
            self.denoise.restore(within(saved, "denoise"))
        follow(self.rngs, saved, "crops")
        self.seen = True


def streams(name: str, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Where generators stand, (K,) uint8 each, under a name of its own."""
    return {f"{name}.stream.{number}": rng.get_state() for number, rng in enumerate(rngs)}


def follow(rngs: Sequence[torch.Generator], saved: Mapping[str, Tensor], name: str) -> None:
    """Set generators to where others stood, (K,) uint8 each; KeyError where nothing was saved of one."""
    for number, rng in enumerate(rngs):
        rng.set_state(saved[f"{name}.stream.{number}"])


def within(saved: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What was saved under a name and a point, tensors of any shape, by the rest of their names."""
    return {key.removeprefix(f"{name}."): value for key, value in saved.items() if key.startswith(f"{name}.")}


def _home(known: Mapping[str, Any], name: str) -> torch.device:
    """Where an optimizer keeps a single number: counts of steps stay on the CPU."""
    value = known.get(name)
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Stacked, not indexed: a list of indices would be copied to the device, and waited for."""
    return torch.stack([tensor[row] for row in rows])
