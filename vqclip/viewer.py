"""Hands a picture's file to the system's viewer, and knows a notebook, which needs none. Makes no files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PATIENCE = 2.0  # seconds in which an opener that finds no viewer says so


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is asked, never imported."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return getattr(ask() if ask else None, "kernel", None) is not None  # IPython in a terminal has no kernel


def opener(platform: str, environ: Mapping[str, str]) -> str | None:
    """The program that opens a file in its viewer, None where there is no display or no such program."""
    if platform in ("win32", "darwin"):
        return shutil.which({"win32": "explorer", "darwin": "open"}[platform])
    return shutil.which("xdg-open") if environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") else None


def show(path: Path) -> bool:
    """Ask the system to show a file; False when nothing here can."""
    program = opener(sys.platform, os.environ)
    if program is None:
        return False
    try:
        asked = subprocess.Popen(  # noqa: S603  # an argument list, no shell; an absolute path, which is no option
            [program, str(path.resolve())], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        code = asked.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return True  # the viewer itself, open
    except OSError:
        return False
    return code == 0 or program.lower().endswith("explorer.exe")  # which answers 1 whatever happened
