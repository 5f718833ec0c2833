"""Run folders as the real recorder writes them, in milliseconds: what a backend would have made is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from vqclip.compare.cells import Cell
from vqclip.job import Job, Prompt, Result, Step, Verdict
from vqclip.record.pace import plan
from vqclip.record.recorder import Recorder

JUDGE = "77" * 32
CONFIG: dict[str, Any] = {
    "preset": "default", "name": None, "include": [], "exclude": [], "extras": [], "prompts": [], "seed": 0,
    "size": [16, 16], "steps": 2, "backend": "vqgan", "outputs": "out", "optimizer": {"name": "adam", "lr": 0.1},
    "guides": [{"model": "starter", "weight": 1.0}], "threads": 1,
}  # fmt: skip


def job(title: str = "apple", seed: int = 0, *, exclude: tuple[str, ...] = (), side: int = 16) -> Job:
    return Job((Prompt(title),), tuple(Prompt(text) for text in exclude), (), (side, side), 2, seed)


def verdict(
    rank: int = 1, *, margin: float = 0.1, self_scored: bool = False, exclude_margin: float | None = None
) -> Verdict:
    exclude = None if exclude_margin is None else 0.3 - exclude_margin
    parts = {"thing": (rank, 91), "colour": (1, 11)}
    return Verdict("starter/judge", rank, 101, 0.3, exclude, margin, self_scored, exclude_margin, parts)


def flat(*colour: float, side: int = 16) -> torch.Tensor:
    return torch.tensor(colour or (0.5, 0.5, 0.5))[:, None, None].expand(3, side, side).contiguous()


def make_run(
    folder: Path,
    task: Job | None = None,
    *,
    image: torch.Tensor | None = None,
    judged: Verdict | None = None,
    seconds: float = 4.0,
    status: str = "done",
    config: dict[str, Any] | None = None,
    weights: dict[str, str] | None = None,
    **facts: Any,
) -> Path:
    """A run folder; `facts` are more fields of run.json, such as peak_memory_bytes."""
    task = task or job()
    image = flat(side=task.size[0]) if image is None else image
    folder.mkdir(parents=True)
    known = {
        "versions": {"vqclip": "0.1.0"},
        "weights": {"generator": "aa" * 32, "guide 0": "bb" * 32} | ({"judge": JUDGE} if judged else {}),
        "models": ["starter/vqgan", "starter/guide", *(["starter/judge"] if judged else [])],
        "config": CONFIG | (config or {}) | {"seed": task.seed},
    }
    known["weights"] |= weights or {}
    pace = plan(task.steps, seconds=1, fps=None, every=None, hold=0)
    recorder = Recorder(folder, task, plan=pace, formats=(), facts=known | facts)
    try:
        with recorder:
            recorder.step(Step(0, task.steps, image, {"include: apple": torch.tensor(0.5)}))
            if status == "interrupted":
                raise KeyboardInterrupt
            if status == "failed":
                raise MemoryError("no room")
            if status == "done":
                recorder.finish(Result(task, image, {}, task.steps, seconds, judged))
    except (KeyboardInterrupt, MemoryError):
        pass
    return folder


def make_cell(cell: Cell, **more: Any) -> Cell:
    make_run(cell.folder, cell.job, **more)
    return cell


def edit(folder: Path, **changes: Any) -> Path:
    """Change fields of a run.json; "absent" removes one."""
    path = folder / "run.json"
    facts = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in facts.items() if value != "absent"}))
    return folder
