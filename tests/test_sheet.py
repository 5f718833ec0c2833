"""The contact sheet shows every picture where it belongs, fits its limits, and is the same to the byte."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import flat, job, make_run, verdict
from PIL import Image

from vqclip import images
from vqclip.compare.cells import Cell, folder_of
from vqclip.compare.summary import summarise
from vqclip.job import InputError
from vqclip.report import sheet
from vqclip.report.sheet import contact_sheet, write_sheet

COLOURS = {("a", 0): (1.0, 0.0, 0.0), ("a", 1): (0.0, 1.0, 0.0), ("b", 0): (0.0, 0.0, 1.0), ("b", 1): (1.0, 0.0, 1.0)}


def comparison(root: Path, titles: tuple[str, ...] = ("apple",), *, side: int = 16, **more: Any) -> dict[str, Any]:
    """Two variants with two seeds, each picture of one colour."""
    cells = []
    for title in titles:
        for (variant, seed), colour in COLOURS.items():
            task = job(title, seed, side=side)
            cells.append(Cell(variant, task, folder_of(root, variant, task)))
            make_run(cells[-1].folder, task, image=flat(*colour, side=side), judged=verdict(3), **more)
    return summarise(cells, root=root, title="A comparison", created="now")


def squares(picture: Image.Image) -> dict[tuple[int, int, int], tuple[int, int, int, int]]:
    """Where each saturated colour lies: top, left, height, width."""
    pixels = np.array(picture)
    found = {}
    for colour in COLOURS.values():
        wanted = tuple(round(255 * part) for part in colour)
        rows, columns = np.nonzero((pixels == wanted).all(2))
        if len(rows):
            found[wanted] = (rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1)
    return found


def plain(variants: int, prompts: int, seeds: int) -> dict[str, Any]:
    """A report without a single picture."""
    return {
        "title": "t", "judge": None, "seeds": list(range(seeds)),
        "variants": [{"name": f"v{n}", "self_scored": False} for n in range(variants)],
        "prompts": [{"title": f"p{n}", "exclude": [], "extras": []} for n in range(prompts)],
        "cells": [
            {"variant": v, "prompt": p, "seed": s, "status": "missing", "rank": None, "folder": "none"}
            for v in range(variants) for p in range(prompts) for s in range(seeds)
        ],
    }  # fmt: skip


class TestContent:
    def test_variants_stand_side_by_side_with_their_seeds_in_order(self, tmp_path: Path) -> None:
        found = squares(contact_sheet(comparison(tmp_path), tmp_path))
        assert len({top for top, *_ in found.values()}) == 1
        lefts = [found[tuple(round(255 * part) for part in colour)][1] for colour in COLOURS.values()]
        assert lefts == sorted(lefts)
        assert lefts[2] - lefts[1] > lefts[1] - lefts[0]  # a wider gap between variants
        assert {size for *_, size in found.values()} == {sheet.LARGEST}

    def test_prompts_stand_below_each_other(self, tmp_path: Path) -> None:
        one = contact_sheet(comparison(tmp_path / "a"), tmp_path / "a")
        two = contact_sheet(comparison(tmp_path / "b", ("apple", "cat")), tmp_path / "b")
        assert one.width == two.width
        assert two.height - one.height > sheet.LARGEST
        assert squares(two)[255, 0, 0][2] > sheet.LARGEST  # from the first row to the second

    def test_failed_and_missing_cells_are_grey(self, tmp_path: Path) -> None:
        report = comparison(tmp_path)
        report["cells"][0] |= {"status": "failed", "error": "x"}
        report["cells"][1] |= {"status": "missing"}
        drawn = contact_sheet(report, tmp_path)
        assert set(squares(drawn)) == {(0, 0, 255), (255, 0, 255)}
        assert (np.array(drawn) == sheet.EMPTY).all(2).sum() == 2 * sheet.LARGEST**2

    def test_pictures_keep_their_aspect(self, tmp_path: Path) -> None:
        report = comparison(tmp_path)
        wide = tmp_path / report["cells"][0]["folder"] / "final.png"
        images.save_png(wide, flat(1.0, 0.0, 0.0, side=16)[:, :4])
        top, _, height, width = squares(contact_sheet(report, tmp_path))[255, 0, 0]
        assert (height, width) == (sheet.LARGEST // 4, sheet.LARGEST)
        assert top > 0

    def test_ranks_titles_and_self_scores_change_what_is_drawn(self, tmp_path: Path) -> None:
        report = comparison(tmp_path)
        first = contact_sheet(report, tmp_path).tobytes()
        for change in (
            {"title": "Another"}, {"judge": {"name": "Somebody"}},
            {"cells": [each | {"rank": 99} for each in report["cells"]]},
            {"variants": [each | {"self_scored": True} for each in report["variants"]]},
            *({"prompts": [report["prompts"][0] | more]} for more in (
                {"title": "pear"}, {"exclude": [{"text": "red"}]}, {"extras": [{"text": "red"}]},
            )),
        ):  # fmt: skip
            assert contact_sheet(report | change, tmp_path).tobytes() != first

    @pytest.mark.parametrize("title", ["", "猫 \U0001f431 عربي", "a\nb\0\ud83d", "w" * 5000, "<b>"])
    def test_any_title_is_drawn_on_one_line(self, tmp_path: Path, title: str) -> None:
        report = comparison(tmp_path)
        size = contact_sheet(report, tmp_path).size
        report["prompts"][0]["title"] = report["title"] = report["variants"][0]["name"] = title
        assert contact_sheet(report, tmp_path).size == size

    def test_a_damaged_picture_is_refused(self, tmp_path: Path) -> None:
        report = comparison(tmp_path)
        (tmp_path / report["cells"][0]["folder"] / "final.png").write_bytes(b"x")
        with pytest.raises(InputError, match=r"final\.png"):
            contact_sheet(report, tmp_path)


class TestBytes:
    def test_made_again_it_is_the_same_to_the_byte(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also in another time zone, later, from files with other times, into another folder."""
        first = write_sheet(comparison(tmp_path / "a", ("apple", "cat")), tmp_path / "a").read_bytes()
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        monkeypatch.setattr(time, "time", lambda: 4e9)
        report = comparison(tmp_path / "b", ("apple", "cat"))
        for path in (tmp_path / "b").rglob("final.png"):
            os.utime(path, (1, 1))
        assert write_sheet(report, tmp_path / "b").read_bytes() == first

    def test_it_says_nothing_but_its_pixels(self, tmp_path: Path) -> None:
        path = write_sheet(comparison(tmp_path), tmp_path)
        with Image.open(path) as picture:
            assert picture.info == {}
            assert picture.mode == "RGB"


class TestLimits:
    @pytest.mark.parametrize(("variants", "prompts", "seeds"), [(1, 1, 1), (3, 20, 4), (8, 8, 16), (1, 256, 1)])
    def test_large_comparisons_get_smaller_pictures(self, variants: int, prompts: int, seeds: int) -> None:
        drawn = contact_sheet(plain(variants, prompts, seeds), Path())
        assert drawn.width <= sheet.MAX_WIDTH
        assert drawn.height <= sheet.MAX_HEIGHT
        assert drawn.width * drawn.height <= sheet.MAX_PIXELS
        grey = int((np.array(drawn) == sheet.EMPTY).all(2).sum())
        side = round((grey / (variants * prompts * seeds)) ** 0.5)
        assert side**2 * variants * prompts * seeds == grey  # none lies over another or is cut off
        assert sheet.SMALLEST <= side <= sheet.LARGEST

    def test_too_many_are_refused(self) -> None:
        with pytest.raises(InputError, match="20 variants, 1 prompts, 100 seeds"):
            contact_sheet(plain(20, 1, 100) | {"cells": []}, Path())
