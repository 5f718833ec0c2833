"""Numbers and verdicts as words."""

from __future__ import annotations

import pytest

from vqclip.report.wording import (
    NOTHING,
    duration,
    number,
    ordinal,
    percent,
    places,
    points,
    rivals,
    setting,
    signed,
    size,
    verdict,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOTHING), (0, "0"), (0.25, "0.250"), (-0.1247, "\u22120.125"), (10.27, "10.3"), (99.96, "100"),
        (1234.5, "1,234"), (0.00021, "2.10e\u22124"), (3e12, "3.00e12"), (-0.0, "0"),
        (1e-300, "1.00e\u2212300"), (-1e299, "\u22121.00e299"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("place", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (11, "11th"), (112, "112th"), (101, "101st")]
)
def test_ordinals(place: int, text: str) -> None:
    assert ordinal(place) == text


def test_units() -> None:
    assert (percent(0.254), percent(None), percent(-0.001)) == ("25 %", NOTHING, "0 %")
    assert (points(-0.5), signed(0.25, points)) == ("\u221250 points", "+25 points")
    assert (signed(-1.0), signed(0.0)) == ("\u22121.00", "0")
    assert (duration(9.83), duration(200), duration(7500), duration(-200)) == (
        "9.83 s", "3 min 20 s", "2 h 5 min", "\u22123 min 20 s",
    )  # fmt: skip
    assert (size(900_000_000), size(12), size(1.5e9), size(None)) == ("900 MB", "12 bytes", "1.50 GB", NOTHING)


def test_settings_stay_on_one_line_of_bounded_length() -> None:
    assert setting("plain") == "plain"
    assert setting("") == '""'
    assert setting([1, "ä", None]) == '[1, "ä", null]'
    assert len(setting("x" * 5000)) == 400


def test_a_verdict_in_words() -> None:
    parts = {"thing": (1, 71), "colour": (4, 11), "ground": (1, 11)}
    said = verdict("judge", rank=4, among=101, include=0.3, exclude=None, margin=-0.05, parts=parts, self_scored=False)
    assert said == [
        "Shown this picture and 101 texts, judge puts the prompt 4th.",
        "Among the texts that differ in nothing else it puts the thing first of 71, its colour 4th of 11 and the "
        "ground first of 11.",
        "The 100 other texts are the prompt with something swapped: the thing (70), its colour (10), the ground (10) "
        "and colour and ground at once (10).",
        "The prompt's similarity is 0.300, 0.0500 below the other text that fits best.",
        "This judge had no part in steering the picture.",
    ]


def test_rivals_in_words() -> None:
    assert rivals(101, {"thing": (9, 51)}).endswith("something swapped: the thing (50) and another word (50).")
    assert rivals(11, {"colour": (1, 11)}) == "The 10 other texts are the prompt with its colour swapped."
    assert rivals(101, {}) == "The 100 other texts name other things."
    assert places({"thing": (1, 71), "ground": (2, 11)}) == ["thing 1 of 71", "ground 2 of 11"]


def test_two_margins_are_two_numbers() -> None:
    said = verdict(
        "judge", rank=1, among=2, include=0.3, exclude=0.1, margin=0.05, exclude_margin=-0.2, self_scored=False
    )
    assert said[2] == (
        "The prompt's similarity is 0.300, 0.0500 above the other text that fits best and 0.200 below the excluded "
        "text that fits best."
    )


def test_a_verdict_by_older_rules_in_words() -> None:
    """Its one margin was against the excludes where there were some; of the rivals' kind it says nothing."""
    said = verdict(
        "judge", rank=1, among=101, include=0.3, exclude=None, margin=-0.05, former=True, self_scored=False
    )
    assert said == [
        "Shown this picture and 101 texts, judge puts the prompt first.",
        "The prompt's similarity is 0.300, 0.0500 below the other text that fits best.",
        "This judge had no part in steering the picture.",
    ]
    said = verdict("", rank=12, among=101, include=0.3, exclude=0.1, margin=0.2, former=True, self_scored=True)
    assert "the judge puts the prompt 12th" in said[0]
    assert "above the excluded text" in said[1]
    assert "proves little" in said[2]
