"""For the tests of videos: small frames, films of them, and what is really inside a file."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from vqclip.record.pace import VideoPlan
from vqclip.record.video import VideoWriter

FPS = 10


def raw(every: int = 1, *, moving: int, held: int = 0) -> VideoPlan:
    """A plan that shows each step as it is, ten frames a second."""
    return VideoPlan(every, FPS, moving, held, smooth=0)


COLOURS = [(200, 30, 60), (20, 180, 90), (40, 60, 220), (250, 240, 20), (128, 128, 128), (0, 0, 0), (255, 255, 255)]


def frame(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 60)) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def movie(path: Path, frames: list[NDArray[np.uint8]], **options: Any) -> Path:
    size = (frames[0].shape[1], frames[0].shape[0])
    cover = options.pop("cover", None)
    writer = VideoWriter(path, size, FPS, options.pop("facts", {}), **options)
    for each in frames:
        writer.append(each)
    made = writer.close(cover)
    assert writer.problem is None
    assert made == path
    return path


def decode(path: Path) -> NDArray[np.int64]:
    with imageio.get_reader(path, format="FFMPEG") as reader:
        return np.stack([np.asarray(each, dtype=np.int64) for each in reader])


def ffmpeg(*arguments: str | Path) -> tuple[str, str]:
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *map(str, arguments)], capture_output=True, check=False
    )
    return done.stdout.decode(), done.stderr.decode()


def tag(path: Path, key: str) -> str:
    """One container tag, with the escapes of ffmetadata undone."""
    text = ffmpeg("-v", "error", "-i", path, "-f", "ffmetadata", "-")[0]
    line = next(line for line in text.split("\n") if line.startswith(f"{key}="))
    plain, escaped = "", False
    for letter in line.removeprefix(f"{key}="):
        escaped = letter == "\\" and not escaped
        plain += "" if escaped else letter
    return plain


def encoders(pid: int | str = "self") -> set[int]:
    """Process ids of the children of a process, those not yet waited for included."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for children in lists for child in children.read_text().split()}


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # ended; whoever adopted it has not noticed yet
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError("the encoder outlived its run")
