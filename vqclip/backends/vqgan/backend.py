"""The VQGAN+CLIP backend: a Job becomes a start latent, named losses and a run of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vqclip.backends import OnStep
from vqclip.backends.clock import Clock
from vqclip.backends.vqgan import joined
from vqclip.backends.vqgan.population import leading
from vqclip.backends.vqgan.starts import enlarge, half, smooth_colours
from vqclip.backends.vqgan.terms import Guidance, areas
from vqclip.generators import Generator
from vqclip.generators.denoiser import Denoiser
from vqclip.job import InputError, Job, Result, Step
from vqclip.loop import losses
from vqclip.loop.annealing import CALM, Annealing, Levels
from vqclip.loop.crops import Cropper, CropSpec
from vqclip.loop.descent import Normalised
from vqclip.loop.optimize import MakeOptimizer, Optimizer, optimize
from vqclip.perceptors import Perceptor

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "normalised": Normalised,
}


@dataclass(frozen=True)
class Recipe:
    """How the latent is moved.

    start: "smooth" (blurred random colours, encoded), "noise" (random codes), "mean" (the codebook's
        mean everywhere), "sine" (sines of half a normal draw) or "image".
        cells: blobs of colour along the short side of a smooth start. contrast: its spread around grey, in [0, 1].
        image: (1, 3, H, W) for start "image".
    optimizer, rate, rate_end, weight_decay: name in `OPTIMIZERS` and a cosine from `rate` to `rate_end`.
    unit: length of latents that rates, weight decay, sine starts, anchor and decay count in.
    average: decay of the latent's moving average, 0 for none.
    exclude, extras: factors on all exclude and extra prompts; include counts 1.
    roles: whether an exclude is pushed away in every role of its words, each while it is there, and an extra that is a
        look is asked of the picture alone, or each as its text.
    area: factor on what is asked of the picture's areas: excluded colours, palettes, looks.
    exclude_stop: spherical distance beyond which an exclude without a stop of its own pushes no more; None for where
        nothing of it is left, and for never without roles.
    distance: of crops from prompts, a name in `losses.DISTANCES`. join: "apart" (each prompt a term
        of its own) or "features" (see `vqclip.backends.vqgan.joined`).
    emphasis: share of what all everyday names have in common that is taken off the prompts, see `Guidance`.
    coarse: share of the steps, in [0, 1], that are made at half the size first; none from a start picture.
    tries, tries_share: how many starts run side by side, and for which share of the steps; one from a start picture.
    images: pictures (1, 3, H, W) in [0, 1] that the result should resemble to the guides, each with a weight.
    smooth, anchor, decay: weights of total variation, distance from the start and the latent's size.
    levels: the noise of the denoiser, where the backend has one.
    """

    crops: CropSpec
    start: str
    cells: int
    contrast: float
    optimizer: str
    rate: float
    rate_end: float
    weight_decay: float
    average: float
    exclude: float
    extras: float
    smooth: float
    anchor: float
    decay: float
    exclude_stop: float | None = None
    roles: bool = False
    area: float = 0.0
    emphasis: float = 0.0
    distance: str = "spherical"
    join: str = "apart"
    coarse: float = 0.0
    tries: int = 1
    tries_share: float = 0.0
    image: Tensor | None = None
    images: tuple[tuple[Tensor, float], ...] = ()
    levels: Levels = CALM
    unit: float = 1.0


class VQGANBackend:
    """Optimises the latent of a Generator until the guides see what the prompts ask for.

    Args:
        generator: the image model. guides: the CLIP models that steer. weights: one factor per guide.
        denoiser: what keeps the generator's latents to drawings, None for nothing.
    """

    def __init__(
        self, generator: Generator, guides: Sequence[Perceptor], weights: Sequence[float], *, recipe: Recipe,
        denoiser: Denoiser | None = None,
    ) -> None:  # fmt: skip
        self.generator, self.guides, self.weights, self.recipe = generator, list(guides), list(weights), recipe
        self.denoiser = denoiser
        self._cropper = Cropper(recipe.crops)
        self._guidance = Guidance(self.guides, self.weights, recipe.emphasis, distance=recipe.distance)

    def check(self, job: Job) -> None:
        """Raise InputError for prompts that these guides cannot read, before any work is done."""
        texts = [prompt.text for prompt in (*job.include, *job.exclude, *job.extras)]
        if self.recipe.join == "features":
            texts = joined.texts(job)
        for guide in self.guides:
            guide.embed_text(texts)

    def steps(self, job: Job) -> Iterator[Step]:
        """Yield `job.steps` + 1 Steps: the untouched start first, the result last, all of the job's size.

        With `coarse` the first part of the run works at half the size and goes on from its picture, enlarged:
        the guides' pull then moves whole areas before it draws lines. With `tries` several starts take the first
        part side by side; shown is the one that the guides like best so far.
        """
        early, shared = self._early(job.steps), round(self.recipe.tries_share * job.steps)
        size = half(job.size, self.generator.stride) if early else job.size
        names = ["", *(f"try {number} " for number in range(2, self._tries + 1))]
        terms = self._terms(job, settled=shared)
        runs = [self._begin(job, terms, size, range(early or job.steps), name=name) for name in names]
        race = leading(runs, shared)
        if not early:
            yield from race
            return
        for step in race:
            picture = enlarge(step.image[None], job.size)
            if step.index < early:
                yield Step(step.index, job.steps, picture[0], step.terms)
        latent = self.generator.encode(picture)
        yield from self._descend(job, terms, latent, range(early, job.steps), name="late ")

    def parts(self, size: tuple[int, int], steps: int) -> list[tuple[tuple[int, int], int]]:
        """The updates of a run by the size they are made at, those of every try among them."""
        early = self._early(steps)
        extra = (self._tries - 1) * min(early or steps, round(self.recipe.tries_share * steps))
        if not early:
            return [(size, steps + extra)]
        return [(half(size, self.generator.stride), early + extra), (size, steps - early)]

    def _early(self, steps: int) -> int:
        """How many updates are made at half the size."""
        return 0 if self.recipe.start == "image" else round(self.recipe.coarse * steps)

    @property
    def _tries(self) -> int:
        return 1 if self.recipe.start == "image" else self.recipe.tries

    def _begin(
        self, job: Job, terms: losses.Losses, size: tuple[int, int], span: range, *, name: str
    ) -> Iterator[Step]:
        """One start and its run."""
        latent = start_latent(self.generator, self.recipe, size=size, rng=job.rng(f"{name}start"))
        yield from self._descend(job, terms, latent, span, name=name)

    def _descend(self, job: Job, terms: losses.Losses, latent: Tensor, span: range, *, name: str) -> Iterator[Step]:
        """The loop over a span of the job's steps; `name` tells its random streams from other runs'."""
        denoise = None
        if self.denoiser is not None:
            denoise = Annealing(self.denoiser, self.recipe.levels, job.rng(f"{name}noise"))
        return optimize(
            self.generator,
            latent,
            self.guides,
            losses.Losses(terms.crops, terms.picture | self._bounds(latent)),
            cropper=self._cropper,
            optimizer=_maker(self.recipe),
            rate=cosine(self.recipe.rate, self.recipe.rate_end, job.steps),
            steps=job.steps,
            span=span,
            rng=job.rng(f"{name}crops"),
            average=self.recipe.average,
            denoise=denoise,
            unit=self.recipe.unit,
        )

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Run all steps, calling `on_step` at each, and return the last picture; its seconds are those of the steps."""
        clock = Clock(self.generator.device)
        report = clock.outside(on_step)
        for step in self.steps(job):
            report(step)
        values = torch.stack([value.float() for value in step.terms.values()]).tolist() if step.terms else []
        terms = dict(zip(step.terms, values, strict=True))
        return Result(job, step.image.cpu(), terms, step.index, clock.seconds)

    def _terms(self, job: Job, *, settled: int) -> losses.Losses:
        """What the guides are to see, embedded once for all parts of a run."""
        recipe = self.recipe
        stopped = [p if p.stop is not None else replace(p, stop=recipe.exclude_stop) for p in job.exclude]
        job = replace(job, exclude=tuple(stopped))
        prompts, off = self._guidance, recipe.exclude
        pictures = prompts.resembles(recipe.images)
        spots = areas(
            job, exclude=off * recipe.area, extras=recipe.extras * recipe.area, settled=settled, said=prompts.said
        )
        if recipe.join == "features":
            return losses.Losses(prompts.joined(job, exclude=off, extras=recipe.extras) | pictures, spots)
        pushes = prompts.roles_off(job, off, settled=settled) if recipe.roles else prompts.pushes(job, off)
        extras = (
            prompts.extras(job, recipe.extras)
            if recipe.roles
            else prompts.pulls("extras", job.extras, recipe.extras)
        )
        return losses.Losses(prompts.pulls("include", job.include) | pushes | extras | pictures, spots)

    def _bounds(self, latent: Tensor) -> dict[str, losses.Loss]:
        """What is asked of the picture and the latent themselves."""
        recipe = self.recipe
        made = {
            "smooth": losses.smooth(recipe.smooth),
            "anchor": losses.anchor(latent, recipe.anchor, unit=recipe.unit),
            "decay": losses.decay(recipe.decay, unit=recipe.unit),
        }
        return {name: loss for name, loss in made.items() if getattr(recipe, name) > 0}


def _maker(recipe: Recipe) -> MakeOptimizer:
    kind = OPTIMIZERS[recipe.optimizer]
    return lambda tensors: kind(tensors, lr=recipe.rate, weight_decay=recipe.weight_decay)


def cosine(start: float, end: float, steps: int) -> Callable[[int], float]:
    """Learning rate of update 0 .. steps - 1: half a cosine from `start` down to `end`."""

    def rate(index: int) -> float:
        progress = index / max(1, steps - 1)
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2

    return rate


def start_latent(generator: Generator, recipe: Recipe, *, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """The latent (1, C, h, w) from which the loop sets out, for a picture of `size` = (width, height)."""
    noise = generator.sample(size, rng)  # drawn for every kind, which also checks the size
    if recipe.start == "noise":
        return noise
    if recipe.start == "smooth":
        return generator.encode(smooth_colours(size, recipe.cells, recipe.contrast, rng=rng).to(noise.device))
    if recipe.start == "sine":
        return recipe.unit * (torch.randn(noise.shape, generator=rng, dtype=noise.dtype) / 2).sin().to(noise.device)
    if recipe.start == "mean":
        grey = torch.full((1, 3, size[1], size[0]), 0.5, device=noise.device)
        return generator.encode(grey)
    if recipe.start == "image" and recipe.image is not None:
        return generator.encode(recipe.image.to(noise.device))
    raise InputError(f"start.kind: {recipe.start!r} needs start.image; allowed: smooth, noise, mean, sine, image")
