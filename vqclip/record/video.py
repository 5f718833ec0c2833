"""Streams frames into an H.264 video while a run goes; the only file that talks to the video encoder.

Never stops a run: what goes wrong in the encoder is kept as one line in `problem`. Does not choose
which steps become frames: `pace` says it, the recorder asks.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from vqclip import images
from vqclip.job import InputError, ResourceError
from vqclip.record import ffmpeg
from vqclip.record.ffmpeg import EncoderError
from vqclip.record.pace import VideoPlan, plan

__all__ = ["EncoderError", "VideoPlan", "VideoWriter", "animate", "plan", "probe", "reencode"]

SHORT_SIDE: Final = 256  # px; players show smaller videos as a stamp


class VideoWriter:
    """Writes `path` (MP4, H.264, yuv420p, BT.709): fragmented in `<stem>.part.mp4` until `close`.

    `size` is (width, height) of the frames. Odd sizes gain a line by repeating the edge. A short side
    below 256 px is enlarged by a whole factor without smoothing: each pixel stays what the run made of
    it, and keeps a colour sample of its own. `facts` go into the container as JSON in `comment` (more than
    100 kB are left out and say so), `title` into `title`. `problem` is None or why there is no whole video.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], plan: VideoPlan, facts: Mapping[str, Any], *, title: str = ""
    ) -> None:
        self.path = path
        self.part = path.with_name(f"{path.stem}.part.mp4")  # imageio goes by the suffix
        self.frames = 0
        self._size, self._plan = size, plan
        factor = max(1, math.ceil(SHORT_SIDE / min(size)))
        self._pad = [(0, side * factor % 2) for side in reversed(size)]  # (rows, columns), bottom and right
        enlarge = f"scale=iw*{factor}:ih*{factor}:flags=neighbor,format=rgb24," if factor > 1 else ""
        self._output = [
            "-vf", enlarge + ffmpeg.BT709, *ffmpeg.H264, *ffmpeg.tags(facts, title), *ffmpeg.FRAGMENTED, "-f", "mp4",
        ]  # fmt: skip
        self._writer: Any = None  # imageio has no types
        self._last: NDArray[np.uint8] | None = None
        self._closed = False
        self.problem = probe()

    def append(self, frame: NDArray[np.uint8]) -> None:
        """Add one frame, (H, W, 3) uint8. Raises ValueError for another shape or dtype, nothing else."""
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.shape} {frame.dtype}; ({height}, {width}, 3) uint8 is needed")
        if self.problem is None and not self._closed:
            self._last = np.pad(frame, [*self._pad, (0, 0)], mode="edge")
            self._send(self._last)
            self.frames += self.problem is None

    def close(self) -> Path | None:
        """Hold the last frame, finish the file, and return its path; None when there is no video.

        Waits until the encoder has ended. After a failure the part that plays is kept as `path`. Further
        calls change nothing.
        """
        if self._closed:
            return self.path if self.frames and self.path.exists() else None
        held = round(self._plan.hold * self._plan.fps)
        for _ in range(held):
            if self.problem is None and self._last is not None:
                self._send(self._last)
        self._closed, self._last = True, None
        try:
            if self._writer is not None:
                self._writer.close()
        except (OSError, RuntimeError) as error:
            self._fail(error)
        if self.frames == 0:
            self.part.unlink(missing_ok=True)
            return None
        return self._publish(self.frames + held)

    def _send(self, frame: NDArray[np.uint8]) -> None:
        """Hand a padded frame to the encoder, which starts with the first one."""
        try:
            if self._writer is None:
                self._writer = imageio.get_writer(
                    self.part, format="FFMPEG", mode="I", fps=self._plan.fps, codec="libx264", quality=None,
                    pixelformat="yuv420p", macro_block_size=1, ffmpeg_log_level="quiet",
                    output_params=self._output,
                )  # fmt: skip
            self._writer.append_data(frame)
        except (OSError, RuntimeError, StopIteration) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Keep the first problem; imageio appends the whole command to its message, which is cut here."""
        reason = str(error).split("\n")[0] or type(error).__name__
        try:
            if shutil.disk_usage(self.part.parent).free < 1 << 20:
                reason = "the disk is full"
        except OSError:
            reason = "its folder is gone"
        self.problem = self.problem or f"video stopped after {self.frames} frames: {reason}"

    def _publish(self, expected: int) -> Path | None:
        """Make the fragments one seekable file, or keep them as they are when that fails."""
        whole = self.path.with_name(f".{self.path.name}.part")
        try:
            found = ffmpeg.remux(_exe(), self.part, whole)
            os.replace(whole, self.path)
            self.part.unlink(missing_ok=True)
            if found != expected:
                self.problem = self.problem or f"video holds {found} of {expected} frames"
        except (OSError, EncoderError) as error:
            self._fail(error)
            return self._keep_part(whole)
        return self.path

    def _keep_part(self, whole: Path) -> Path | None:
        """Publish the fragmented file itself: it plays, but seeks slowly."""
        try:
            whole.unlink(missing_ok=True)
            if self.part.stat().st_size:
                os.replace(self.part, self.path)
                return self.path
            self.part.unlink()
        except OSError as error:
            self._fail(error)
        return None


def animate(video: Path, output: Path) -> Path:
    """Turn a video into an endless `.gif` or `.webp`. Raises EncoderError; InputError for another suffix."""
    ffmpeg.animate(_exe(), video, output)
    return output


def reencode(
    folder: Path, *, fps: float | None, seconds: float | None, hold: float, format: str, output: Path | None = None
) -> Path:
    """Make an animation (mp4, gif or webp) again from the frames kept in `folder`/progress, in their order.

    Without `seconds` every kept frame is shown, else as many as fit. Without `output` it lies in the folder as
    progress.<format>. Raises InputError when there are no frames, they differ in size, or `format` is
    unknown, ResourceError when the encoder fails; an older file stays then.
    """
    if format not in ("mp4", "gif", "webp"):
        raise InputError(f"format: {format!r}; mp4, gif or webp are allowed")
    kept = [path for path in (folder / "progress").glob("*.png") if path.stem.isascii() and path.stem.isdigit()]
    if not kept:
        raise InputError(f"{folder}: no kept frames in progress/; the run needs video.keep: true")
    kept.sort(key=lambda path: int(path.stem))
    output = folder / f"progress.{format}" if output is None else output
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder does not exist")
    pace = plan(len(kept) - 1, seconds=seconds, fps=fps, every=1 if seconds is None else None, hold=hold)
    frames = _read(kept, pace)
    first = next(frames)
    writer = VideoWriter(
        output.with_name(f".{output.name}.{os.getpid()}.mp4"), (first.shape[1], first.shape[0]), pace, {}
    )
    try:
        writer.append(first)
        for frame in frames:
            writer.append(frame)
        film = writer.close()
        if film is None or writer.problem:
            raise ResourceError(f"{output}: {writer.problem or 'no video'}")
        return _deliver(film, output, format)
    finally:
        writer.close()
        writer.path.unlink(missing_ok=True)


def _read(kept: list[Path], pace: VideoPlan) -> Iterator[NDArray[np.uint8]]:
    """The frames (H, W, 3) that the plan wants, checked to be of one size."""
    size = None
    for index, path in enumerate(kept):
        if pace.wants(index, len(kept) - 1):
            picture = images.read(path)
            size = size or picture.size
            if picture.size != size:
                raise InputError(f"{path}: {picture.size} pixels among frames of {size}")
            yield np.array(picture)


def _deliver(film: Path, output: Path, form: str) -> Path:
    try:
        if form == "mp4":
            os.replace(film, output)
            return output
        made = animate(film, film.with_suffix(f".{form}"))
        os.replace(made, output)
    except (OSError, EncoderError) as error:
        raise ResourceError(f"{output}: {error}") from error
    return output


def probe() -> str | None:
    """None when the encoder works here, else one line why not; asked once for each binary."""
    try:
        return _probe(_exe())
    except RuntimeError as error:
        return f"no video: {str(error).splitlines()[0]}"


@functools.cache
def _probe(exe: str) -> str | None:
    try:
        ffmpeg.check(exe)
    except EncoderError as error:
        return f"no video: {error}"
    return None


def _exe() -> str:
    """Path of the binary: IMAGEIO_FFMPEG_EXE, the packaged one, or the system's. Raises RuntimeError."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())
