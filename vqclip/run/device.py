"""Where a run works: its device, precision and threads, from what is asked for and what is here."""

from __future__ import annotations

import torch

from vqclip.config import Config
from vqclip.job import InputError
from vqclip.run.cores import physical


def most_threads(config: Config) -> int:
    """CPU threads that a run may use, whatever the environment says: as asked for, else one for each physical core."""
    return config.threads or physical()


def pick_threads(config: Config) -> int:
    """CPU threads that one picture is worth, `most_threads` at most.

    The models that ship are so small that threads wait for each other as long as they save, and where something else
    has one of the cores much longer: they get one, and several only for several latents side by side.
    """
    steering = (config.generator, *(guide.model for guide in config.guides), config.denoiser.model)
    parts = {
        "vqgan": steering,
        "kandinsky": (config.kandinsky.prior, config.kandinsky.decoder, config.kandinsky.inpaint or "starter"),
        "stable-diffusion": ("",),
    }
    named = [part for backend in {config.backend, config.start.backend or config.backend} for part in parts[backend]]
    small = all(part.split("/")[0] in ("starter", "auto", "none") for part in named)
    return 1 if small else most_threads(config)


def pick_device(wanted: str) -> torch.device:
    """The device of a config value: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: the device does not exist here; there is no silent fallback to the CPU.
    """
    if wanted == "auto":
        wanted = next(kind for kind in ("cuda", "mps", "cpu") if is_here(kind))
    kind = wanted.partition(":")[0]
    if kind in ("cuda", "mps") and not is_here(kind):
        raise InputError(f"device: {wanted!r} is not available here; allowed: auto, cpu")
    return torch.device(wanted)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 where "auto" finds hardware that computes it natively, else float32."""
    native = {
        "cpu": bool(torch.cpu.get_capabilities().get("avx512_bf16")) if device.type == "cpu" else False,
        "cuda": device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0),
    }
    half = wanted == "bf16" or (wanted == "auto" and native.get(device.type, False))
    return torch.bfloat16 if half else torch.float32


def is_here(kind: str) -> bool:
    """Whether this machine has a device of a kind: "cpu", "cuda" or "mps"."""
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(kind, False)
