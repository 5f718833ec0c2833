"""How calm and how long progress films are: `python -m benchmarks.films FOLDER`.

Makes 10 runs of the default recipe and size below FOLDER (those that are there already are used), prompts drawn as
for `benchmarks.quality`, seed n for the n-th, every step kept. From the same frames: the plain film of one frame a
step at an even pace and without smoothing, as it was made before there was any (frames a second so that 8 seconds
come out, 10 to 30, then 1.5 s hold), and `vqclip video`. Change is the mean absolute difference of consecutive
decoded frames, of 255, over the middle half of each film. Writes benchmarks/results/films.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from benchmarks.quality import RESULTS, draw_prompts
from vqclip import images
from vqclip.record.remake import reencode
from vqclip.record.video import VideoWriter

COUNT = 10
LENGTHS = (1, 3, 8, 30)
CONFIG = "configs/quickstart.yaml"


def make_run(folder: Path, text: str, seed: int) -> Path:
    """The run folder of this prompt and seed, made unless it is there."""
    place = folder / f"run-{seed}"
    if not (place / "run.json").exists():
        settings = [f"include={text}", f"seed={seed}", "threads=1", "video.every=1", f"outputs={folder}"]
        command = [sys.executable, "-m", "vqclip", "run", CONFIG, *settings, f"name={place.name}", "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
    told = json.loads((place / "run.json").read_text(encoding="utf-8"))
    if (told["job"]["title"], told["job"]["seed"], told["status"]) != (text, seed, "done"):
        raise SystemExit(f"{place} is another run; give another folder")
    return place


def plain(run: Path, output: Path) -> Path:
    """The film without pace and smoothing: each kept frame once, then the last for 1.5 s."""
    kept = sorted(path for path in (run / "progress").glob("*.png") if path.stem.isdigit())
    frames = [np.asarray(images.read(path)) for path in kept]
    fps = min(max(round(len(frames) / 8), 10), 30)
    writer = VideoWriter(output, (frames[0].shape[1], frames[0].shape[0]), fps, {})
    for frame in [*frames, *[frames[-1]] * round(1.5 * fps)]:
        writer.append(frame)
    made = writer.close()
    if made is None or writer.problem:
        raise SystemExit(f"{run}: {writer.problem}")
    return made


def watch(film: Path) -> dict[str, float]:
    """Frames, fps, seconds, and how much the middle half changes per frame and per second."""
    with imageio.get_reader(film, format="FFMPEG") as reader:
        fps = float(reader.get_meta_data()["fps"])
        changes, before = [], None
        for each in reader:
            now = np.asarray(each, dtype=np.float32)
            if before is not None:
                changes.append(float(np.abs(now - before).mean()))
            before = now
    edge = len(changes) // 4
    middle = float(np.mean(changes[edge : len(changes) - edge]))
    told = {"frames": len(changes) + 1, "fps": fps, "seconds": (len(changes) + 1) / fps}
    told |= {"change": middle, "change_a_second": middle * fps}
    return {name: round(value, 3) for name, value in told.items()}


def end_error(film: Path, picture: Path) -> float:
    """Mean absolute difference, of 255, between a film's last frame and the final picture."""
    with imageio.get_reader(film, format="FFMPEG") as reader:
        *_, last = reader
    return round(float(np.abs(np.asarray(last, dtype=np.float32) - np.asarray(images.read(picture))).mean()), 3)


def measure(run: Path, folder: Path) -> dict[str, Any]:
    """Both films of one run, and how long `vqclip video` makes one of each length."""
    before = watch(plain(run, folder / "plain.mp4"))
    films = {seconds: reencode(run, seconds=seconds, output=folder / f"{seconds}.mp4") for seconds in LENGTHS}
    after = watch(films[8])
    told = json.loads((run / "run.json").read_text(encoding="utf-8"))["job"]
    return {
        "prompt": told["title"],
        "seed": told["seed"],
        "before": before,
        "after": after,
        "ratio": round(after["change"] / before["change"], 3),
        "ratio_a_second": round(after["change_a_second"] / before["change_a_second"], 3),
        "seconds": {str(asked): watch(film)["seconds"] for asked, film in films.items()},
        "last_frame_error": end_error(films[8], run / "final.png"),
    }


def length_in_a_run(seconds: int) -> float:
    """Seconds of the film that a small run makes by itself."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["steps=10", "size=64,64", "tries=1", "threads=1", f"video.seconds={seconds}", f"outputs={folder}"]
        command = [sys.executable, "-m", "vqclip", "run", CONFIG, *settings, "name=small", "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        return watch(Path(folder, "small", "progress.mp4"))["seconds"]


def main() -> None:
    """Run, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows = []
    for seed, text in enumerate(draw_prompts(COUNT, 13)):
        run = make_run(folder, text, seed)
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(run, Path(place)))
        print(json.dumps(rows[-1]), flush=True)
    lengths = {str(seconds): length_in_a_run(seconds) for seconds in LENGTHS}
    report = {
        "command": "python -m benchmarks.films FOLDER",
        "before": "one frame a step at an even pace, unsmoothed; 10 to 30 fps so that 8 s are aimed at, 1.5 s hold",
        "worst_ratio": max(row["ratio"] for row in rows),
        "worst_ratio_a_second": max(row["ratio_a_second"] for row in rows),
        "worst_length_error": round(max(abs(float(k) - v) for row in rows for k, v in row["seconds"].items()), 3),
        "seconds_in_a_run": lengths,
        "runs": rows,
    }
    (RESULTS / "films.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "runs"}))


if __name__ == "__main__":
    main()
