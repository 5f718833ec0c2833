"""How long it takes until something happens: `python -m benchmarks.startup [--times N] [KEY=VALUE ...]`.

For the quickstart the time from the start of Python to the end of its first step, as `--progress json` tells it, and
for `--help` the whole; each N times after one that leaves the bytecode of vqclip behind, with the processor's
seconds, of which a busy machine makes more of the clock.
Writes benchmarks/results/startup.json. To be run on a machine that does nothing else.
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
from importlib.metadata import version

from benchmarks.quality import RESULTS


def first_step(settings: list[str]) -> dict[str, float]:
    """Start the quickstart, wait for its first step, end it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "configs/quickstart.yaml", *settings, f"outputs={folder}", "--progress", "json"]
        return until('"step"', words)


def until(sign: str, words: list[str]) -> dict[str, float]:
    """Seconds by the clock and of the processor until a command says `sign`, or until it ends by itself."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    started = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "vqclip", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment,
    )  # fmt: skip
    assert started.stdout is not None
    said = ""
    for line in started.stdout:
        said += line
        if sign in line:
            break
    wall = time.perf_counter() - begun
    started.kill()
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    started.stdout.close()
    if sign not in said:
        raise SystemExit(said)
    return {"wall": round(wall, 3), "cpu": round(used.ru_utime + used.ru_stime, 3)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    first_step(asked.settings)
    rows = {
        "first step": [first_step(asked.settings) for _ in range(asked.times)],
        "help": [until("--help", ["--help"]) for _ in range(asked.times)],
    }
    medians = {
        name: {kind: statistics.median(row[kind] for row in each) for kind in ("wall", "cpu")}
        for name, each in rows.items()
    }
    report = {
        "command": " ".join(["python -m benchmarks.startup", f"--times {asked.times}", *asked.settings]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {version('torch')}",
        "median_seconds": medians,
        "seconds": rows,
    }
    (RESULTS / "startup.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
