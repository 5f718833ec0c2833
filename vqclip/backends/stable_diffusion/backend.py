"""The Stable Diffusion 1.5 backend: a Job becomes a prompt, and that a picture, with diffusers' own pipelines.

Text-to-image and image-to-image, one picture at a time. Does not find or read weight files
(stable_diffusion_files.py), repaints no parts, and has no safety checker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vqclip.backends import OnStep
from vqclip.backends.canvas import Canvas
from vqclip.backends.clock import Clock
from vqclip.backends.diffusion import (
    Denoising,
    Watch,
    at_work,
    exact_strength,
    finished,
    make_scheduler,
    quiet,
    to_steps,
    updates,
)
from vqclip.backends.pieces import Pieces, multiple, nbytes
from vqclip.backends.stable_diffusion.files import Models
from vqclip.job import InputError, Job, Prompt, Result, Step

DEFAULTS = Denoising(steps=50, guidance=7.5, scheduler="ddpm", strength=0.8)
# Ancestral sampling as in Ho et al. 2020, at time steps 980, 960, .. 0 for 50 steps. The pipelines' constructors
# would set steps_offset to 1, which is why schedulers are assigned afterwards.
_DDPM = {"steps_offset": 0, "clip_sample": False, "timestep_spacing": "leading"}

Parts = tuple[tuple[str, float], ...]  # texts with their shares, which sum to 1


class StableDiffusionBackend:
    """Draws what a job asks for with the networks of Stable Diffusion 1.5.

    Include and extra prompts of one weight are joined by ", " into one text, which the text encoder reads as
    a whole; so are exclude prompts, into the negative prompt. Weights are relative, and 0 drops a prompt. A text
    cannot say different weights w_i: each prompt is encoded alone then, and the unet attends to the weighted
    mean of their token states, sum_i w_i E(text_i) / sum_i w_i, of shape (1, 77, 768).

    Args:
        models: what `stable_diffusion_files.open` gave; moved to `device` in place, where it then stays.
        denoising: any scheduler; without a mask.
        offload: keep each network on the GPU only while it works.
        too_long: "error" refuses a prompt of more than 75 tokens, "truncate" cuts it off.

    Raises:
        InputError: a mask, less than one update, another value of `too_long`, offload without a GPU.
    """

    def __init__(
        self,
        models: Models,
        *,
        device: torch.device,
        denoising: Denoising = DEFAULTS,
        offload: bool = False,
        too_long: str = "error",
    ) -> None:
        if denoising.mask is not None:
            raise InputError("mask: Stable Diffusion 1.5 draws whole pictures here; the Kandinsky backend takes a mask")
        if too_long not in ("error", "truncate"):
            raise InputError(f"too_long: {too_long!r}; allowed: error, truncate")
        if offload and device.type == "cpu":
            raise InputError("offload: there is nothing to offload from on the CPU; it needs a GPU as the device")
        updates(denoising)
        self.models, self.denoising, self.device, self._too_long = models, denoising, device, too_long
        self._offload = offload
        self._pipe = models.pipeline(from_picture=denoising.image is not None)
        self._pipe.scheduler = _scheduler(denoising.scheduler, self._pipe.scheduler)
        with quiet():
            if offload:
                self._pipe.enable_model_cpu_offload(device=device)
            else:
                self._pipe.to(device)

    def check(self, job: Job) -> None:
        """Raise InputError for prompts that cannot be read or have no effect, before any work is done."""
        include, exclude = _wordings(job)
        if exclude and self.denoising.guidance <= 1:
            raise InputError(f"guidance: {self.denoising.guidance}; exclude prompts have an effect above 1 alone")
        if self._too_long == "error":
            for text, _ in (*include, *exclude):
                self._check_length(text)

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Draw one picture; `on_step` sees every step and the result. Result.facts says how it was made."""
        clock = Clock(self.device)
        report = clock.outside(on_step)
        self.check(job)
        given, total = self.denoising, updates(self.denoising)
        canvas = Canvas(job.size, self._pipe.vae_scale_factor, self._pipe.vae_scale_factor, image=given.image)
        image = self._draw(job, canvas, report, total=total)
        report(Step(total, total, image, {}))
        include, exclude = _wordings(job)
        facts = {
            "mode": "text-to-image" if given.image is None else "image-to-image",
            "model": self.models.name, "weights": dict(self.models.hashes),
            "prompt": [list(part) for part in include], "negative": [list(part) for part in exclude],
            "seed": job.rng("noise").initial_seed(), "scheduler": given.scheduler, "guidance": given.guidance,
            "steps": given.steps, "updates": total, "size": list(job.size), "canvas": list(canvas.size),
            "precision": str(self._pipe.dtype).removeprefix("torch."), "ignored": _unsupported(job),
        }  # fmt: skip
        strength = {} if given.image is None else {"strength": given.strength}
        return Result(job, image.cpu(), {}, total, clock.seconds, facts=facts | strength)

    def pieces(self, job: Job) -> Pieces:
        """What drawing the job takes, for a forecast."""
        pipe = self._pipe
        unet, stride, batch = pipe.unet, pipe.vae_scale_factor, 1 + (self.denoising.guidance > 1)
        canvas = Canvas(job.size, stride, stride, image=self.denoising.image)
        tokens, wide = pipe.tokenizer.model_max_length, unet.config.cross_attention_dim
        new: dict[str, Any] = {"device": self.device, "dtype": unet.dtype}

        def update(rows: int, columns: int) -> None:
            latent = torch.zeros(batch, unet.config.in_channels, rows, columns, **new)
            unet(latent, 500, encoder_hidden_states=torch.zeros(batch, tokens, wide, **new))

        def decode(rows: int, columns: int) -> None:
            pipe.vae.decode(torch.zeros(1, pipe.vae.config.latent_channels, rows, columns, **new))

        return Pieces(
            self.models.name, self.device, (canvas.size[1] // stride, canvas.size[0] // stride), stride,
            multiple(unet), batch, nbytes([unet], unet.dtype) if self._offload else 0, lambda: None, update, decode,
        )  # fmt: skip

    @torch.no_grad()
    def _draw(self, job: Job, canvas: Canvas, on_step: OnStep, *, total: int) -> Tensor:
        """The picture (3, H, W) float32 in [0, 1] in the size of the job."""
        pipe = self._pipe

        def decode(latent: Tensor) -> Tensor:
            pixels = pipe.vae.decode(latent.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
            return canvas.finish(pixels.float() * 0.5 + 0.5)

        with at_work(pipe), Watch(pipe.scheduler) as watch:
            latent = pipe(
                **self._words(job),
                **self._frame(canvas),
                num_inference_steps=self.denoising.steps,
                guidance_scale=self.denoising.guidance,
                generator=job.rng("noise"),
                output_type="latent",
                callback_on_step_end=to_steps(watch, decode, on_step, total=total, start=canvas.start),
            ).images
            image = decode(latent)
        finished(pipe, image, pipe.dtype)
        return image

    def _words(self, job: Job) -> dict[str, Any]:
        """The pipeline's arguments for the prompts: plain texts where they can say it all, else token states."""
        arguments: dict[str, Any] = {}
        for name, parts in zip(("prompt", "negative_prompt"), _wordings(job), strict=True):
            if len(parts) == 1:
                arguments[name] = parts[0][0]
            elif parts:
                arguments[f"{name}_embeds"] = self._mean(parts)
        return arguments

    def _mean(self, parts: Parts) -> Tensor:
        """The weighted mean of the token states of several texts, (1, 77, E) on the device."""
        plain: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        encode = self._pipe.encode_prompt
        states = [share * encode(text, self.device, **plain)[0].float() for text, share in parts]
        return torch.stack(states).sum(0).to(self._pipe.text_encoder.dtype)

    def _frame(self, canvas: Canvas) -> dict[str, Any]:
        """The arguments for the size, or for the start picture, which brings its own."""
        if canvas.image is None:
            return {"width": canvas.size[0], "height": canvas.size[1]}
        return {"image": canvas.image, "strength": exact_strength(self.denoising)}

    def _check_length(self, text: str) -> None:
        tokenizer = self._pipe.tokenizer
        with quiet():
            count = len(tokenizer(text).input_ids)
        if count > tokenizer.model_max_length:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise InputError(
                f"prompt {shown!r} has {count - 2} tokens; Stable Diffusion reads {tokenizer.model_max_length - 2}: "
                'shorten it, or truncate it with too_long "truncate"'
            )


def _scheduler(name: str, like: Any) -> Any:
    """The sampler of that name along the noise schedule of `like`."""
    made = make_scheduler(name, like)
    with quiet():
        return type(made).from_config(made.config, **_DDPM) if name == "ddpm" else made


def _wordings(job: Job) -> tuple[Parts, Parts]:
    """What the picture shows, and what it must not.

    Raises:
        InputError: every include prompt and every extra has weight 0.
    """
    include, exclude = _wording((*job.include, *job.extras)), _wording(job.exclude)
    if not include:
        raise InputError("every prompt has weight 0; at least one include prompt needs a weight above 0")
    return include, exclude


def _wording(prompts: Iterable[Prompt]) -> Parts:
    """One joined text where all weights are the same, else every text with its share; weight 0 drops out."""
    kept = [prompt for prompt in prompts if prompt.weight > 0]
    if len({prompt.weight for prompt in kept}) == 1:
        return ((", ".join(prompt.text for prompt in kept), 1.0),)
    total = sum(prompt.weight for prompt in kept)
    return tuple((prompt.text, prompt.weight / total) for prompt in kept)


def _unsupported(job: Job) -> list[str]:
    """What the prompts ask for that nothing here can do, one line each."""
    prompts = (*job.include, *job.exclude, *job.extras)
    return [f"stop {p.stop:g} of {p.text!r}: nothing stops early" for p in prompts if p.stop is not None]
