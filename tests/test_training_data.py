"""The cache is drawn once, split by label the same way for ever, and read back by style."""

from __future__ import annotations

import io
import json
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import SIDE, draw, draw_style, is_held_out, load, write_vocabulary
from vqclip.job import InputError

FIXED = ["thing 20", "thing 24"]
LABELS = [f"thing {number}" for number in range(400)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two styles; the first twenty labels are named concepts."""
    folder = tmp_path / "icons"
    folder.mkdir()
    rows = [{"row": n, "label": label, "name": label if n < 20 else ""} for n, label in enumerate(LABELS)]
    (folder / "index.json").write_text(json.dumps({"noto": rows, "twemoji": rows[:30]}))
    for style, count in (("noto", 400), ("twemoji", 30)):
        np.save(folder / f"{style}.npy", np.arange(count, dtype=np.uint8).repeat(4).reshape(count, 1, 1, 4))
    return tmp_path


def test_splits_part_the_labels_and_concepts_are_never_held_out(cache: Path) -> None:
    parts = {split: load(["noto"], split, folder=cache) for split in ("train", "held-out", "concepts", "all")}
    assert set(parts["train"].labels).isdisjoint(parts["held-out"].labels)
    assert sorted(parts["train"].labels + parts["held-out"].labels) == sorted(LABELS) == sorted(parts["all"].labels)
    assert parts["concepts"].names == LABELS[:20]
    assert set(LABELS[:20]) <= set(parts["train"].labels)
    assert 0.04 < len(parts["held-out"].labels) / 400 < 0.12


def test_pixels_follow_their_labels_through_splits_and_styles(cache: Path) -> None:
    icons = load(["twemoji", "noto"], "train", folder=cache)
    assert icons.styles == ["twemoji"] * icons.styles.count("twemoji") + ["noto"] * icons.styles.count("noto")
    assert [LABELS.index(label) % 256 for label in icons.labels] == icons.pixels[:, 0, 0, 0].tolist()


def test_unknown_splits_and_styles_are_named(cache: Path) -> None:
    with pytest.raises(ValueError, match="allowed: train"):
        load(["noto"], "test", folder=cache)
    with pytest.raises(ValueError, match="twemoji"):
        load(["openmoji"], folder=cache)


def test_the_hash_split_is_fixed() -> None:
    assert [label for label in LABELS[:40] if is_held_out(label)] == FIXED


@pytest.fixture
def rasteriser(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for resvg: every SVG becomes a half-clear red picture, twice as wide as high; keeps what it drew."""
    drawn: list[str] = []

    def svg_to_bytes(svg_string: str, width: int, height: int, skip_system_fonts: bool) -> bytes:
        assert skip_system_fonts
        drawn.append(svg_string)
        stream = io.BytesIO()
        Image.new("RGBA", (width, height // 2), (255, 0, 0, 128)).save(stream, "PNG")
        return stream.getvalue()

    module = types.ModuleType("resvg_py")
    monkeypatch.setattr(module, "svg_to_bytes", svg_to_bytes, raising=False)
    monkeypatch.setitem(sys.modules, "resvg_py", module)
    return drawn


def test_an_icon_that_is_not_square_is_centred_on_clear(rasteriser: list[str]) -> None:
    picture = draw("<svg/>")
    assert picture.shape == (SIDE, SIDE, 4)
    assert picture[64, 64].tolist() == [255, 0, 0, 128]
    assert picture[:32, :, 3].max() == picture[96:, :, 3].max() == 0
    assert rasteriser == ["<svg/>"]


def test_a_style_is_drawn_once_and_with_its_own_view_box(tmp_path: Path, rasteriser: list[str]) -> None:
    book = {"icons": {"dot": {"body": '<circle r="3"/>', "width": 16}}, "width": 8, "height": 8}
    path = tmp_path / "style.npy"
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            draw_style(path, book, ["dot"], pool)
    assert np.load(path).shape == (1, SIDE, SIDE, 4)
    assert len(rasteriser) == 1
    assert 'viewBox="0 0 16 8"' in rasteriser[0]


def test_the_vocabulary_lists_what_captions_say(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "v.json", {"red apple": "apple", "green apple": "apple", "cat face": "cat face"})
    vocabulary = json.loads((tmp_path / "v.json").read_text())
    assert vocabulary["concepts"] == ["apple", "cat face"]
    assert vocabulary["guided"] == ["apple"]
    assert {"apple", "cat", "face", "background", "red", "on", "an", "flat"} <= set(vocabulary["words"])


def test_without_drawings_one_line_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"index\.json is missing; python -m training\.data makes it"):
        load(["noto"], folder=tmp_path)
