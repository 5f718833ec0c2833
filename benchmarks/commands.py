"""How long the README's commands take, start of Python included: `python -m benchmarks.commands [--times N]`.

Runs each of them N times into a folder of its own and writes benchmarks/results/commands.json. To be run on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

import torch

from benchmarks.quality import RESULTS

COMMANDS = {
    "quickstart": ["run", "configs/quickstart.yaml"],
    "kandinsky": ["run", "configs/kandinsky.yaml"],
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of one `python -m vqclip ...`; an error of the command is raised."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "vqclip", *arguments, f"outputs={folder}"]
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return round(time.perf_counter() - begun, 2)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    rows = {name: sorted(seconds(arguments) for _ in range(times)) for name, arguments in COMMANDS.items()}
    report = {
        "command": f"python -m benchmarks.commands --times {times}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "median_seconds": {name: row[len(row) // 2] for name, row in rows.items()},
        "seconds": rows,
    }
    (RESULTS / "commands.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["median_seconds"]))


if __name__ == "__main__":
    main()
