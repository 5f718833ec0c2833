"""What the browser checks look at: a run and a comparison with films that tell their own time, clean and poisoned."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from report_folders import cell, metrics, report, run_facts, write_comparison, write_run

from tests.browser.chromium import Chromium
from vqclip.record.video import VideoWriter
from vqclip.report.page import write_comparison_page, write_run_page

LONG = ("<b>\"quoted\" & 'quoted'</b> שלום עולם مرحبا 🍎👩‍👩‍👧 {{7*7}} " * 50)[:2000]
_STIR = """
(async () => {
  const all = [...document.querySelectorAll("*")];
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const each of all) {
    for (const kind of ["mouseover", "mouseenter", "click"]) {
      if (kind === "click" && !each.matches("summary, label")) continue;
      each.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
    }
    each.focus?.();
  }
  await new Promise((done) => setTimeout(done, 30));
  return all.length;
})()
"""


def movie(path: Path, frames: int) -> bytes:
    """A film that goes from black to white; the grey tells the share that has passed."""
    writer = VideoWriter(path, (256, 256), 10, {})
    for index in range(frames):
        writer.append(np.full((256, 256, 3), round(255 * index / (frames - 1)), np.uint8))
    made = writer.close()
    assert made is not None, writer.problem
    return made.read_bytes()


class Bench:
    """The folders that the checks look at, and the browser."""

    def __init__(self, folder: Path, browser: Chromium) -> None:
        self.folder, self.browser = folder, browser
        films = [movie(folder / f"{frames}.mp4", frames) for frames in (20, 40)]
        self.run = write_run(folder / "run", "a red apple", film=films[0])
        plain = report("a red apple")
        cells = [cell(v, p, s) for v in (0, 1) for p in (0, 1) for s in (0, 1)]
        variants = [plain["variants"][0] | {"name": "first"}, plain["variants"][1] | {"name": "second"}]
        self.comparison = write_comparison(folder / "comparison", "a red apple", cells=cells, variants=variants)
        for place in (self.comparison / "cells").glob("v*/*"):
            (place / "progress.mp4").write_bytes(films[place.parent.name == "v1"])
        write_run_page(self.run)
        write_comparison_page(self.comparison)

    def pages(self) -> list[Path]:
        return [self.run / "report.html", self.comparison / "report.html"]

    def poison(self, text: str) -> list[Path]:
        """Both pages with `text` in every place, beside the others."""
        folders = [self.folder / "poisoned-run", self.folder / "poisoned-comparison"]
        if not folders[0].exists():
            for source, target in zip((self.run, self.comparison), folders, strict=True):
                shutil.copytree(source, target)
        (folders[0] / "run.json").write_text(json.dumps(run_facts(text)), encoding="utf-8")
        (folders[1] / "report.json").write_text(json.dumps(report(text)), encoding="utf-8")
        for place in [folders[0], *(folders[1] / "cells").glob("*/*")]:
            (place / "metrics.jsonl").write_text(metrics(text), encoding="utf-8")
        return [write_run_page(folders[0]), write_comparison_page(folders[1])]

    def wait(self, question: str, seconds: float = 15) -> Any:
        """Ask the page until it says something true."""
        end = time.monotonic() + seconds
        while not (answer := self.browser.run(question)) and time.monotonic() < end:
            time.sleep(0.1)
        assert answer, question
        return answer

    def stir(self) -> None:
        """Open, touch and focus everything on the page, so that what waits for an event gets it."""
        self.browser.run(_STIR)

    def shoot(self, folder: Path) -> None:
        """Screenshots of whole pages: wide, dark, and as on a phone."""
        folder.mkdir(parents=True, exist_ok=True)
        for page in [*self.pages(), *self.poison(LONG)]:
            for name, width, dark in (("wide", 1400, False), ("dark", 1100, True), ("phone", 360, False)):
                self.browser.look(width, dark=dark)
                self.browser.open(page)
                self.browser.shoot(folder / f"{page.parent.name}-{name}.png")
