"""Pull one latent towards the prompts. Knows nothing of files, config, devices or text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vqclip.generators import Generator
from vqclip.job import Step
from vqclip.loop.crops import Cropper
from vqclip.loop.descent import counted_in
from vqclip.loop.losses import Losses, View
from vqclip.perceptors import Perceptor


class Optimizer(Protocol):
    """What the loop uses of an optimizer; torch's are such."""

    param_groups: list[dict[str, Any]]

    def step(self) -> object:
        """Move what it was made for along the gradients that are there."""

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  # as torch's have it
        """Forget the gradients."""


MakeOptimizer = Callable[[list[Tensor]], Optimizer]


@torch.enable_grad()  # as a decorator: torch leaves the mode at each yield and re-enters on resume
def optimize(  # noqa: PLR0913  # all of a run's recipe, by keyword
    generator: Generator,
    latent: Tensor,
    perceptors: Sequence[Perceptor],
    losses: Losses,
    *,
    cropper: Cropper,
    optimizer: MakeOptimizer,
    rate: Callable[[int], float],
    steps: int,
    rng: torch.Generator,
    average: float = 0.0,
    span: range | None = None,
    denoise: Callable[[Tensor, float], Tensor] | None = None,
    unit: float = 1.0,
) -> Iterator[Step]:
    """Yield steps + 1 Steps: number 0 is the untouched start, the last one is the result.

    What you saw last is what you get, so stopping early is `break`. Each image is scored as it is
    shown. Crops are embedded chunk by chunk at fixed borders; their gradients meet at the image and
    the decoder runs backward once, so memory is bounded by one chunk plus one decode.

    Args:
        generator: differentiable image model; its weights are not trained.
        latent: (1, C, h, w) float32 start; the caller's tensor stays as it was.
        perceptors: CLIP models that look at the crops, in the order of the losses' targets.
        losses: named terms; their sum is descended.
        cropper: draws the crops of a step and cuts them out of the image.
        optimizer: makes an optimizer for the latent.
        rate: learning rate of an update, 0-based.
        steps: number of updates, >= 0.
        rng: CPU generator from which every crop is drawn.
        average: decay of the moving average of latents in [0, 1); above 0 the average is what is
            shown and scored.
        span: which of the updates to make, None for all; begins where another span ended, with its picture.
        denoise: what an updated latent becomes, given the share of all updates that are made; None leaves it.
        unit: length of latents that the optimizer counts in.
    """
    latent = latent.detach().clone().requires_grad_()  # (1, C, h, w)
    mean = latent.detach().clone()
    stepper = optimizer([latent])

    span = range(steps) if span is None else span
    for index in range(span.start, span.stop + 1):
        source = mean + (latent - latent.detach()) if average else latent  # gradients go to `latent`
        image = generator.decode(source)  # (1, 3, H, W) in [0, 1]
        canvas = image.detach().requires_grad_()  # where the gradients of all chunks meet
        terms: dict[str, Tensor] = {}
        learning = index < span.stop

        plan = cropper.draw(rng, width=image.shape[-1], height=image.shape[-2], progress=index / max(1, steps))
        plan = plan.to(image.device)
        for part in plan.chunks:
            embeds = [eye.embed_image(cropper.cut(canvas, plan, part, size=eye.size)) for eye in perceptors]
            view = View(index, source, canvas, embeds)
            share = len(part) / plan.count
            _descend({name: loss(view) * share for name, loss in losses.crops.items()}, terms, learning=learning)
        whole = View(index, source, canvas)
        _descend({name: loss(whole) for name, loss in losses.picture.items()}, terms, learning=learning)

        if canvas.grad is not None:  # before the yield: a run that waits then holds no graph
            (image * canvas.grad).sum().backward()  # given a gradient, torch would import sympy to compare its shape

        yield Step(index, steps, image.detach()[0], terms)
        if not learning:
            return

        for group in stepper.param_groups:
            group["lr"] = rate(index)
        with counted_in(unit, latent):
            stepper.step()
        stepper.zero_grad(set_to_none=True)
        with torch.no_grad():
            latent.copy_(generator.project(latent))  # back into the codebook's range
            if denoise is not None:
                latent.copy_(denoise(latent, (index + 1) / steps))
            mean.lerp_(latent, 1 - average)


def _descend(losses: dict[str, Tensor], terms: dict[str, Tensor], *, learning: bool) -> None:
    """Add the values to `terms` and the gradients to the leaves; a term that has not begun is a constant."""
    for name, value in losses.items():
        terms[name] = terms.get(name, 0) + value.detach()
    moving = [value for value in losses.values() if value.requires_grad]
    if learning and moving:
        torch.stack(moving).sum().backward()
