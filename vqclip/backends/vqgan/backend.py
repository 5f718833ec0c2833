"""The VQGAN+CLIP backend: a Job becomes a start latent, named losses and a run of the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vqclip.backends import OnStep
from vqclip.backends.clock import Clock
from vqclip.backends.vqgan import joined
from vqclip.backends.vqgan.population import Leaders
from vqclip.backends.vqgan.starts import enlarge, half, smooth_colours
from vqclip.backends.vqgan.terms import Guidance, areas
from vqclip.generators import Generator
from vqclip.generators.denoiser import Denoiser
from vqclip.job import InputError, Job, Result, Step, Steps
from vqclip.loop import losses
from vqclip.loop.annealing import CALM, Annealing, Levels
from vqclip.loop.crops import Cropper, CropSpec
from vqclip.loop.descent import Normalised
from vqclip.loop.optimize import optimize
from vqclip.loop.state import MakeOptimizer, Optimizer, State, within
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
    batch: how many latents are decoded and looked at together.
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
    batch: int = 4
    unit: float = 1.0


class VQGANBackend:
    """Optimises the latent of a Generator until the guides see what the prompts ask for.

    Args:
        generator: the image model. guides: the CLIP models that steer. weights: one factor per guide.
        denoiser: what keeps the generator's latents to drawings, None for nothing.
        threads: most CPU threads for several latents at a time, one for each; 1 leaves torch's own number.
    """

    def __init__(
        self, generator: Generator, guides: Sequence[Perceptor], weights: Sequence[float], *, recipe: Recipe,
        denoiser: Denoiser | None = None, threads: int = 1,
    ) -> None:  # fmt: skip
        self.generator, self.guides, self.weights, self.recipe = generator, list(guides), list(weights), recipe
        self.denoiser, self.threads = denoiser, threads
        self.cropper = Cropper(recipe.crops)
        self._guidance = Guidance(self.guides, self.weights, recipe.emphasis, distance=recipe.distance)

    def check(self, job: Job) -> None:
        """Raise InputError for prompts that these guides cannot read, before any work is done."""
        texts = [prompt.text for prompt in (*job.include, *job.exclude, *job.extras)]
        if self.recipe.join == "features":
            texts = joined.texts(job)
        for guide in self.guides:
            guide.embed_text(texts)

    def steps(self, job: Job) -> Iterator[Step]:
        """Yield `job.steps` + 1 Steps: the untouched start first, the result last, all of the job's size."""
        return (steps[0] for steps in Drawing(self, [job]))

    def parts(self, size: tuple[int, int], steps: int) -> list[tuple[tuple[int, int], int]]:
        """The updates of a run by the size they are made at, those of every try among them."""
        early = self.early(steps)
        extra = (self.tries - 1) * min(early or steps, round(self.recipe.tries_share * steps))
        if not early:
            return [(size, steps + extra)]
        return [(half(size, self.generator.stride), early + extra), (size, steps - early)]

    def batches(self, size: tuple[int, int], steps: int, pictures: int = 1) -> list[tuple[tuple[int, int], int]]:
        """How many latents are drawn at a time, by the size that they are drawn at, for pictures side by side."""
        whole, tried = (min(self.recipe.batch, pictures * tries) for tries in (1, self.tries))
        if not self.early(steps):
            return [(size, tried)]
        return [(half(size, self.generator.stride), tried), (size, whole)]

    def early(self, steps: int) -> int:
        """How many of the updates are made at half the size."""
        return 0 if self.recipe.start == "image" else round(self.recipe.coarse * steps)

    @property
    def tries(self) -> int:
        """How many starts a picture has."""
        return 1 if self.recipe.start == "image" else self.recipe.tries

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Run all steps, calling `on_step` at each, and return the last picture; its seconds are those of the steps."""
        clock = Clock(self.generator.device)
        report = clock.outside(on_step)
        for step in self.steps(job):
            report(step)
        values = torch.stack([value.float() for value in step.terms.values()]).tolist() if step.terms else []
        terms = dict(zip(step.terms, values, strict=True))
        return Result(job, step.image.cpu(), terms, step.index, clock.seconds)

    def terms(self, job: Job, *, settled: int) -> losses.Losses:
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
            both = prompts.joined(job, exclude=off, extras=recipe.extras)
            return losses.Losses(both | pictures, spots | self._bounds)
        pushes = prompts.roles_off(job, off, settled=settled) if recipe.roles else prompts.pushes(job, off)
        extras = (
            prompts.extras(job, recipe.extras)
            if recipe.roles
            else prompts.pulls("extras", job.extras, recipe.extras)
        )
        pulls = prompts.pulls("include", job.include)
        return losses.Losses(pulls | pushes | extras | pictures, spots | self._bounds)

    @property
    def _bounds(self) -> dict[str, losses.Loss]:
        """What is asked of the picture and the latent themselves."""
        recipe = self.recipe
        made = {
            "smooth": losses.smooth(recipe.smooth),
            "anchor": losses.anchor(recipe.anchor, unit=recipe.unit),
            "decay": losses.decay(recipe.decay, unit=recipe.unit),
        }
        return {name: loss for name, loss in made.items() if getattr(recipe, name) > 0}


class Drawing:
    """The pictures of jobs that differ in their seeds alone, drawn side by side: yields the Steps of all of them.

    With `coarse` the first part of the run works at half the size and goes on from its pictures, enlarged: the guides'
    pull then moves whole areas before it draws lines. With `tries` several starts of each picture take the first part
    side by side; shown is the one that the guides like best so far. A picture comes out as if it were drawn alone, but
    for the rounding of sums.

    Args:
        jobs: of the same prompts, size and steps.
        saved: what a drawing had `saved` of the one job that there is, names -> tensors of any shape; with it this one
            goes on there.
    """

    def __init__(
        self, backend: VQGANBackend, jobs: Sequence[Job], *, saved: Mapping[str, Tensor] | None = None
    ) -> None:
        self.jobs = list(jobs)
        self._backend, self._recipe, self._saved = backend, backend.recipe, saved
        self._leaders: Leaders | None = None
        self._late, self._index = False, 0  # the part of the run, and the Step that was shown last
        if len({replace(job, seed=0) for job in jobs}) != 1:
            raise ValueError("jobs drawn side by side differ in their seeds alone")

    def __iter__(self) -> Iterator[Steps]:
        """Yield `steps` + 1 Steps: the untouched starts first, the results last, all of the jobs' size.

        What goes on from something saved begins with the Step after it.
        """
        job, backend = self.jobs[0], self._backend
        early, shared = backend.early(job.steps), round(self._recipe.tries_share * job.steps)
        terms = backend.terms(job, settled=shared)
        if self._saved is None:
            self._begin(half(job.size, backend.generator.stride) if early else job.size)
        else:
            self._go_on(self._saved)
        if not self._late:
            for steps in self._race(self._descend(terms, range(self._index, early or job.steps)), shared):
                pictures = enlarge(steps.images, job.size) if early else steps.images
                if not early or steps.index < early:
                    self._index = steps.index
                    yield Steps(steps.index, steps.total, pictures, steps.terms)
            if early:
                self._set_out(backend.generator.encode(pictures), [(job, "late ") for job in self.jobs])
                self._late, self._index, self._leaders = True, early, None  # the shown ones were enlarged
        if self._late:
            for steps in self._descend(terms, range(self._index, job.steps)):
                self._index = steps.index
                yield steps

    def saved(self, picture: int) -> dict[str, Tensor]:
        """All that the Steps of a picture after the present one depend on, to be asked between two of them.

        It can be drawn on alone, whatever it was drawn beside. Returns names -> tensors of any shape, each a copy on
        the CPU.
        """
        made = {"late": torch.tensor(self._late), "index": torch.tensor(self._index)}
        each = 1 if self._leaders is None else self._backend.tries
        rows = slice(picture * each, (picture + 1) * each)
        if self._leaders is not None:
            made["recent"] = self._leaders.recent[rows].cpu().clone()
        return made | {f"state.{name}": value for name, value in self._state.saved(rows).items()}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the pictures, by their numbers in the Steps; to be called between two of them."""
        self.jobs = [self.jobs[row] for row in rows]
        self._state.keep(rows if self._leaders is None else self._leaders.keep(rows))

    def _begin(self, size: tuple[int, int]) -> None:
        """Draw the starts of all pictures, at a size."""
        backend = self._backend
        names = ["", *(f"try {number} " for number in range(2, backend.tries + 1))]
        streams = [(job, name) for job in self.jobs for name in names]
        begun = [
            start_latent(backend.generator, self._recipe, size=size, rng=job.rng(f"{name}start"))
            for job, name in streams
        ]
        self._set_out(torch.cat(begun), streams)
        if backend.tries > 1:
            self._leaders = Leaders(backend.tries)

    def _go_on(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what was saved of these pictures; KeyError or ValueError where it is of something else."""
        generator, size = self._backend.generator, self.jobs[0].size
        latents = saved["state.latent"].to(generator.device)
        early = self._backend.early(self.jobs[0].steps) and not bool(saved["late"])
        width, height = half(size, generator.stride) if early else size
        if tuple(latents.shape[-2:]) != (height // generator.stride, width // generator.stride):
            raise ValueError(f"latents of {list(latents.shape)} were saved, of another size than {width}x{height}")
        self._set_out(latents, [(self.jobs[0], "")] * len(latents))
        self._state.restore(within(saved, "state"))
        self._late, self._index = bool(saved["late"]), int(saved["index"])
        if "recent" in saved:
            self._leaders = Leaders(self._backend.tries, saved["recent"].to(latents.device))
        if len(latents) != len(self.jobs) * (self._backend.tries if self._leaders else 1):
            raise ValueError(f"{len(latents)} latents were saved, of another number of pictures than {len(self.jobs)}")

    def _set_out(self, latents: Tensor, streams: Sequence[tuple[Job, str]]) -> None:
        """Begin a part of the run; the names tell its random streams from other parts'."""
        recipe, denoiser, denoise = self._recipe, self._backend.denoiser, None
        if denoiser is not None:
            denoise = Annealing(denoiser, recipe.levels, [job.rng(f"{name}noise") for job, name in streams])
        rngs = [job.rng(f"{name}crops") for job, name in streams]
        self._state = State(latents, rngs, optimizer=_maker(recipe), denoise=denoise)

    def _race(self, run: Iterator[Steps], until: int) -> Iterator[Steps]:
        """What the leading try of each picture shows; from the update `until` on the leaders go on alone."""
        for steps in run:
            if self._leaders is None:
                yield steps
                continue
            shown = self._leaders.of(steps)
            if steps.index >= until:
                self._state.keep(self._leaders.rows())
                self._leaders = None
            yield shown

    def _descend(self, terms: losses.Losses, span: range) -> Iterator[Steps]:
        """The loop over a span of the steps, from the state at hand."""
        backend, recipe, total = self._backend, self._recipe, self.jobs[0].steps
        run = optimize(
            backend.generator,
            self._state,
            backend.guides,
            terms,
            cropper=backend.cropper,
            rate=cosine(recipe.rate, recipe.rate_end, total),
            steps=total,
            span=span,
            average=recipe.average,
            unit=recipe.unit,
            batch=recipe.batch,
        )
        while True:
            with at_least_threads(min(backend.threads, recipe.batch, len(self._state))):
                steps = next(run, None)
            if steps is None:
                return
            yield steps


@contextmanager
def at_least_threads(count: int) -> Iterator[None]:
    """Within it torch has `count` CPU threads, if it has less elsewhere."""
    usual = torch.get_num_threads()
    if count <= usual:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


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
    """The latent (1, C, h, w) from which the loop sets out, for a picture of `size` = (width, height).

    Raises:
        InputError: a size that is no multiple of the stride, or a start from a picture that is not there.
    """
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
