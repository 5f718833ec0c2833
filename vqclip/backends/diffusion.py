"""What the diffusion backends share: settings, schedulers and the view on a running denoiser.

Does not load weights, read prompts or know which pipeline is running; pictures and their sizes are
canvas.py's part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from vqclip.backends import OnStep
from vqclip.backends.canvas import check_pixels
from vqclip.job import InputError, Step

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}

TRAINED_STEPS = 1000  # of the noise schedule that these models learned; none can be used twice

OnStepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]  # of diffusers; must return the dictionary


@dataclass(frozen=True)
class Denoising:
    """The settings of a latent diffusion run.

    steps: of the schedule, 1 to 1000. guidance: classifier-free guidance scale, >= 0; 1 and less switch it off.
    scheduler: a name in `SCHEDULERS`, of which a backend may allow fewer.
    strength: in (0, 1], share of the schedule that an image-to-image run goes through; unused elsewhere.
    image: (1, 3, H, W) float in [0, 1], the start picture; None for text-to-image.
    mask: (1, 1, H, W) float in [0, 1] beside `image`: what is > 0.5 (white) is repainted.

    Raises InputError for values outside of these.
    """

    steps: int = 50
    guidance: float = 4.0
    scheduler: str = "ddpm"
    strength: float = 0.75
    image: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= TRAINED_STEPS:
            raise InputError(f"steps: {self.steps}; 1 to {TRAINED_STEPS} are possible")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise InputError(f"guidance: {self.guidance}; a finite number >= 0 is needed")
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"scheduler: {self.scheduler!r}; allowed: {', '.join(SCHEDULERS)}")
        if not 0 < self.strength <= 1:
            raise InputError(f"strength: {self.strength}; a number > 0 and <= 1 is needed")
        if self.image is not None:
            check_pixels(self.image, "image", 3)
        if self.mask is not None:
            if self.image is None:
                raise InputError("mask: there is no start picture to repaint; give an image too")
            check_pixels(self.mask, "mask", 1)
            if self.mask.shape[-2:] != self.image.shape[-2:]:
                sides = " and ".join("x".join(map(str, t.shape[:1:-1])) for t in (self.mask, self.image))
                raise InputError(f"mask and image are {sides} pixels; one size is needed")
            if not bool((self.mask > 0.5).any()):
                raise InputError("mask: nothing in it is white (> 0.5), so nothing would be repainted")


def shortened(steps: int, strength: float) -> int:
    """Updates of an image-to-image run; the small addition keeps 100 * 0.29 at 29, where binary fractions give 28."""
    return int(steps * strength + 1e-9)


def updates(denoising: Denoising) -> int:
    """How many updates of the latent really run: all steps, or `strength` of them from a start picture.

    Raises InputError when less than one update is left.
    """
    if denoising.image is None or denoising.mask is not None:
        return denoising.steps
    count = shortened(denoising.steps, denoising.strength)
    if count < 1:
        given = f"strength {denoising.strength} of {denoising.steps} steps"
        raise InputError(f"{given} is less than one update; strength * steps must be at least 1")
    return count


def exact_strength(denoising: Denoising) -> float:
    """A strength with which a pipeline's own int(steps * strength) gives `updates(denoising)`; InputError as there."""
    return min(1.0, (updates(denoising) + 0.5) / denoising.steps)


def make_scheduler(name: str, like: Any) -> Any:
    """A scheduler of kind `name` (see `SCHEDULERS`) with the noise schedule of the scheduler `like`.

    PNDM goes without its Runge-Kutta start, as latent diffusion uses it: that asks the network 12 times for 3 steps.

    Raises:
        InputError: another name.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"scheduler: {name!r}; allowed: {', '.join(SCHEDULERS)}")
    changes = {"skip_prk_steps": True} if name == "pndm" else {}
    with quiet():
        return getattr(diffusers, SCHEDULERS[name]).from_config(like.config, **changes)


class Watch:
    """Looks over a scheduler's shoulder while it is entered; what the scheduler returns stays the same.

    `pred` is the clean latent (B, C, h, w) that the newest step predicted, in the latents' dtype: the one
    that the scheduler reports, else computed from what the network said and alpha_bar at that time step
    (eq. 15 of "Denoising Diffusion Probabilistic Models", Ho et al. 2020). None before the first step.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._newest: Callable[[], Tensor] | None = None

    @property
    def pred(self) -> Tensor | None:
        """The newest prediction (B, C, h, w); computed when asked for, since most steps are not shown."""
        return None if self._newest is None else self._newest()

    def __enter__(self) -> Self:
        inner = self._scheduler.step

        @functools.wraps(inner)  # pipelines look at its signature to see what it takes
        def step(
            model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **more: Any
        ) -> Any:
            out = inner(model_output, timestep, sample, *args, return_dict=True, **more)
            reported = getattr(out, "pred_original_sample", None)
            if reported is None:
                self._newest = functools.partial(clean, self._scheduler, model_output, timestep, sample=sample)
            else:
                self._newest = lambda: reported
            return out if return_dict else out.to_tuple()

        self._scheduler.step = step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._scheduler.step  # the method of the class shows again


def clean(scheduler: Any, model_output: Tensor, timestep: Any, *, sample: Tensor) -> Tensor:
    """The clean latent that a network's answer at `timestep` means, for variance preserving schedules.

    Answer, `sample` (the noised latent) and result are (B, C, h, w) of one dtype. Noise is taken off as in eq. 15 of
    "Denoising Diffusion Probabilistic Models" (Ho et al. 2020), velocity as in section 4 of
    "Progressive Distillation" (Salimans and Ho 2022).

    Raises:
        InputError: the schedule predicts neither noise, velocity nor the sample.
    """
    share: Tensor = scheduler.alphas_cumprod[int(timestep)].to(sample)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (sample - (1 - share).sqrt() * model_output) / share.sqrt()
        case "v_prediction":
            return share.sqrt() * sample - (1 - share).sqrt() * model_output
        case "sample":
            return model_output
    raise InputError(f"scheduler: prediction type {scheduler.config.prediction_type!r} is not known here")


class Guess(Step):
    """A step whose picture is decoded when somebody first looks: a run without a film looks at the last one alone.

    `decode` gives `image`, (3, H, W) float32 in [0, 1]; it is called once, without gradients.
    """

    def __init__(self, index: int, total: int, decode: Callable[[], Tensor]) -> None:
        vars(self).update(index=index, total=total, terms={}, decode=decode)

    decode: Callable[[], Tensor]

    @functools.cached_property
    def image(self) -> Tensor:
        """(3, H, W) float32 in [0, 1], as the network sees the picture so far."""
        with torch.no_grad():
            return self.decode().detach()


def to_steps(
    watch: Watch,
    decode: Callable[[Tensor], Tensor],
    on_step: OnStep,
    *,
    total: int,
    start: Tensor | None = None,
) -> OnStepEnd:
    """A `callback_on_step_end` that reports Steps 0 .. `total` - 1; the caller reports the result as the last.

    Step k shows the clean picture that the network sees in the latent after k updates, step 0 the one it
    sees in pure noise, or `start` (1, 3, H, W) where a picture was given. `decode` turns a latent into
    (3, H, W) float32 in [0, 1] of the size of the result; it is asked only for steps whose `image` is looked at, for
    one decode costs about as much as one update, and far more where the unet leaves the accelerator for it. What
    `on_step` raises passes through the pipeline.
    """

    def on_step_end(pipe: Any, call: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        index = call - (pipe.num_timesteps - total)  # PNDM asks the network once more than it has steps
        if 0 <= index < total:
            seen = watch.pred
            assert seen is not None
            if index == 0 and start is not None:
                on_step(Step(0, total, start[0].detach().float(), {}))
            else:
                on_step(Guess(index, total, functools.partial(decode, seen)))
        return tensors

    return on_step_end


@contextmanager
def at_work(pipe: Any) -> Iterator[None]:
    """Run a pipeline without bars and log lines; when it is broken off, its offloaded models leave the GPU."""
    pipe.set_progress_bar_config(disable=True)
    with quiet():
        try:
            yield
        except BaseException:
            pipe.maybe_free_model_hooks()  # a pipeline does so itself at its end; without offload it does nothing
            raise


def finished(pipe: Any, image: Tensor, dtype: torch.dtype) -> None:
    """The end of a pipeline's work: offloaded models leave the GPU, and a picture (3, H, W) has numbers alone.

    Raises:
        InputError: it has others, which half precision can give.
    """
    pipe.maybe_free_model_hooks()
    if not bool(torch.isfinite(image).all()):  # device sync
        raise InputError(f"the picture has values that are no numbers in {dtype}; precision fp32 may help")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log lines and loading bars of diffusers and transformers back inside the block only."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    rooms = (of_diffusers, of_transformers)
    before = [(room.get_verbosity(), room.is_progress_bar_enabled()) for room in rooms]
    try:
        for room in rooms:
            room.set_verbosity_error()
            room.disable_progress_bar()
        yield
    finally:
        for room, (level, bars) in zip(rooms, before, strict=True):
            room.set_verbosity(level)
            if bars:
                room.enable_progress_bar()
