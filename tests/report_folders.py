"""Run and comparison folders made by hand, with one text in every place where a text can stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vqclip import images

FILM = b"\0\0\0\x18ftypisom" + bytes(64)  # enough to be taken for an MP4, not enough to play
STEPS = 6


def prompt(text: str, weight: float = 1.0, stop: float | None = None) -> dict[str, Any]:
    return {"text": text, "weight": weight, "stop": stop}


def run_facts(text: str, **changes: Any) -> dict[str, Any]:
    """A run.json; `text` is every text and every free key in it."""
    facts = {
        "schema": 1, "status": "done", "started": text, "finished": text, "error": text,
        "job": {
            "title": text, "include": [prompt(text)], "exclude": [prompt(text, 2.0, 1.2)], "extras": [prompt(text)],
            "size": [32, 32], "steps": STEPS, "seed": 7,
        },
        "versions": {text: text, "vqclip": text}, "weights": {text: text, "judge": text}, "models": [text, text],
        "device": text, "precision": text, "threads": 1,
        "config": {text: {text: text}, "list": [text, {"text": text}], "steps": STEPS},
        "changed": {f"{text}.{text}": text, "steps": 150},
        "seconds": 2.5, "steps": STEPS, "terms": {f"include: {text}": 0.25, text: 0.5},
        "verdict": {
            "judge": text, "rank": 3, "among": 101, "include": 0.3, "exclude": 0.2, "margin": 0.1, "self_scored": False,
            "exclude_margin": 0.1, "parts": {"thing": [2, 71], "colour": [1, 11], "ground": [1, 11]},
        },
        "notices": [text], "warnings": [text], "outputs": {text: text, "final.png": text},
    }  # fmt: skip
    return facts | changes


def metrics(text: str, steps: int = STEPS) -> str:
    """A metrics.jsonl with two terms and the judge's scores, one number missing."""
    lines = []
    for step in range(steps + 1):
        terms = {f"include: {text}": 1 - step / 10, text: None if step == 2 else 0.1 * step}
        judge = {"rank": 60.0 - step * 9, text: 0.05 * step}
        lines.append({"step": step, "seconds": step * 0.4, "total": 1.0, "terms": terms, "judge": judge})
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(folder: Path, text: str, *, film: bytes = FILM, frames: int = 9, **changes: Any) -> Path:
    """A run folder; the picture is noise of a fixed seed."""
    (folder / "progress").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run_facts(text, **changes)), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics(text), encoding="utf-8")
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    images.save_png(folder / "final.png", picture, durable=False)
    for step in range(frames):
        images.save_png(folder / "progress" / f"{step:06d}.png", picture * step / 9, durable=False)
    images.save_png(folder / "progress" / "latest.png", picture, durable=False)
    (folder / "progress.mp4").write_bytes(film)
    return folder


def cell(variant: int, prompt: int, seed: int, **changes: Any) -> dict[str, Any]:
    facts = {
        "variant": variant, "prompt": prompt, "seed": seed, "folder": f"cells/v{variant}/p{prompt}-s{seed}",
        "status": "done", "error": None, "rank": 3, "among": 101, "include": 0.3, "exclude": None, "margin": 0.1,
        "exclude_margin": None, "parts": {"thing": [2, 91], "colour": [1, 11]}, "unjudged": None,
        "self_scored": False, "seconds": 2.5, "steps": STEPS, "peak_memory_bytes": 900_000_000,
    }  # fmt: skip
    return facts | changes


def estimate(variant: int, metric: str, mean: float, low: float | None = None, high: float | None = None) -> Any:
    return {"variant": variant, "metric": metric, "mean": mean, "low": low, "high": high, "count": 4, "prompts": 2}


def pair(first: int, second: int, metric: str, difference: float, *, decided: bool, **changes: Any) -> Any:
    facts = {
        "first": first, "second": second, "metric": metric, "wins": 3, "losses": 1, "ties": 0, "win_rate": 0.75,
        "win_low": 0.5, "win_high": 1.0, "difference": difference, "low": difference - 0.1, "high": difference + 0.1,
        "decided": decided, "prompts": 8,
    }  # fmt: skip
    return facts | changes


def report(text: str, **changes: Any) -> dict[str, Any]:
    """A report.json of two variants, two prompts and two seeds, one cell of them failed and one missing."""
    variant = {
        "name": text, "backend": text, "config": {text: {text: text}, "steps": STEPS},
        "differences": {text: text, "optimizer.lr": 0.1}, "versions": {text: text}, "weights": {text: text},
        "models": [text, text], "self_scored": True,
    }  # fmt: skip
    asked = {"title": text, "include": [prompt(text)], "exclude": [prompt(text, 2.0)], "extras": [prompt(text)]}
    cells = [cell(v, p, s) for v in (0, 1) for p in (0, 1) for s in (0, 1)]
    cells[-1] |= {"status": "failed", "error": text}
    facts = {
        "schema": 1, "kind": "comparison", "title": text, "created": text, "judge": {"name": text, "sha256": text},
        "variants": [variant, variant | {"self_scored": False}], "prompts": [asked, asked | {"include": [text]}],
        "seeds": [0, 1], "cells": [*cells[:3], *cells[4:]],
        "summary": [
            estimate(0, "margin", 0.4, 0.3, 0.5), estimate(1, "margin", 0.1, 0.0, 0.2),
            estimate(0, "seconds", 9.0, 8.0, 10.0), estimate(1, "seconds", 2.0, 1.5, 2.5), estimate(1, "ms_ssim", 0.3),
        ],
        "pairs": [pair(0, 1, "margin", 0.3, decided=False), pair(0, 1, "seconds", 7.0, decided=True)],
    }  # fmt: skip
    return facts | changes


def write_comparison(folder: Path, text: str, *, film: bytes = FILM, **changes: Any) -> Path:
    """A comparison folder with a run folder for every cell that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = report(text, **changes)
    (folder / "report.json").write_text(json.dumps(facts), encoding="utf-8")
    for each in facts["cells"]:
        if each["status"] == "done" and not (folder / each["folder"]).exists():
            write_run(folder / each["folder"], text, film=film, frames=0)
    return folder
