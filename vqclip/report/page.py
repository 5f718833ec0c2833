"""Renders the page of a run and of a comparison as one self-contained, deterministic HTML file.

The only file that knows the templates. Measures nothing and asks no clock: the same folder gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from vqclip.record.folder import write_text
from vqclip.report import comparison_view, run_view

FILMS: Final = 40 << 20  # bytes of video in one page; films beyond are left out, with a note in their place
PICTURES: Final = 120 << 20  # bytes of pictures in one page, likewise
NAME: Final = "report.html"

_HERE: Final = Path(__file__).parent
# Characters that nobody sees or that reorder the text around them: controls, bidi controls, half surrogate pairs,
# noncharacters. Joiners, variation selectors and tags stay: emoji and many scripts are made with them.
_UNSEEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def write_run_page(folder: Path) -> Path:
    """Write report.html of a run folder, finished or not, and return its path.

    Reads run.json, metrics.jsonl, final.png, progress.mp4 and kept frames. Where run.json has a key `changed`, an
    object of dotted config key -> default value, those keys are highlighted. A film above 40 MiB is left out with a
    note.

    Raises:
        InputError: no run.json, or files that are not what a run writes. ResourceError: the disk refuses.
    """
    return _write(folder, "run.html", run_view.view(folder, film_limit=FILMS, picture_limit=PICTURES))


def write_comparison_page(folder: Path) -> Path:
    """Write report.html of a comparison folder (report.json and the cells' run folders) and return its path.

    Films are embedded in the order of the page until 40 MiB are used up; the pictures of the rest stand for them, with
    a note. Cell folders that lead out of `folder` are refused.

    Raises:
        InputError: no report.json, or files that are not what a comparison writes. ResourceError: the disk refuses.
    """
    return _write(folder, "comparison.html", comparison_view.view(folder, film_limit=FILMS, picture_limit=PICTURES))


def _write(folder: Path, template: str, view: object) -> Path:
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = (
        _templates()
        .get_template(template)
        .render(view=view, style=style, script=script, policy=_policy(style, script), films=FILMS)
    )
    write_text(folder / NAME, text)
    return folder / NAME


@cache
def _templates() -> jinja2.Environment:
    """The package's own templates: every value is escaped, and one that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _seen(value: Any) -> Any:
    """What may stand in the page: texts with unseen characters written out (a NUL as \\x00), numbers, markup."""
    if value is None:
        raise TypeError("None reached the page; the view says what stands for nothing")
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], value) if type(value) is str else value


def _policy(style: str, script: str) -> str:
    """What a browser lets the page do: show embedded pictures and films, run this script, use this style."""
    return (
        "default-src 'none'; img-src data:; media-src data:; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """The hash of an inline element as Content Security Policy writes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
