"""Steepest descent by steps of a fixed size, used like a torch optimizer; any optimizer's steps in another unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Normalised:
    """Moves each of a batch of latents against its gradient by `lr`, in root mean square over its elements.

    The picture-making step of Santurkar et al. 2019 ("Image Synthesis with a Single (Robust) Classifier"). Adam gives
    every element its own rate and so takes the noise of elements that do not matter as seriously as those that do;
    here their ratio stays what the gradient says.

    Args:
        tensors: what moves, (B, ...) each; a gradient of zero leaves its row where it is.
        lr: length of a step, in units of the latent. weight_decay: share of the latent added to its gradient.

    No `torch.optim.Optimizer`: the first one of a process imports all of torch._dynamo, a second before the first step.
    """

    def __init__(self, tensors: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(tensors), "lr": lr, "weight_decay": weight_decay}]
        self.state: dict[Tensor, dict[str, Any]] = {}  # as torch's optimizers have it; nothing is remembered

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that are there."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                slope = tensor.grad + group["weight_decay"] * tensor
                size = slope.square().mean(tuple(range(1, slope.dim())), keepdim=True).sqrt()
                tensor.sub_(torch.where(size > 0, slope * (group["lr"] / size.clamp_min(1e-30)), 0.0))

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  # as torch's optimizers have it
        """Forget the gradients."""
        for tensor in (each for group in self.param_groups for each in group["params"] if each.grad is not None):
            tensor.grad = None if set_to_none else tensor.grad.zero_()


@contextmanager
def counted_in(unit: float, tensor: Tensor) -> Iterator[None]:
    """Within it a tensor of any shape is counted in lengths of `unit` > 0, its gradient per such length; for an update.

    A rate times `unit` would not do: what is added to squared gradients, weight decay and the first steps of RAdam
    know the scale of a tensor too.
    """
    if unit == 1:  # not one rounding
        yield
        return
    with torch.no_grad():
        tensor.div_(unit)
        if tensor.grad is not None:
            tensor.grad.mul_(unit)
    yield
    with torch.no_grad():
        tensor.mul_(unit)
