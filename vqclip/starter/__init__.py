"""Small embedded models so that a first picture needs no download, and the names they know; see MODELS.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


@cache
def concepts() -> tuple[str, ...]:
    """Names of everyday things that the starter models were trained on."""
    names: list[str] = json.loads((Path(__file__).parent / "vocabulary.json").read_text(encoding="utf-8"))["concepts"]
    return tuple(names)
