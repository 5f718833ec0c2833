"""Says numbers and verdicts in words for a reader; plain text only, no markup and no arithmetic on results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

NOTHING: Final = "\u2013"  # en dash
MINUS: Final = "\u2212"  # the sign that is as wide as a plus
CUT: Final = 400  # characters of a config value that are shown
_TEENS: Final = {11, 12, 13}
_ENDS: Final = {1: "st", 2: "nd", 3: "rd"}


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant figures, whole from there on, without an exponent from 0.001 to 1e9."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        text = f"{size:,.0f}" if size < 1e9 else scientific(size, digits - 1)
    else:
        text = f"{size:#.{digits}g}".rstrip(".") if size >= 1e-3 else scientific(size, digits - 1)
    return MINUS + text if value < 0 else text


def scientific(value: float, places: int) -> str:
    """A number with an exponent, 2.1e-4, for what is very small or very large."""
    head, power = f"{value:.{min(places, 15)}e}".split("e")
    return f"{head}e{int(power)}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """0.254 as "25 %"."""
    return NOTHING if share is None else f"{round(share * 100)} %".replace("-", MINUS)


def points(share: float | None) -> str:
    """The difference of two shares, 0.254, as "25 points"."""
    return NOTHING if share is None else f"{round(share * 100)} points".replace("-", MINUS)


def signed(value: float | None, say: Callable[[float | None], str] = number) -> str:
    """A difference in the words of `say`, always with its sign."""
    return f"+{say(value)}" if value is not None and value > 0 else say(value)


def duration(seconds: float | None) -> str:
    """Seconds as "9.83 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds is None:
        return NOTHING
    if abs(seconds) < 100:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return MINUS + text if seconds < 0 else text


def size(count: float | None) -> str:
    """Bytes as bytes, kB, MB or GB, powers of 1000."""
    if count is None:
        return NOTHING
    power, unit = next(((p, u) for p, u in ((9, "GB"), (6, "MB"), (3, "kB")) if abs(count) >= 10**p), (0, ""))
    return f"{number(count / 10**power)} {unit}" if power else f"{count:.0f} bytes"


def ordinal(place: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    end = "th" if place % 100 in _TEENS else _ENDS.get(place % 10, "th")
    return f"{place}{end}"


def setting(value: Any) -> str:
    """A config value on one line: texts as they are, the rest as JSON; cut after 400 characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and not value:
        text = '""'
    return text if len(text) <= CUT else f"{text[: CUT - 1]}\u2026"


def verdict(
    judge: str, *, rank: int, among: int, include: float | None, exclude: float | None, margin: float | None,
    self_scored: bool,
) -> list[str]:  # fmt: skip
    """What a judge saw, as sentences: place of the prompt, similarities, and how far to trust it."""
    place = "first" if rank == 1 else ordinal(rank)
    said = [f"Shown this picture and {among} texts, {judge or 'the judge'} puts the prompt {place}."]
    if include is not None and margin is not None:
        rival = "the other text that fits best" if exclude is None else "the excluded text that fits best"
        side = "above" if margin >= 0 else "below"
        said.append(f"The prompt's similarity is {number(include)}, {number(abs(margin))} {side} {rival}.")
    said.append(
        "This judge also steered the picture, so its score proves little."
        if self_scored
        else "This judge had no part in steering the picture."
    )
    return said


STATUS: Final[Mapping[str, str]] = {
    "done": "finished",
    "interrupted": "interrupted; this is the result so far",
    "failed": "failed; this is what was made until then",
    "running": "still running, or killed before it could say more",
}
