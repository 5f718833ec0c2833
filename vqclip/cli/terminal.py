"""A picture, the loss terms and a verdict as text for a terminal. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vqclip.config.document import clean
from vqclip.job import Verdict

if TYPE_CHECKING:
    from torch import Tensor


def half_blocks(image: Tensor, *, columns: int, lines: int) -> list[str]:
    """A picture (3, H, W) in [0, 1] as lines of half blocks, two pixels a character, aspect kept."""
    from torch.nn import functional as F

    height, width = image.shape[-2:]
    scale = min(columns / width, 2 * lines / height)
    rows, across = max(round(height * scale / 2), 1), max(round(width * scale), 1)
    small = F.adaptive_avg_pool2d(image.detach().float(), (2 * rows, across))  # (3, 2 rows, across)
    pixels = small.clamp(0, 1).mul(255).round().int().permute(1, 2, 0).tolist()
    return ["".join(map(_block, pixels[2 * row], pixels[2 * row + 1])) + "\x1b[0m" for row in range(rows)]


def _block(upper: list[int], lower: list[int]) -> str:
    (r, g, b), (R, G, B) = upper, lower  # noqa: N806  # the lower half's channels
    return f"\x1b[38;2;{r};{g};{b};48;2;{R};{G};{B}m\u2580"


def terms_line(terms: Mapping[str, float]) -> str:
    """The total and each named term, in one short line; long names are trimmed."""
    if not terms:
        return ""
    parts = [f"{clean(name)[:24]} {value:.3f}" for name, value in terms.items()]
    return "  ".join([f"loss {sum(terms.values()):.3f}", *parts])


def verdict_line(verdict: Verdict) -> str:
    """The judge's opinion in one line."""
    parts = ", ".join(f"{part} {rank} of {count}" for part, (rank, count) in verdict.parts.items())
    rejected = ""
    if verdict.exclude is not None and verdict.exclude_margin is not None:
        rejected = f", exclude {verdict.exclude:.3f}, exclude margin {verdict.exclude_margin:+.3f}"
    caveat = " (self-scored: this judge also steered)" if verdict.self_scored else ""
    return (
        f"judge {verdict.judge}: rank {verdict.rank} of {verdict.among}{f' ({parts})' if parts else ''}, "
        f"include {verdict.include:.3f}, margin {verdict.margin:+.3f}{rejected}{caveat}"
    )
