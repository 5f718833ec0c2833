"""The Kandinsky 2.2 backend: a Job becomes image embeddings, and those a picture, with diffusers' own pipelines.

Text-to-image, image-to-image and inpainting, one picture at a time. Does not find or read weight files
(kandinsky_files.py) and leaves the noise schedule to diffusers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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
from vqclip.backends.kandinsky.files import check_unet
from vqclip.backends.kandinsky.prior import Embeddings, Kandinsky, Memory, check_texts, embed, question, unsupported
from vqclip.backends.pieces import Pieces, multiple, nbytes
from vqclip.job import InputError, Job, Result, Step

STRIDE = 8  # pixels per latent cell of the real model
SCHEDULERS = ("ddpm", "ddim", "dpm++")  # the pipelines never scale their input (Euler) and pass a generator (PNDM)


class KandinskyBackend:
    """Draws what a job asks for with a prior and a decoder, each opened when first needed.

    Args:
        open_prior: gives a KandinskyV22PriorPipeline. open_decoder: gives any pipeline with Kandinsky's `unet`,
            `scheduler` and `movq`; for a mask its unet has 9 input channels, otherwise 4. Their modules are cast
            to `dtype` and moved to `device` in place.
        prior_name: names the prior's weights; needed to share `memory` between backends.
        memory: of embeddings, the backend's own where none is given.

    Raises:
        InputError: a scheduler that Kandinsky cannot use, offload without an accelerator.
    """

    def __init__(
        self,
        open_prior: Callable[[], Any],
        open_decoder: Callable[[], Any],
        *,
        settings: Kandinsky,
        denoising: Denoising,
        device: torch.device,
        dtype: torch.dtype,
        prior_name: str = "",
        memory: Memory | None = None,
    ) -> None:
        if denoising.scheduler not in SCHEDULERS:
            raise InputError(f"scheduler: {denoising.scheduler!r}; Kandinsky allows {', '.join(SCHEDULERS)}")
        if settings.offload and device.type == "cpu":
            raise InputError("offload: there is nothing to offload from on the CPU; it needs a GPU as the device")
        if memory is not None and not prior_name:
            raise ValueError("a shared memory needs prior_name: embeddings of two priors would be mixed up")
        self.settings, self.denoising, self.device, self.dtype = settings, denoising, device, dtype
        self._memory = Memory() if memory is None else memory
        self._prior_name = f"{prior_name}/{dtype}/{device.type}"
        auto = "keep" if device.type == "cpu" else "park"
        idle = auto if settings.idle == "auto" else settings.idle
        placement = _Placement(device, dtype, offload=settings.offload, idle=idle)
        self._prior = _Worker(open_prior, placement)
        self._decoder = _Worker(lambda: self._assemble(open_decoder()), placement)

    def check(self, job: Job) -> None:
        """Raise InputError for a job that cannot be drawn; opens the prior to measure the prompts."""
        updates(self.denoising)
        query = question(job, self.settings)
        if self.settings.too_long == "error" and query.key(self._prior_name) not in self._memory:
            check_texts(query.texts, self._prior.opened)
        self._canvas(job, STRIDE)

    def generate(self, job: Job, on_step: OnStep) -> Result:
        """Draw one picture; `on_step` sees every step and the result. Result.facts says how it was made."""
        clock = Clock(self.device)
        report = clock.outside(on_step)
        total = updates(self.denoising)
        query = question(job, self.settings)
        key = query.key(self._prior_name)
        pair = self._memory.recall(key)
        cached = pair is not None
        if pair is None:
            self._decoder.rest()
            with clock.paused():
                self._prior.open()
            pair = embed(self._prior.ready(), query, self.device)
            self._memory.keep(key, pair)
        self._prior.rest()
        with clock.paused():
            self._decoder.open()
        seed = job.rng("decoder").initial_seed()
        image, facts = self._decode(job, pair.to(self.device, self.dtype), report, total=total)
        report(Step(total, total, image, {}))
        record = {
            "prior": query.facts() | {"cached": cached},
            "decoder": {"seed": seed, "steps": self.denoising.steps, "updates": total} | facts,
            "ignored": unsupported(job),
        }
        return Result(job, image.cpu(), {}, total, clock.seconds, facts=record)

    def pieces(self, job: Job) -> Pieces:
        """What the decoder takes for the job, for a forecast; opens it."""
        pipe = self._decoder.opened
        unet, movq, stride, batch = pipe.unet, pipe.movq, _stride(pipe.movq), 1 + (self.denoising.guidance > 1)
        canvas = self._canvas(job, stride)
        new: dict[str, Any] = {"device": self.device, "dtype": self.dtype}

        def move() -> None:
            self._prior.rest()
            self._decoder.ready()

        def update(rows: int, columns: int) -> None:
            seen = {"image_embeds": torch.zeros(batch, unet.config.encoder_hid_dim, **new)}
            latent = torch.zeros(batch, unet.config.in_channels, rows, columns, **new)
            unet(latent, 500, encoder_hidden_states=None, added_cond_kwargs=seen)

        def decode(rows: int, columns: int) -> None:
            movq.decode(torch.zeros(1, movq.config.latent_channels, rows, columns, **new), force_not_quantize=True)

        there = self.device.type in ("cpu", unet.device.type)
        return Pieces(
            "the decoder", self.device, (canvas.size[1] // stride, canvas.size[0] // stride), stride, multiple(unet),
            batch, 0 if there else nbytes([unet, movq], self.dtype), move, update, decode,
        )  # fmt: skip

    @property
    def _mode(self) -> str:
        given = self.denoising
        return "text-to-image" if given.image is None else "image-to-image" if given.mask is None else "inpainting"

    def _assemble(self, parts: Any) -> Any:
        """The pipeline of this mode from the parts of any of them, with the scheduler that was asked for."""
        import diffusers
        from diffusers.image_processor import VaeImageProcessor

        kinds: dict[str, Any] = {
            "text-to-image": diffusers.KandinskyV22Pipeline,
            "image-to-image": diffusers.KandinskyV22Img2ImgPipeline,
            "inpainting": diffusers.KandinskyV22InpaintPipeline,
        }
        check_unet(parts.unet.config, "the decoder", inpaint=self._mode == "inpainting")
        scheduler = make_scheduler(self.denoising.scheduler, parts.scheduler)
        pipe = kinds[self._mode](unet=parts.unet, scheduler=scheduler, movq=parts.movq)
        if self._mode == "image-to-image":
            # Since diffusers 0.34 this pipeline hands width and height to its resizing in the wrong order. The
            # picture comes in its final size, so that nothing is resized, in either order.
            pipe.image_processor = VaeImageProcessor(
                do_resize=False, vae_scale_factor=_stride(parts.movq), vae_latent_channels=4
            )
        return pipe

    @torch.no_grad()
    def _decode(self, job: Job, pair: Embeddings, on_step: OnStep, *, total: int) -> tuple[Tensor, dict[str, Any]]:
        """The picture (3, H, W) float32 in [0, 1] that a pair of embeddings stands for, and how it was made."""
        pipe = self._decoder.ready()
        canvas = self._canvas(job, _stride(pipe.movq))

        def draw(latent: Tensor) -> Tensor:
            pixels = pipe.movq.decode(latent.to(self.dtype), force_not_quantize=True).sample
            return canvas.finish(pixels.float() * 0.5 + 0.5)

        with at_work(pipe), Watch(pipe.scheduler) as watch:
            latent = pipe(
                image_embeds=pair.positive,
                negative_image_embeds=pair.negative,
                width=canvas.size[0],
                height=canvas.size[1],
                num_inference_steps=self.denoising.steps,
                guidance_scale=self.denoising.guidance,
                generator=job.rng("decoder"),
                output_type="latent",
                callback_on_step_end=to_steps(watch, draw, on_step, total=total, start=canvas.start),
                **self._image_arguments(canvas),
            ).images
            image = draw(latent)
        finished(pipe, image, self.dtype)
        facts = {"mode": self._mode, "scheduler": self.denoising.scheduler, "guidance": self.denoising.guidance}
        strength = {"strength": self.denoising.strength} if self._mode == "image-to-image" else {}
        return image, facts | strength | {"size": list(job.size), "canvas": list(canvas.size)}

    def _canvas(self, job: Job, stride: int) -> Canvas:
        """The pipelines round latent sides up to multiples of the stride, thus pixels to those of its square."""
        return Canvas(job.size, stride * stride, stride, image=self.denoising.image, mask=self.denoising.mask)

    def _image_arguments(self, canvas: Canvas) -> dict[str, Any]:
        """The arguments that only some of the pipelines take; they write to the mask, which is the canvas's own."""
        if canvas.image is None:
            return {}
        if canvas.cells is None:
            return {"image": canvas.image, "strength": exact_strength(self.denoising)}
        return {"image": canvas.image * 2 - 1, "mask_image": canvas.cells}


def _stride(movq: Any) -> int:
    """Pixels per latent cell."""
    return int(2 ** (len(movq.config.block_out_channels) - 1))


@dataclass(frozen=True)
class _Placement:
    """Where a pipeline works, and what becomes of it while it waits: "keep", "park" or "drop"."""

    device: torch.device
    dtype: torch.dtype
    offload: bool
    idle: str


class _Worker:
    """A pipeline that is opened when first needed, works on the device and makes room when it rests.

    Other backends may have moved its networks in the meantime, since an opener may give the same ones to all.
    """

    def __init__(self, open_pipe: Callable[[], Any], placement: _Placement) -> None:
        self._open, self._placement = open_pipe, placement

    @cached_property
    def opened(self) -> Any:
        """The pipeline, wherever its networks are."""
        return self._open()

    def open(self) -> None:
        """Load it unless it is there, so that what comes next works and reads no files."""
        _ = self.opened

    def ready(self) -> Any:
        """The pipeline with its networks in one precision, on the device or offloaded from it."""
        pipe, placement = self.opened, self._placement
        with quiet():  # float16 on the CPU is warned of, at each step of the way
            if placement.offload:
                pipe.to(placement.dtype)
                pipe.enable_model_cpu_offload(device=placement.device)
            else:
                pipe.to(placement.device, placement.dtype)
        return pipe

    def rest(self) -> None:
        """Make room on the device, as far as wished."""
        if "opened" not in self.__dict__ or self._placement.idle == "keep":
            return
        with quiet():
            self.opened.remove_all_hooks()
            if self._placement.idle == "park":
                self.opened.to("cpu")
            else:
                del self.__dict__["opened"]
        gc.collect()
        if self._placement.device.type == "cuda":
            torch.cuda.empty_cache()
