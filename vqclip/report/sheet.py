"""Draws all pictures of a comparison on one contact sheet: a row for each prompt, a block of seeds for each variant.

The same report and pictures give the same bytes: nothing is drawn but what they hold, in the font that comes with
Pillow (under one version of it). Letters which that font lacks appear as boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from vqclip import images
from vqclip.job import InputError
from vqclip.record.folder import write_bytes

NAME: Final = "contact-sheet.png"
LARGEST: Final = 192  # px, side of the square that a picture is fitted into
SMALLEST: Final = 24
EMPTY: Final = (228, 228, 224)  # where there is no picture
MAX_WIDTH, MAX_HEIGHT, MAX_PIXELS = 8192, 32_000, 60_000_000  # of the sheet; its pixels take 3 bytes each

_GAP, _BLOCK, _MARGIN = 4, 16, 12  # px between pictures, between variants, around all
_HEAD, _LINE = 56, 16  # px of the title with the variants' names, of a line of small text
_INK, _FAINT = (20, 20, 20), (110, 110, 110)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_sheet(report: Mapping[str, Any], root: Path) -> Path:
    """Write contact-sheet.png beside report.json; raises what `contact_sheet` does, and ResourceError."""
    write_bytes(root / NAME, images.to_png(contact_sheet(report, root)))
    return root / NAME


def contact_sheet(report: Mapping[str, Any], root: Path) -> Image.Image:
    """The sheet of a report as `summary.summarise` makes it; `root` is what the cells' folders are relative to.

    Pictures keep their aspect; a cell without one is an empty square. Below stand its seed and, where the judge ranked
    it, its rank, or what became of it. Raises InputError for a picture that cannot be read, and for more cells than fit
    on 8192 x 32,000 px, 60 megapixels in all, at 24 px each.
    """
    plan = _Plan.of(report)
    sheet = Image.new("RGB", plan.size, images.WHITE)
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(12), ImageFont.load_default(18)
    _write(draw, (_MARGIN, _MARGIN), _title(report), width=plan.size[0] - 2 * _MARGIN, font=large)
    for number, variant in enumerate(report["variants"]):
        name = variant["name"] + (" (self-scored)" if variant["self_scored"] else "")
        _write(draw, (plan.left(number, 0), _MARGIN + 28), name, width=plan.block - _BLOCK, font=small)
    for number, prompt in enumerate(report["prompts"]):
        at = (_MARGIN, plan.top(number) - _LINE - 2)
        _write(draw, at, _prompt_text(prompt), width=plan.size[0] - 2 * _MARGIN, font=small)
    seeds = {seed: number for number, seed in enumerate(report["seeds"])}
    for cell in report["cells"]:
        left, top = plan.left(cell["variant"], seeds[cell["seed"]]), plan.top(cell["prompt"])
        _cell(sheet, cell, root / cell["folder"] / "final.png", at=(left, top), side=plan.side)
        _write(draw, (left, top + plan.side + 1), _caption(cell), width=plan.side, font=small, fill=_FAINT)
    return sheet


@dataclass(frozen=True)
class _Plan:
    """Where everything goes, in pixels."""

    side: int
    variants: int
    prompts: int
    seeds: int

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> _Plan:
        """The largest squares that keep the sheet within its limits."""
        counts = {name: len(report[name]) for name in ("variants", "prompts", "seeds")}
        for side in range(LARGEST, SMALLEST - 1, -8):
            plan = cls(side, **counts)
            width, height = plan.size
            if width <= MAX_WIDTH and height <= MAX_HEIGHT and width * height <= MAX_PIXELS:
                return plan
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(
            f"contact sheet: {said}; at most {MAX_WIDTH}x{MAX_HEIGHT} px of {SMALLEST} px squares are drawn"
        )

    @property
    def block(self) -> int:
        """Width of one variant, the gap to the next one included."""
        return max(self.seeds * (self.side + _GAP), LARGEST // 2) + _BLOCK

    @property
    def row(self) -> int:
        """Height of one prompt: its title, the pictures, their captions and a gap."""
        return self.side + 2 * _LINE + 2 * _GAP

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        width = max(self.variants * self.block - _BLOCK, 2 * LARGEST)
        return width + 2 * _MARGIN, 2 * _MARGIN + _HEAD + self.prompts * self.row

    def left(self, variant: int, seed: int) -> int:
        return _MARGIN + variant * self.block + seed * (self.side + _GAP)

    def top(self, prompt: int) -> int:
        return _MARGIN + _HEAD + _LINE + prompt * self.row


def _cell(sheet: Image.Image, cell: Mapping[str, Any], path: Path, *, at: tuple[int, int], side: int) -> None:
    """Paste the picture into its square, or fill the square with grey."""
    box = Image.new("RGB", (side, side), images.WHITE if cell["status"] == "done" else EMPTY)
    if cell["status"] == "done":
        picture = ImageOps.contain(images.read(path), (side, side), Image.Resampling.LANCZOS)
        box.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    sheet.paste(box, at)


def _title(report: Mapping[str, Any]) -> str:
    judge = report["judge"]
    return str(report["title"]) + (f" - ranks by {judge['name']}" if judge else "")


def _prompt_text(prompt: Mapping[str, Any]) -> str:
    """A prompt with what all of its pictures were to leave out or have besides."""
    parts = ((name, [each["text"] for each in prompt[name]]) for name in ("exclude", "extras"))
    return "   ".join([str(prompt["title"]), *(f"{name}: {', '.join(texts)}" for name, texts in parts if texts)])


def _caption(cell: Mapping[str, Any]) -> str:
    if cell["status"] != "done":
        return f"seed {cell['seed']}: {cell['status']}"
    if cell["rank"] is None:
        return f"seed {cell['seed']}" + (": no verdict" if cell.get("unjudged") else "")
    return f"seed {cell['seed']}: {cell['rank']} of {cell['among']}"


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    *,
    width: int,
    font: Font,
    fill: tuple[int, int, int] = _INK,
) -> None:
    """One line of text, cut to `width` pixels with dots where something was left out."""
    draw.text(at, images.shorten(text, width, font), fill, font)
