"""The argument lists of ffmpeg and one way to run it; which binary that is, the caller says.

Does not stream frames: `video` does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vqclip.job import InputError
from vqclip.record.folder import to_json

GIF_FPS: Final = 50
MAX_FACTS: Final = 100_000  # bytes; Linux takes 131,071 in one argument

# crf 17 cannot be told from the original. zerolatency: no lookahead, so that a frame is on the disk when the
# next one comes. A keyframe each 15 frames makes seeking quick. Two threads leave the cores to the run.
H264: Final = (
    "-preset", "veryfast", "-crf", "17", "-tune", "zerolatency", "-g", "15", "-threads", "2",
)  # fmt: skip
# One fragment a frame: what was written plays, whenever the process is killed.
FRAGMENTED: Final = ("-movflags", "+frag_every_frame+empty_moov+default_base_moof", "-flush_packets", "1")
BT709: Final = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,"
    "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)


class EncoderError(RuntimeError):
    """The video encoder refused; one line with its own words."""


def run(exe: str, arguments: Sequence[str | Path], *, feed: bytes = b"", limit: float = 600) -> str:
    """Run the encoder to its end, `limit` seconds at most, with `feed` at its input; returns its standard output.

    It has a process group of its own: Ctrl-C ends the run, not the file that is being finished. Raises
    EncoderError.
    """
    command = [exe, "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    try:
        done = subprocess.run(  # noqa: S603  # an argument list, no shell; the binary is imageio-ffmpeg's choice
            command, input=feed, capture_output=True, timeout=limit, process_group=0, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EncoderError(f"{Path(exe).name}: {reason}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said = "".join(c for c in lines[-1] if c.isprintable())[:200] if lines else "no message"
        raise EncoderError(f"{Path(exe).name} failed ({done.returncode}): {said}")
    return done.stdout.decode(errors="replace")


def check(exe: str) -> None:
    """Encode two tenths of nothing. Raises EncoderError when there is no H.264 to be had."""
    run(exe, ["-f", "lavfi", "-i", "color=s=64x64:d=0.2", "-c:v", "libx264", "-f", "null", "-"], limit=30)


def remux(exe: str, fragments: Path, whole: Path, cover: bytes = b"") -> int:
    """Copy a fragmented video into one that seeks and starts at once; returns how many frames it holds.

    `cover` is a JPEG, which file managers and players show for the film. Nothing is encoded again. Raises
    EncoderError.
    """
    picture = ("-f", "image2pipe", "-c:v", "mjpeg", "-i", "pipe:0") if cover else ()
    joined = ("-map", "1:v", "-disposition:v:1", "attached_pic") if cover else ()
    copied = ("-c", "copy", "-movflags", "+faststart", "-f", "mp4")
    run(exe, ["-i", fragments, *picture, "-map", "0:v", *joined, *copied, whole], feed=cover)
    told = run(exe, ["-i", whole, "-map", "0:v:0", "-c", "copy", "-progress", "pipe:1", "-f", "null", "-"])
    counts = [line.removeprefix("frame=") for line in told.splitlines() if line.startswith("frame=")]
    return int(counts[-1]) if counts else 0


def animate(exe: str, video: Path, output: Path) -> None:
    """Turn a video into an endless `.gif` or `.webp` (`output`'s suffix) of the same size and length.

    GIF: one palette for the whole film, found in a pass of its own, so that memory stays constant; it lies beside
    `output` for that time. Raises EncoderError, and InputError for another suffix.
    """
    source = ("-i", video, "-map", "0:v:0")
    match output.suffix.lower():
        case ".gif":  # times are hundredths, and players slow a frame of one hundredth down to ten
            palette = output.with_suffix(".png")
            run(exe, [*source, "-vf", "palettegen=stats_mode=diff", "-frames:v", "1", palette])
            mix = f"[0:v:0]fps='min(source_fps,{GIF_FPS})'[film];[film][1:v]paletteuse=dither=sierra2_4a"
            run(exe, ["-i", video, "-i", palette, "-lavfi", mix, "-loop", "0", "-f", "gif", output])
        case ".webp":  # always BT.601 inside: from RGB the encoder converts by itself, from BT.709 it would not
            quality = ("-vf", "format=bgra", "-c:v", "libwebp_anim", "-quality", "80", "-compression_level", "4")
            run(exe, [*source, *quality, "-loop", "0", "-f", "webp", output])
        case other:
            raise InputError(f"animation {other!r}; .gif or .webp are allowed")


def tags(facts: Mapping[str, Any], title: str) -> list[str]:
    """Container metadata as arguments: `facts` as JSON in `comment` (control characters escaped), `title`."""
    comment = to_json(dict(facts))
    if (size := len(comment.encode())) > MAX_FACTS:
        comment = to_json({"omitted": f"{size} bytes of facts"})
    line = "".join(c if c.isprintable() else " " for c in title)[:500]
    return ["-metadata", f"comment={comment}", "-metadata", f"title={line}"]
