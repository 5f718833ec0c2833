"""Kills runs at random instants and lets them go on: `python -m benchmarks.kills [--times 200] [--seed 0]`.

One run is made whole. Then, N times, the same run is begun and killed (SIGKILL) after a random time between its begin
and its end, also while it writes checkpoints, frames, film, page or run.json, and finished by `vqclip resume`. Each
must end with the same pixels, the same numbers in metrics.jsonl and the same frames of the film, by their checksums
after decoding, and nothing else in its folder. A run that was over before the kill, or killed before it had a folder,
is begun anew and not counted. Writes benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import imageio_ffmpeg
from PIL import Image

from vqclip.record import checkpointing

RESULTS = Path(__file__).parent / "results" / "kills.json"
SETTINGS = (
    "include=a red apple", "steps=16", "size=64,64", "tries=3", "threads=1", "checkpoint.every=2", "score_every=4",
    "video.seconds=1",
)  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "vqclip", *words, "--quiet"]


def made(folder: Path) -> dict[str, Any]:
    """What a finished run is compared by."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    decode = ["-v", "error", "-i", str(folder / "progress.mp4"), "-map", "0:v:0", "-f", "framemd5", "-"]
    film = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *decode], capture_output=True, check=True).stdout
    return {
        "pixels": hashlib.sha256(Image.open(folder / "final.png").tobytes()).hexdigest(),
        "metrics": lines,
        "film": hashlib.sha256(film).hexdigest(),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        "status": json.loads((folder / "run.json").read_text())["status"],
    }


def kill_once(root: Path, number: int, delay: float) -> tuple[str, Path] | None:
    """Begin a run and kill it; where it was and its folder, None where it had none yet or was over."""
    folder = root / f"k{number}"
    process = subprocess.Popen(
        command("run", *SETTINGS, f"outputs={root}", f"name={folder.name}"), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (folder / "config.resolved.yaml").exists():
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL or (folder / "report.html").exists():
        return None
    found, _ = checkpointing.newest(folder / checkpointing.FOLDER)
    state = "no checkpoint" if found is None else f"step {found.step}"
    if any(folder.glob("**/.*.part")):
        state += ", inside a write"
    return state, folder


def main() -> None:
    """Kill, resume, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)  # no secret
    states: Counter[str] = Counter()
    broken: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        subprocess.run(command("run", *SETTINGS, f"outputs={root}", "name=whole"), check=True, capture_output=True)
        whole = made(root / "whole")
        longest = 1.3 * json.loads((root / "whole" / "run.json").read_text())["wall_seconds"]
        number = 0
        while sum(states.values()) < arguments.times:
            number += 1
            delay = rng.uniform(0, longest)
            killed = kill_once(root, number, delay)
            if killed is None:
                continue
            state, folder = killed
            states[state] += 1
            done = subprocess.run(command("resume", str(folder)), capture_output=True, text=True)
            try:
                found = made(folder) if done.returncode == 0 else {}
            except (OSError, subprocess.CalledProcessError):
                found = {}
            wrong = [name for name, value in whole.items() if found.get(name) != value]
            if wrong:
                files = sorted(set(found.get("files", [])) ^ set(whole["files"]))
                broken.append(
                    {"state": state, "delay": delay, "wrong": wrong, "files": files, "said": done.stderr[-300:]}
                )
            print(f"{sum(states.values())}/{arguments.times}  {state}  {broken[-1] if wrong else 'same'}",
                  flush=True)  # fmt: skip
    report = {
        "command": f"python -m benchmarks.kills --times {arguments.times} --seed {arguments.seed}",
        "settings": SETTINGS,
        "kills": sum(states.values()),
        "same": sum(states.values()) - len(broken),
        "killed at": dict(sorted(states.items())),
        "broken": broken,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("kills", "same")}))


if __name__ == "__main__":
    main()
