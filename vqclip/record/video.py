"""Streams frames into an H.264 video while a run goes; the only file that talks to the video encoder.

Never stops a run: what goes wrong in the encoder is kept as one line in `problem`. Does not choose
frames: `pace` and `film` do.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqclip.record import containers, ffmpeg
from vqclip.record.ffmpeg import EncoderError
from vqclip.record.stream import Stream

__all__ = ["EncoderError", "VideoWriter", "animate", "encoder", "probe", "workroom"]

COVER_SIDE: Final = 1024  # px; a larger picture is reduced for the cover


class VideoWriter:
    """Writes `path` (MP4, H.264, yuv420p, BT.709): fragmented in `<stem>.part.mp4` until `close`.

    `size` is (width, height) of the frames, which `scale` enlarges by a whole factor without smoothing. Odd sizes
    gain a line by repeating the edge. `facts` go into the container as JSON in `comment` (more than 100 kB are
    left out and say so), `title` into `title`. `problem` is None or why there is no whole video, `full` whether that
    is a full disk. An encoder that is stopped is waited for `stream.PATIENCE` seconds, no longer.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        fps: float,
        facts: Mapping[str, Any],
        *,
        title: str = "",
        scale: int = 1,
    ) -> None:
        self.path = path
        self.part = path.with_name(f"{path.stem}.part.mp4")
        self.frames = 0
        self._size, self._fps = size, fps
        self._pad = [(0, side * scale % 2) for side in reversed(size)]  # (rows, columns), bottom and right
        enlarge = f"scale=iw*{scale}:ih*{scale}:flags=neighbor,format=rgb24," if scale > 1 else ""
        self._output = [
            "-vf", enlarge + ffmpeg.BT709, *ffmpeg.H264, *ffmpeg.tags(facts, title), *ffmpeg.FRAGMENTED, "-f", "mp4",
        ]  # fmt: skip
        self._writer: Stream | None = None
        self._closed = self.full = False
        self.problem = probe()

    def append(self, frame: NDArray[np.uint8]) -> None:
        """Add one frame, (H, W, 3) uint8. Raises ValueError for another shape or dtype, nothing else."""
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame is {frame.shape} {frame.dtype}; ({height}, {width}, 3) uint8 is needed")
        if self.problem is not None or self._closed:
            return
        try:
            if self._writer is None:
                self._writer = self._begin()
            self._writer.send(np.ascontiguousarray(np.pad(frame, [*self._pad, (0, 0)], mode="edge")).data.cast("B"))
        except (OSError, RuntimeError) as error:
            self._fail(error)
        self.frames += self.problem is None

    def close(self, cover: Image.Image | None = None, *, seekable: bool = True) -> Path | None:
        """Finish the file and return its path; None when there is no video.

        `cover` is what file managers show for it. Waits until the encoder has ended. After a failure the part
        that plays is kept as `path`, as it is without `seekable`, which takes no room on the disk. Further calls
        change nothing.
        """
        if self._closed:
            return self.path if self.frames and self.path.exists() else None
        self._closed = True
        try:
            if self._writer is not None:
                self._writer.close()
        except (OSError, RuntimeError) as error:
            self._fail(error)
        if self.frames == 0:
            if self._writer is not None:
                self.part.unlink(missing_ok=True)
            return None
        return self._publish(cover) if seekable else self._keep_part()

    def abandon(self) -> None:
        """End the encoder at once and throw away what it made."""
        self._closed, self.frames = True, 0
        if self._writer is not None:
            self._writer.kill()
            self.part.unlink(missing_ok=True)

    def _begin(self) -> Stream:
        """Start the encoder on a file that is new: it would write through a link that somebody put there."""
        os.close(os.open(self.part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        width, height = (side + pad for side, (_, pad) in zip(self._size, reversed(self._pad), strict=True))
        rate = str(Fraction(self._fps).limit_denominator())
        return Stream([
            _exe(), "-y", "-f", "rawvideo", "-vcodec", "rawvideo", "-s", f"{width}x{height}", "-pix_fmt", "rgb24",
            "-r", rate, "-i", "-", "-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-v", "quiet",
            *self._output, self.part,
        ])  # fmt: skip

    def _fail(self, error: Exception) -> None:
        """Keep the first problem, in one line."""
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        try:
            self.full = self.full or shutil.disk_usage(self.part.parent).free < 1 << 20
            reason = "the disk is full" if self.full else reason
        except OSError:
            reason = "its folder is gone"
        self.problem = self.problem or f"video stopped after {self.frames} frames: {reason}"

    def _publish(self, cover: Image.Image | None) -> Path | None:
        """Make the fragments one seekable file, or keep them as they are when that fails."""
        try:
            with workroom(self.path) as room:
                whole = room / "whole.mp4"
                found = ffmpeg.remux(_exe(), self.part, whole, _jpeg(cover) if cover else b"")
                os.replace(whole, self.path)
            self.part.unlink(missing_ok=True)
            if found != self.frames:
                self.problem = self.problem or f"video holds {found} of {self.frames} frames"
        except (OSError, EncoderError) as error:
            self._fail(error)
            return self._keep_part()
        return self.path

    def _keep_part(self) -> Path | None:
        """Publish the fragmented file itself: it plays, but seeks slowly."""
        try:
            if self.part.stat().st_size:
                os.replace(self.part, self.path)
                return self.path
            self.part.unlink()
        except OSError as error:
            self._fail(error)
        return None


def animate(video: Path, output: Path, texts: Mapping[str, str] | None = None) -> Path:
    """Turn a video into an endless `.gif` or `.webp` that carries `texts` (see `containers.add`).

    Seen whole or not at all. Raises EncoderError; InputError for another suffix.
    """
    try:
        with workroom(output) as room:
            made = room / f"film{output.suffix}"
            ffmpeg.animate(_exe(), video, made)
            if texts:
                containers.add(made, texts)
            os.replace(made, output)
    except OSError as error:
        raise EncoderError(f"{output.name}: {error.strerror or error}") from error
    return output


@contextmanager
def workroom(beside: Path) -> Iterator[Path]:
    """A new folder beside a file, of a random name and nobody else's to write in; gone afterwards. Raises OSError."""
    room = Path(tempfile.mkdtemp(prefix=f".{beside.name[:80]}.", dir=beside.parent))
    try:
        yield room
    finally:
        with suppress(OSError):
            shutil.rmtree(room)


def _jpeg(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((COVER_SIDE, COVER_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def probe() -> str | None:
    """None when the encoder works here, else one line why not; asked once for each binary."""
    try:
        return _probe(_exe())
    except RuntimeError as error:
        return f"no video: {str(error).splitlines()[0]}"


def encoder() -> str:
    """The file name of the binary that encodes, which tells its version. Raises RuntimeError without one."""
    return Path(_exe()).name


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
