"""Draws the pinned icon sets once into a cache of 128 px RGBA pictures: `python -m training.data`.

Downloads through `training.sources`; chooses no colours, backgrounds or captions.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.concepts import COLOURS, GUIDED, choose_concepts
from training.sources import NAMES, PERMISSIVE, STYLES, Emoji, fetch, match_icons, read_emojis, read_json
from vqclip.job import InputError

SIDE = 128
HELD_OUT_PERCENT = 8


@dataclass(frozen=True)
class Icons:
    """Pictures with names. `pixels` is (N, 128, 128, 4) uint8, straight alpha; the lists have N entries.

    `names` holds the caption name of the concepts and "" for every other label.
    """

    pixels: np.ndarray
    labels: list[str]
    styles: list[str]
    names: list[str]

    def only(self, names: Collection[str]) -> Icons:
        """The icons of some names; all of them where `names` is empty."""
        keep = [place for place, name in enumerate(self.names) if not names or name in names]
        lists = ([values[place] for place in keep] for values in (self.labels, self.styles, self.names))
        return Icons(self.pixels[keep], *lists)


def cache_folder() -> Path:
    """`$VQCLIP_TRAINING`, or `training/cache` beside this file."""
    return Path(os.environ.get("VQCLIP_TRAINING") or Path(__file__).parent / "cache")


def is_held_out(label: str) -> bool:
    """A fixed share of all labels, by hash, so that no run or order of files can change it."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def load(styles: Iterable[str], split: str = "train", *, folder: Path | None = None) -> Icons:
    """The cached icons of some styles.

    Args:
        styles: names such as "noto"; order is kept.
        split: "train" (all but the held-out labels), "held-out", "concepts" (only named ones) or "all".
        folder: where the cache is; `cache_folder()` by default.

    Raises:
        ValueError: for an unknown split or style.
        InputError: when `python -m training.data` has not run.
    """
    if split not in ("train", "held-out", "concepts", "all"):
        raise ValueError(f"split is {split!r}; allowed: train, held-out, concepts, all")
    folder = (folder or cache_folder()) / "icons"
    if not (folder / "index.json").exists():
        raise InputError(f"{folder / 'index.json'} is missing; python -m training.data makes it")
    index: dict[str, list[dict[str, Any]]] = json.loads((folder / "index.json").read_text())
    parts, rows = [], []
    for style in styles:
        if style not in index:
            raise ValueError(f"style {style!r} is not cached; there are {', '.join(index)}")
        chosen = [row for row in index[style] if _in_split(row, split)]
        parts.append(np.load(folder / f"{style}.npy", mmap_mode="r")[[row["row"] for row in chosen]])
        rows += [(style, row) for row in chosen]
    labels, names = [row["label"] for _, row in rows], [row["name"] for _, row in rows]
    return Icons(np.concatenate(parts), labels, [style for style, _ in rows], names)


def _in_split(row: dict[str, Any], split: str) -> bool:
    held_out = not row["name"] and is_held_out(row["label"])
    return {"train": not held_out, "held-out": held_out, "concepts": bool(row["name"]), "all": True}[split]


def draw(svg: str) -> np.ndarray:
    """One SVG as (128, 128, 4) uint8 with straight alpha, scaled to fit and centred by its own viewBox."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True))
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    if picture.size != (SIDE, SIDE):  # resvg keeps the aspect ratio of icons that are not square
        square = Image.new("RGBA", (SIDE, SIDE))
        square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        picture = square
    return np.asarray(picture)


def _draw_many(svgs: Sequence[str]) -> np.ndarray:
    return np.stack([draw(svg) for svg in svgs])


def _as_svg(icon: dict[str, Any], book: dict[str, Any]) -> str:
    width, height = (icon.get(side, book.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", book.get("left", 0)), icon.get("top", book.get("top", 0))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}" '
        f'height="{height}" viewBox="{left} {top} {width} {height}" color="black">{icon["body"]}</svg>'
    )


def build(folder: Path, *, concepts: int, processes: int) -> None:
    """Fills `folder` with one .npy per style, an index and `vocabulary.json`; styles already drawn stay."""
    packages = folder / "packages"
    emojis = read_emojis(fetch(NAMES, packages))
    books, matches = {}, {}
    for style, package in STYLES.items():
        tarball = fetch(package, packages)
        books[style] = read_json(tarball, "icons.json")
        icons = [name for name, icon in books[style]["icons"].items() if not icon.get("hidden")]
        matches[style] = match_icons(icons, read_json(tarball, "chars.json") or {}, emojis)
    names = name_concepts(emojis, matches, concepts)
    (folder / "icons").mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        for style in STYLES:
            draw_style(folder / "icons" / f"{style}.npy", books[style], list(matches[style]), pool)
            print(f"{style}: {len(matches[style])} icons", flush=True)
    index = {
        style: [_row(row, emoji, names) for row, emoji in enumerate(found.values())] for style, found in matches.items()
    }
    _write_json(folder / "icons" / "index.json", index)
    write_vocabulary(folder / "vocabulary.json", names)


def name_concepts(emojis: list[Emoji], matches: dict[str, dict[str, Emoji]], count: int) -> dict[str, str]:
    """Label -> caption name of the chosen concepts; only permissive sets count, so evaluation has no say."""
    styles_of: dict[str, set[str]] = defaultdict(set)
    for package in PERMISSIVE:
        for emoji in matches[package.style].values():
            styles_of[emoji.label].add(package.style)
    return choose_concepts(emojis, styles_of, count)


def write_vocabulary(path: Path, names: dict[str, str]) -> None:
    """Everything a caption can say: rivals are drawn from its concepts, benchmark prompts from `guided`."""
    from training.captions import BACKGROUNDS, STYLE_WORDS, list_words

    found = sorted(set(names.values()))
    vocabulary = {
        "concepts": found, "guided": [name for name in GUIDED if name in found], "colours": list(COLOURS),
        "backgrounds": list(BACKGROUNDS), "styles": list(STYLE_WORDS), "words": list_words(found),
    }  # fmt: skip
    _write_json(path, vocabulary)


def _row(row: int, emoji: Emoji, names: dict[str, str]) -> dict[str, Any]:
    place = {"group": emoji.group, "subgroup": emoji.subgroup, "tags": emoji.tags}
    return {"row": row, "label": emoji.label, "name": names.get(emoji.label, ""), **place}


def draw_style(path: Path, book: dict[str, Any], icons: list[str], pool: Executor) -> None:
    """Draws the icons of one set into a (N, 128, 128, 4) uint8 .npy file, unless it is there already."""
    if path.exists() and len(np.load(path, mmap_mode="r")) == len(icons):
        return
    svgs = [_as_svg(book["icons"][name], book) for name in icons]
    chunks = [svgs[start : start + 64] for start in range(0, len(svgs), 64)]
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, np.concatenate(list(pool.map(_draw_many, chunks))))
    os.replace(temporary, path)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, default=150, help="how many names the CLIP models learn")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Builds the cache of drawings and says where it lies."""
    arguments = parse()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    build(folder, concepts=arguments.concepts, processes=arguments.processes)
    print(f"cached in {folder}; package styles: {', '.join(STYLES)}")


if __name__ == "__main__":
    main()
