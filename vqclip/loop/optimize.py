"""Pull latents, side by side, towards the prompts. Knows nothing of files, config, devices or text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vqclip.generators import Generator
from vqclip.job import Steps
from vqclip.loop.crops import Cropper
from vqclip.loop.descent import counted_in
from vqclip.loop.losses import Losses, View
from vqclip.loop.state import State
from vqclip.perceptors import Perceptor


@torch.enable_grad()  # as a decorator: torch leaves the mode at each yield and re-enters on resume
def optimize(
    generator: Generator,
    state: State,
    perceptors: Sequence[Perceptor],
    losses: Losses,
    *,
    cropper: Cropper,
    rate: Callable[[int], float],
    steps: int,
    average: float = 0.0,
    span: range | None = None,
    unit: float = 1.0,
    batch: int = 64,
) -> Iterator[Steps]:
    """Yield steps + 1 Steps of all B latents: number 0 is the untouched start, the last one is the result.

    What you saw last is what you get, so stopping early is `break`, and `state.keep` between two Steps leaves some
    of the latents behind. Each image is scored as it is shown. Crops are drawn for each latent, and embedded chunk by
    chunk at fixed borders, those of a whole batch together; their gradients meet at the images and the decoder runs
    backward once, so memory is bounded by a batch of one chunk plus one decode. No latent feels the others.

    Args:
        generator: differentiable image model; its weights are not trained.
        state: the latents (B, C, h, w), their streams and their optimizer; it goes along.
        perceptors: CLIP models that look at the crops, in the order of the losses' targets.
        losses: named terms; their sum is descended.
        cropper: draws the crops of a step and cuts them out of the images.
        rate: learning rate of an update, 0-based.
        steps: number of updates, >= 0.
        average: decay of the moving average of latents in [0, 1); above 0 the average is what is
            shown and scored.
        span: which of the updates to make, None for all; begins where another span ended, with its picture. Where
            the state was saved after a Step, that Step's update comes first and its picture is not shown again.
        unit: length of latents that the optimizer counts in.
        batch: how many latents are decoded and looked at together, >= 1; all are moved together.
    """
    span = range(steps) if span is None else span
    for index in range(span.start, span.stop + 1):
        learning, shown = index < span.stop, []
        for rows in () if state.seen else _groups(len(state), batch):
            latent = state.latent[rows]  # (b, C, h, w)
            source = state.mean[rows] + (latent - latent.detach()) if average else latent  # gradients go to `latent`
            images = generator.decode(source)  # (b, 3, H, W) in [0, 1]
            canvas = images.detach().requires_grad_()  # where the gradients of all chunks meet
            terms: dict[str, Tensor] = {}

            size = {"height": images.shape[-2], "width": images.shape[-1]}
            plan = cropper.draw(state.rngs[rows], **size, progress=index / max(1, steps)).to(images.device)
            for part in plan.chunks:
                seen = [eye.embed_image(cropper.cut(canvas, plan, part, size=eye.size)) for eye in perceptors]
                view = View(index, source, canvas, [each.unflatten(0, (-1, len(part))) for each in seen])
                share = len(part) / plan.count
                _descend({name: loss(view) * share for name, loss in losses.crops.items()}, terms, learning=learning)
            whole = View(index, source, canvas, start=state.start[rows])
            _descend({name: loss(whole) for name, loss in losses.picture.items()}, terms, learning=learning)

            if canvas.grad is not None:  # given a gradient, backward would import sympy to compare its shape
                (images * canvas.grad).sum().backward()
            shown.append(Steps(index, steps, images.detach(), terms))

        if not state.seen:
            state.seen = True
            yield Steps.joined(shown)  # a run that waits holds no graph
        if not learning:
            return

        for group in state.optimizer.param_groups:
            group["lr"] = rate(index)
        with counted_in(unit, state.latent):
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            state.latent.copy_(generator.project(state.latent))  # back into the codebook's range
            if state.denoise is not None:
                state.latent.copy_(state.denoise(state.latent, (index + 1) / steps))
            state.mean.lerp_(state.latent, 1 - average)
        state.seen = False


def _groups(count: int, most: int) -> list[slice]:
    """Which of `count` rows go together, at most so many at a time."""
    return [slice(first, first + most) for first in range(0, count, most)]


def _descend(losses: dict[str, Tensor], terms: dict[str, Tensor], *, learning: bool) -> None:
    """Add values, (b,) each, to `terms` and gradients to the leaves; a term that has not begun is a constant."""
    for name, value in losses.items():
        terms[name] = terms.get(name, 0) + value.detach()
    moving = [value for value in losses.values() if value.requires_grad]
    if learning and moving:
        torch.stack(moving).sum().backward()
