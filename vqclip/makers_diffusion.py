"""From a config to the Kandinsky and Stable Diffusion backends, their networks opened once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqclip import images
from vqclip.backends import kandinsky_files, kandinsky_starter, stable_diffusion_files
from vqclip.backends.diffusion import Denoising
from vqclip.backends.kandinsky import KandinskyBackend
from vqclip.backends.kandinsky_prior import Kandinsky, Memory
from vqclip.backends.stable_diffusion import StableDiffusionBackend
from vqclip.config import Config
from vqclip.job import InputError
from vqclip.models.likeness import sketch_files
from vqclip.place import Made, Place
from vqclip.preflight import check_files
from vqclip.starter.reading import Read

SIDE = 512  # px: a picture to blend in is cut to this square; image encoders see at most 378


def make_kandinsky(config: Config, place: Place, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Finds prior and decoder; what it returns makes the backend for a start picture, or for none."""
    check_files(also, place.device)
    section = config.kandinsky
    if section.mask is not None and section.inpaint is None:
        raise InputError("kandinsky.inpaint: a mask needs the inpainting decoder; give its folder or hub name")
    sources = {"prior": section.prior, "decoder": section.decoder} if section.mask is None else {
        "prior": section.prior, "inpaint": str(section.inpaint)
    }  # fmt: skip
    opened = {part: _open_part(source, part, place) for part, source in sources.items()}
    (open_prior, prior_name, prior_hashes, read, eyes), (open_decoder, name, hashes, *_) = opened.values()
    settings = Kandinsky(
        prior_steps=section.prior_steps,
        prior_guidance=section.prior_guidance,
        prior_seed=section.prior_seed,
        extras=config.losses.extras,
        images=tuple((picture(each.image, (SIDE, SIDE)), each.weight) for each in config.images),
        offload=section.offload,
        too_long=config.too_long,
    )
    memory = Memory()

    def finish(image: Tensor | None) -> Made:
        denoising = _denoising(config, section, image)
        backend = KandinskyBackend(
            open_prior,
            open_decoder,
            settings=settings,
            denoising=denoising,
            device=place.device,
            dtype=place.dtype,
            prior_name=prior_name,
            memory=memory,
        )
        return Made(backend, prior_hashes | hashes, (prior_name, name), (read,) if read else (), eyes)

    return finish


def _open_part(
    source: str, part: str, place: Place
) -> tuple[Callable[[], Any], str, dict[str, str], Read | None, dict[str, str]]:
    """How to open the prior or the decoder (kept once opened), its name, SHA-256 and reader of starter files, eyes."""
    if source == "starter":
        starter = kandinsky_starter.find_prior() if part == "prior" else kandinsky_starter.find_decoder()
        known = starter.name, dict(starter.hashes), starter.read, dict(starter.eyes)
        return cache(lambda: starter.open(dtype=place.dtype)), *known
    found = kandinsky_files.find(source, part, place.note)  # type: ignore[arg-type]  # one of its three parts
    check_files(kandinsky_files.weight_files(found), place.device, share=place.dtype.itemsize / 4)
    opener = kandinsky_files.open_prior if part == "prior" else kandinsky_files.open_decoder
    eyes = {"image encoder": sketch_files(found.folder / f"{found.prefix}image_encoder")} if part == "prior" else {}
    return cache(lambda: opener(found, dtype=place.dtype)), found.name, {}, None, eyes


def make_stable_diffusion(config: Config, place: Place, also: list[Path]) -> Callable[[Tensor | None], Made]:
    """Loads the networks; what it returns makes the backend for a start picture, or for none."""
    section = config.stable_diffusion
    if section.model is None:
        raise InputError("stable_diffusion.model: a .safetensors or .ckpt file of Stable Diffusion 1.5 is needed")
    if config.images:
        raise InputError("images: Stable Diffusion 1.5 takes words only; kandinsky and vqgan take pictures too")
    source = Path(section.model).expanduser()
    check_files([*([source] if source.is_file() else []), *also], place.device)
    models = stable_diffusion_files.open(source, dtype=place.dtype)

    def finish(image: Tensor | None) -> Made:
        denoising = _denoising(config, section, image)
        backend = StableDiffusionBackend(
            models,
            device=place.device,
            denoising=denoising,
            offload=section.offload,
            too_long=config.too_long,
        )
        return Made(backend, models.hashes, (models.name,))

    return finish


def picture(path: str, size: tuple[int, int]) -> Tensor:
    """A picture file as (1, 3, H, W) in [0, 1], filling `size` = (width, height)."""
    return images.from_pil(images.fit(images.read(Path(path)), size))


def _denoising(config: Config, section: Any, image: Tensor | None) -> Denoising:
    """What both backends have. A chain's start picture is grey until another backend has made it."""
    if image is None and config.start.kind == "backend":
        image = torch.full((1, 3, config.size[1], config.size[0]), 0.5)
    if config.start.image:
        image = picture(config.start.image, config.size)
    mask = getattr(section, "mask", None)
    return Denoising(
        steps=section.steps,
        guidance=section.guidance,
        scheduler=section.scheduler,
        strength=section.strength,
        image=image,
        mask=picture(mask, config.size)[:, :1] if mask else None,
    )

