"""The Python API: one call for a picture, one generator for those who want each step.

Writes no files unless the settings ask for a run folder. On a machine that has other things to do set
OMP_WAIT_POLICY=PASSIVE (and KMP_BLOCKTIME=0 where torch was built with Intel's or LLVM's OpenMP) before torch is
imported, as the command line does for itself: threads that wait then sleep.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vqclip import images, viewer
from vqclip.backends.vqgan.backend import VQGANBackend
from vqclip.job import InputError, Result, Step
from vqclip.record.folder import slug, write_bytes
from vqclip.run.exact import stepwise
from vqclip.run.session import Session

QUALITY = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}  # Pillow's own, 75 and 80, show on flat colours


@dataclass(frozen=True)
class Picture(Result):
    """A Result that can show and save itself.

    `recipe` holds the texts that a PNG carries (keys "vqclip" and "parameters"), `folder` the run folder, None without.
    """

    recipe: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def picture(self) -> Image.Image:
        """The result as a PIL picture (RGB, 8 bits a channel)."""
        return images.to_pil(self.image)

    def show(self) -> Image.Image:
        """Show the picture, and return it (PIL, RGB).

        In a notebook the returned picture is displayed, as the last value of its cell. Elsewhere the system's viewer
        opens final.png of the run folder, or a temporary PNG with the recipe inside; where there is no display or no
        viewer, a line on stderr says where that file is.
        """
        if not viewer.in_notebook():
            path = self._file()
            if not viewer.show(path):
                sys.stderr.write(f"vqclip: no display here; the picture is {path}\n")
        return self.picture

    def save(self, path: str | Path) -> Path:
        """Write the picture to `path`, whole or not at all, and return where; the suffix chooses the format.

        A .png carries its recipe as final.png of a run does: `vqclip rerun` repeats it to the same pixels. Other
        formats (.jpg, .webp, what else Pillow writes) have no place that `rerun` reads and hold the picture alone.

        Raises:
            InputError: a suffix that stands for no format. ResourceError: the file cannot be written.
        """
        place = Path(path)
        form = Image.registered_extensions().get(place.suffix.lower(), "")
        if form == "PNG":
            data = images.to_png(self.image, self.recipe)
        else:
            buffer = io.BytesIO()
            try:
                self.picture.save(buffer, format=form or "none", **QUALITY.get(form, {}))
            except (KeyError, OSError, ValueError) as problem:
                wanted = "a suffix like .png, .jpg or .webp is needed"
                raise InputError(f"{place}: no picture can be written as {place.suffix!r}; {wanted}") from problem
            data = buffer.getvalue()
        write_bytes(place, data)
        return place

    def _file(self) -> Path:
        """A file of this picture: that of the run folder, else a new temporary one."""
        if self.folder is not None and (self.folder / "final.png").is_file():
            return self.folder / "final.png"
        handle, name = tempfile.mkstemp(prefix=f"vqclip-{slug(self.job.title)}-", suffix=".png")
        os.close(handle)
        return self.save(name)

    def _repr_png_(self) -> bytes:
        return images.to_png(self.image)


def generate(include: Any = None, exclude: Any = (), extras: Any = (), **settings: Any) -> Picture:
    """Make one picture and return it with its terms and the judge's verdict.

    With `name`, `outputs` or `video` among the settings it is a run as on the command line, and `result.folder` names
    its folder: final.png, film, run.json, metrics.jsonl, report.html. Without them no file is written.

    Args:
        include: what the picture should show: a text, a mapping {text, weight, stop}, or a list of them.
        exclude: what it should not show, likewise.
        extras: style and mood, likewise.
        **settings: any key of a config file (steps, seed, size, crops={...}, guides=[...], ...); dotted keys as on the
            command line: **{"crops.count": 4}. None leaves the default.

    Returns:
        The Picture; its `image` is (3, height, width) float32 in [0, 1] on the CPU.

    Raises:
        InputError: an unknown setting or a value that is not allowed. WeightsError: unusable weights.
        ResourceError: too little memory or disk. KeyboardInterrupt: stopped; a run folder keeps what was made so far.
    """
    session = Session.of({"include": include, "exclude": exclude, "extras": extras, **settings})
    return Picture(**vars(session.make()), recipe=session.recipe())


def steps(include: Any = None, exclude: Any = (), extras: Any = (), **settings: Any) -> Iterator[Step]:
    """Yield every Step of one picture: the untouched start first, the result last. Arguments as `generate`.

    The models are loaded and the settings checked at the call; stopping early is `break`. Each `step.image` is
    (3, height, width) float32 in [0, 1].

    Raises:
        InputError, WeightsError, ResourceError: as `generate`; InputError also for another backend than vqgan
            (diffusion owns its own loop), and for settings of a run folder, which only `generate` makes.
    """
    session = Session.of({"include": include, "exclude": exclude, "extras": extras, **settings}, files=False)
    backend = session.models.backend
    if not isinstance(backend, VQGANBackend):
        raise InputError("backend: steps are for vqgan; generate() makes pictures with every backend")
    session.check()
    return stepwise(backend.steps(session.job))
