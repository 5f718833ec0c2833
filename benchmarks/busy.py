"""What a busy core costs: `python -m benchmarks.busy [--times N] [KEY=VALUE ...]`.

Runs the quickstart quiet and beside one loop that never rests, in turns, on two cores where the system can tie a
process to them (Linux). Writes wall clock and CPU seconds of both, and how many times as long the median of the busy
ones takes, to benchmarks/results/busy.json. To be run on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from benchmarks.quality import RESULTS

CORES = 2
LOOP = "while True: pass"


def pin() -> int:
    """Keep this process and what it starts on two cores; how many there are now."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def neighbour() -> Iterator[None]:
    """Something else that takes one core, as long as the block lasts."""
    loop = subprocess.Popen([sys.executable, "-c", LOOP])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def measure(settings: list[str]) -> dict[str, float]:
    """One quickstart: seconds by the clock, of the processor, and of the loop alone as run.json has them."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "configs/quickstart.yaml", *settings, f"outputs={folder}", "name=x", "--quiet"]
        before, begun = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-m", "vqclip", *words], check=True, capture_output=True)
        wall, after = time.perf_counter() - begun, os.times()
        with open(os.path.join(folder, "x", "run.json"), encoding="utf-8") as file:
            run = json.load(file)
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return {"wall": round(wall, 2), "cpu": round(spent, 2), "loop": round(run["seconds"], 2), "threads": run["threads"]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    cores = pin()
    rows: dict[str, list[dict[str, float]]] = {"quiet": [], "busy": []}
    for _ in range(asked.times):
        for state, beside in (("quiet", nullcontext), ("busy", neighbour)):
            with beside():
                rows[state].append(measure(asked.settings))
    medians = {state: statistics.median(row["wall"] for row in each) for state, each in rows.items()}
    report = {
        "command": " ".join(["python -m benchmarks.busy", f"--times {asked.times}", *asked.settings]),
        "machine": f"{cores} cores, {platform.machine()}, torch {torch.__version__}",
        "median_seconds": medians,
        "busy_over_quiet": round(medians["busy"] / medians["quiet"], 2),
        "load_before": [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "runs": rows,
    }
    (RESULTS / "busy.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("median_seconds", "busy_over_quiet")}))


if __name__ == "__main__":
    main()
