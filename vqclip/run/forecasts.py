"""What every picture will take before it is begun, whatever draws it. Knows the backends and no config."""

from __future__ import annotations

from collections.abc import Hashable

from vqclip.backends import Backend
from vqclip.backends.chain import Chain
from vqclip.backends.kandinsky.backend import KandinskyBackend
from vqclip.backends.stable_diffusion.backend import StableDiffusionBackend
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.job import Job
from vqclip.run.assemble import Models
from vqclip.run.preflight import Forecast, preflight
from vqclip.run.preflight_denoising import preflight_denoising


def forecasts(models: Models, job: Job, *, pictures: int = 1, timed: bool = True) -> list[Forecast]:
    """One forecast, or of a chain one for each of its two backends.

    What the same models need for the same work is measured once in a process; the room for it is looked up each time.

    Args:
        models: opened for the run.
        job: the picture, or the largest of several.
        pictures: how many of them are drawn side by side, where the backend can.
        timed: whether the time is wanted too, which takes longer to measure than the memory.

    Raises:
        ResourceError: it cannot fit; the message names what to lower.
    """
    facts = models.facts
    shared = tuple(facts[name] for name in ("device", "precision", "threads"))
    key = (tuple(facts["models"]), tuple(sorted(facts["weights"].items())), *shared)
    stages = models.backend.stages(job) if isinstance(models.backend, Chain) else [(models.backend, job)]
    found = [_forecast(backend, each, key, pictures=pictures, timed=timed) for backend, each in stages]
    return [each for each in found if each is not None]


def _forecast(backend: Backend, job: Job, key: Hashable, *, pictures: int, timed: bool) -> Forecast | None:
    if isinstance(backend, VQGANBackend):
        return preflight(
            backend.generator, backend.guides, backend.recipe.crops, size=job.size, steps=job.steps,
            parts=backend.parts(job.size, job.steps), batches=backend.batches(job.size, job.steps, pictures),
            pictures=pictures,
            denoiser=backend.denoiser, key=key, timed=timed,
        )  # fmt: skip
    if isinstance(backend, KandinskyBackend | StableDiffusionBackend):
        return preflight_denoising(backend.pieces(job), steps=job.steps, key=(key, type(backend)), timed=timed)
    return None
