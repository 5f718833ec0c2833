"""The Python API: one call for a picture, one generator for those who want each step. Writes no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vqclip import images
from vqclip.backends.vqgan import VQGANBackend
from vqclip.job import InputError, Result, Step
from vqclip.run import Session


class Picture(Result):
    """A Result that can show and save itself."""

    @property
    def picture(self) -> Image.Image:
        """The result as a PIL picture (RGB, 8 bits a channel)."""
        return images.to_pil(self.image)

    def show(self) -> Image.Image:
        """Return the PIL picture: as the last value of a notebook cell it is displayed."""
        return self.picture

    def save(self, path: str | Path) -> Path:
        """Write the picture to `path`; the suffix chooses the format."""
        self.picture.save(path)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return images.to_png(self.image)


def generate(include: Any = None, exclude: Any = (), extras: Any = (), **settings: Any) -> Picture:
    """Make one picture and return it with its terms and the judge's verdict.

    Args:
        include: what the picture should show: a text, a mapping {text, weight, stop}, or a list of them.
        exclude: what it should not show, likewise. extras: style and mood, likewise.
        **settings: any key of a config file (steps, seed, size, crops={...}, guides=[...], ...).

    Raises:
        InputError: an unknown setting or a value that is not allowed. WeightsError: unusable weights.
    """
    session = Session.of({"include": include, "exclude": exclude, "extras": extras, **settings})
    result = session.studio.backend.generate(session.job, lambda _step: None)
    judge = session.judge()
    judged = replace(result, verdict=judge.judge(result.image) if judge else None)
    return Picture(**vars(judged))


def steps(include: Any = None, exclude: Any = (), extras: Any = (), **settings: Any) -> Iterator[Step]:
    """Yield every Step of one picture: the untouched start first, the result last. Arguments as `generate`.

    The models are loaded and the settings checked at the call; stopping early is `break`. Of the vqgan backend only:
    diffusion owns its own loop.
    """
    session = Session.of({"include": include, "exclude": exclude, "extras": extras, **settings})
    backend = session.studio.backend
    if not isinstance(backend, VQGANBackend):
        raise InputError("backend: steps are for vqgan; generate() makes pictures with every backend")
    return backend.steps(session.job)
