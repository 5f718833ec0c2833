"""Pictures, terms and verdicts as terminal text: right colours, right shape, nothing that moves the cursor."""

from __future__ import annotations

import re

import pytest
import torch

from vqclip.cli.terminal import half_blocks, terms_line, verdict_line
from vqclip.job import Verdict

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀")


def test_a_cell_shows_the_pixel_above_and_the_pixel_below() -> None:
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0] = 1.0  # red, upper left
    image[2, 1, 1] = 2.0  # blue, lower right; out of range is clipped
    (line,) = half_blocks(image, columns=2, lines=1)
    assert CELL.findall(line) == [("255", "0", "0", "0", "0", "0"), ("0", "0", "0", "0", "0", "255")]
    assert line.endswith("\x1b[0m")


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(64, 64, (80, 40)), (128, 64, (100, 25)), (32, 64, (40, 40)), (16, 16, (80, 40)), (4096, 16, (100, 1))],
)
def test_the_picture_fits_and_keeps_its_aspect(width: int, height: int, expected: tuple[int, int]) -> None:
    lines = half_blocks(torch.rand(3, height, width), columns=100, lines=40)
    assert {len(CELL.findall(line)) for line in lines} == {expected[0]}
    assert len(lines) == expected[1]


def test_terms_show_the_total_and_every_name() -> None:
    assert terms_line({"include": 0.75, "exclude": -0.25}) == "loss 0.500  include 0.750  exclude -0.250"
    assert terms_line({}) == ""
    assert "\x1b" not in terms_line({"a\x1b[2J" + "b" * 50: 1.0})
    assert len(terms_line({"b" * 500: 1.0})) < 60


def test_verdicts_name_the_rank_and_own_up_to_self_scoring() -> None:
    parts = {"thing": (1, 43), "colour": (2, 11)}
    fair = verdict_line(Verdict("starter", 1, 64, 0.3, 0.1, 0.05, exclude_margin=0.2, parts=parts))
    assert fair == (
        "judge starter: rank 1 of 64 (thing 1 of 43, colour 2 of 11), include 0.300, margin +0.050, exclude 0.100, "
        "exclude margin +0.200"
    )
    own = verdict_line(Verdict("starter", 2, 64, 0.3, None, -0.2, self_scored=True))
    assert "exclude" not in own
    assert "margin -0.200" in own
    assert "self-scored" in own
