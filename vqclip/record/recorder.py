"""Writes down one picture while it is made: metrics, frames, video, the final picture and run.json.

Reads the numbers of a step in one transfer. Never takes part in the run: it neither judges numbers that
are not finite nor ends a run because frames or the video fail. Where the disk is full, kept frames make room for the
metrics, and a reserve is there for picture, page and run.json. Saves checkpoints of what others give it, and goes on
from one to the record of a run that was never interrupted.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self

import numpy as np
import torch

from vqclip import images
from vqclip.job import InputError, Job, ResourceError, Result, Step
from vqclip.record import checkpointing, containers, metadata, presence, video
from vqclip.record.checkpointing import Checkpoint
from vqclip.record.facts import described, finite, hashes, one_line
from vqclip.record.film import Film
from vqclip.record.folder import to_json, write_bytes, write_json, write_text
from vqclip.record.pace import VideoPlan
from vqclip.record.reserve import FULL, Reserve

Status = Literal["running", "done", "interrupted", "failed"]
Score = Callable[[torch.Tensor], Mapping[str, float]]

SCHEMA: Final = 1  # of run.json
LATEST_EVERY: Final = 0.25  # seconds between two previews
# What a process that was killed leaves in its folder.
LEFT_BEHIND: Final = (".reserve-*", ".*.part", "progress/.*.part", "progress.part.mp4", ".progress.*")
FREED: Final = 8  # kept frames that make room for metrics at a time


class Recorder:
    """One picture's run folder, from the first step to `finish`. Use it as a context manager.

    Leaving the block without `finish` keeps everything made so far and writes run.json as "interrupted"
    (for the exceptions in `stops`, and when there was none) or "failed" (for all others).

    Args:
        folder: exists, empty but for what others put there. job: the picture asked for.
        plan: which steps the film looks at, and its pace. formats: of "mp4", "gif", "webp"; empty means no video.
        keep_frames: also keep every frame as progress/000123.png.
        log_every: steps between two lines of metrics.jsonl; the first and the last are always there.
        score: numbers of a judge for an image (3, H, W), asked each `score_every` steps (0: never) and at the end.
        facts: JSON values for run.json; "config", "versions", "weights" and "files" also go into picture and films;
            what these shall say instead is put into `recipe` before the first step, see `metadata.embed`.
        scale: whole factor by which films are larger than the picture.

    Raises:
        ResourceError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        *,
        plan: VideoPlan,
        formats: Collection[str] = ("mp4",),
        keep_frames: bool = False,
        log_every: int = 1,
        score: Score | None = None,
        score_every: int = 0,
        facts: Mapping[str, Any],
        scale: int = 1,
        stops: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    ) -> None:
        self.folder, self.job, self.warnings = folder, job, list[str]()
        self._plan, self._formats, self._keep = plan, tuple(formats), keep_frames
        self._log_every, self._score, self._score_every = log_every, score, score_every
        self._facts, self._stops = dict(facts), stops
        self.recipe = {name: self._facts.get(name, {}) for name in ("config", "versions", "weights", "files")}
        self._scale = scale
        self._video: video.VideoWriter | None = None
        self._film: Film | None = None
        self._showing = True  # False once the disk refused a frame
        self._latest = -math.inf
        self._opening: Step | None = None  # the newest picture of a start that is still being made
        self._seen: Step | None = None
        self._shown: Step | None = None  # the last frame, whose image is known to be finite
        self._logged: Mapping[str, float] = {}
        self._finished = False
        self._kept = list[Path]()
        self._missing = list[str]()  # what a full disk has cost
        self._home = os.stat(folder)
        self._reserve = Reserve(folder, job.size)
        self._began, self._clock = datetime.now(UTC), time.perf_counter()
        self.resumable = False  # set where checkpoints are made
        try:
            self._write_run("running")
            self._metrics = self._open_metrics()
        except BaseException:
            self._reserve.release()
            raise

    @property
    def shortage(self) -> str | None:
        """What is missing of a run whose disk was full, in one line; None where nothing is."""
        lost = ", ".join(self._missing)
        return f"no space left in {self.folder}: {lost} are missing; the picture is saved" if lost else None

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Write a checkpoint after a step: what the caller needs to go on, and what the record does.

        Raises ResourceError when it cannot be written; the ones before stay.
        """
        own = {"frames": len(self._kept), "wall_seconds": self._elapsed, "warnings": self.warnings}
        own |= {"missing": self._missing, "terms": {name: finite(value) for name, value in self._logged.items()}}
        checkpointing.write(self.folder / checkpointing.FOLDER, step, tensors, {**about, "record": own})

    def go_on(self, since: Checkpoint | None) -> None:
        """Before the first step: bring the folder of an interrupted run back to a checkpoint, None for its beginning.

        What was recorded after it is cut off, and the film is shown what it was shown until then: an encoder's stream
        cannot be taken up again. Raises ResourceError when the folder cannot be written.
        """
        clear(self.folder, but=self._reserve.is_at)
        checkpointing.forget(self.folder / checkpointing.FOLDER, -1 if since is None else since.step)
        self._metrics.close()
        _cut(self.folder / "metrics.jsonl", -1 if since is None else since.step)
        self._metrics = self._open_metrics()
        if since is None:
            shutil.rmtree(self.folder / "progress", ignore_errors=True)
            return
        own = since.about["record"]
        self._clock -= own["wall_seconds"]
        self.warnings += own["warnings"]
        self._missing += own["missing"]
        self._logged = {name: math.nan if value is None else value for name, value in own["terms"].items()}
        for path in sorted(path for path in self._frames.glob("*.png") if re.fullmatch(r"\d{6,9}", path.stem)):
            if int(path.stem) > since.step or path.is_symlink():
                path.unlink(missing_ok=True)
            elif self._reshow(path):
                self._kept.append(path)
            else:
                path.unlink(missing_ok=True)
        if len(self._kept) < own["frames"]:
            self.warnings.append(f"{own['frames'] - len(self._kept)} frames from before step {since.step} are gone")

    def _reshow(self, path: Path) -> bool:
        """Show the film a kept frame; False for one that cannot be read."""
        try:
            picture = images.read(path)
        except InputError:
            return False
        if self._formats:
            self._film = self._film or self._open_film(picture.size)
            self._film.show(np.asarray(picture), int(path.stem), self.job.steps)
        return True

    @property
    def _frames(self) -> Path:
        """Where frames are kept: for the user, or for a run that may have to go on."""
        return self.folder / ("progress" if self._keep else checkpointing.FOLDER)

    def _open_metrics(self) -> IO[str]:
        path = self.folder / "metrics.jsonl"
        try:
            return open(path, "a", encoding="utf-8")  # closed by finish
        except OSError as error:
            raise ResourceError(f"{path} cannot be written ({error.strerror})") from error

    @property
    def _elapsed(self) -> float:
        """Seconds since the run began, those before an interruption among them."""
        return round(time.perf_counter() - self._clock, 4)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        stopped = error is None or isinstance(error, self._stops)
        reason = {} if error is None else {"error": one_line(error)}
        try:
            self.finish(None, "interrupted" if stopped else "failed", reason)
        except Exception:
            if error is None:
                raise  # otherwise the first error says more

    def opening(self, step: Step) -> None:
        """Remember how far the start picture is, which stands in for a result where the run ends before its steps."""
        self._opening = step

    def step(self, step: Step) -> Mapping[str, float] | None:
        """Take note of one step; returns its terms as floats when it was logged (not finite ones too).

        Raises ResourceError when the folder is gone, or metrics.jsonl cannot be written for another reason than a full
        disk.
        """
        self._seen = step
        self._check_home()
        last = step.index == step.total
        scored = self._score is not None and self._score_every > 0 and (last or step.index % self._score_every == 0)
        terms = self._log(step, scored=scored) if scored or last or step.index % self._log_every == 0 else None
        # Without a film only a picture that is there already, which a denoiser's guess is not, is previewed.
        framed = bool(self._formats) or self._keep or "image" in vars(step)
        if last or (framed and self._plan.wants(step.index, step.total)):
            self._show(step, last=last)
        return terms

    def finish(self, result: Result | None, status: Status = "done", facts: Mapping[str, Any] | None = None) -> None:
        """Write final.png, close the video, then write run.json; without a result the last step stands in.

        Raises ResourceError when the folder is gone, or picture or run.json cannot be written; the files are closed
        all the same.
        """
        if self._finished:
            return
        self._finished = True
        more = dict(facts or {})
        try:
            image = self._picture(result)
            try:
                self._check_home()
            except ResourceError:
                self._abandon_film()  # or it would be put into whatever has the folder's name now
                raise
            try:
                self._save_picture(image)
            finally:
                self._close_film(image)
        except BaseException as error:
            status = "interrupted" if isinstance(error, self._stops) else "failed"
            more |= {"error": one_line(error)}
            raise
        finally:
            with suppress(OSError):  # a full disk was reported by the write that met it
                self._metrics.close()
            self._reserve.release()
            self._check_home()
            self._write_run(status, more | self._outcome(result))
        if status == "done":
            shutil.rmtree(self.folder / checkpointing.FOLDER, ignore_errors=True)

    def discard(self) -> None:
        """Close every file without a last word; whoever calls this removes the folder."""
        self._finished = True
        with suppress(OSError):
            self._metrics.close()
        if self._video is not None:
            self._video.close()
        self._reserve.release()

    def _log(self, step: Step, *, scored: bool) -> Mapping[str, float]:
        """Append a line to metrics.jsonl; JSON has no NaN, so that a number that is not finite becomes null."""
        names = list(step.terms)
        values = torch.stack([step.terms[name].float() for name in names]).tolist() if names else []  # device sync
        terms = dict(zip(names, values, strict=True))
        line: dict[str, Any] = {
            "step": step.index,
            "seconds": self._elapsed,
            "total": finite(sum(values)),
            "terms": {name: finite(value) for name, value in terms.items()},
        }
        if scored and self._score is not None:
            line["judge"] = {name: finite(value) for name, value in self._score(step.image).items()}
        self._logged = terms
        self._write_line(to_json(line) + "\n", step.index)
        return terms

    def _write_line(self, line: str, step: int) -> None:
        """Append to metrics.jsonl. On a full disk kept frames go, and without any the rest of the metrics."""
        if self._metrics.closed:
            return
        try:
            self._metrics.write(line)
            self._metrics.flush()
            return
        except OSError as error:
            if error.errno not in FULL:
                raise ResourceError(f"{self.folder / 'metrics.jsonl'} cannot be written ({error.strerror})") from error
        while self._free_frames():
            with suppress(OSError):
                self._metrics.flush()  # what did not fit is still there
                return
        self._miss(f"metrics from step {step}")
        with suppress(OSError):
            self._metrics.close()

    def _free_frames(self) -> bool:
        """Drop the last of the kept frames; False when there are none."""
        if not self._kept:
            return False
        gone, self._kept = self._kept[-FREED:], self._kept[:-FREED]
        for path in gone:
            path.unlink(missing_ok=True)
        self._showing = False
        self._missing = [each for each in self._missing if not each.startswith("frames")]
        self._miss(f"frames from step {int(gone[0].stem)}")
        return True

    def _miss(self, what: str) -> None:
        """Remember, once, what a full disk has cost."""
        if what not in self._missing:
            self._missing.append(what)

    def _check_home(self) -> None:
        """Raise ResourceError where the folder is not there any more: what is written to it would be lost."""
        try:
            there = os.path.samestat(os.stat(self.folder), self._home)
        except OSError:
            there = False
        if not there:
            raise ResourceError(f"{self.folder} was moved or deleted during the run; nothing more can be kept")

    def _show(self, step: Step, *, last: bool) -> None:
        """Make the step a frame: video, kept frame, preview. An image with NaN is none."""
        try:
            picture = images.to_pil(step.image)
        except ValueError:
            return
        self._shown = step
        if not self._showing:
            return
        now = time.perf_counter()
        preview = last or now - self._latest >= LATEST_EVERY
        try:
            if self._formats:
                self._film = self._film or self._open_film(picture.size)
                self._film.show(np.asarray(picture), step.index, step.total)
            stored = self._keep or (self.resumable and bool(self._formats))
            if stored or preview:
                png = images.to_png(picture, compress_level=1)
            if stored:
                self._frames.mkdir(exist_ok=True)
                images.replace_file(self._frames / f"{step.index:06d}.png", png, durable=False)
                self._kept.append(self._frames / f"{step.index:06d}.png")
            if preview:
                (self.folder / "progress").mkdir(exist_ok=True)
                images.replace_file(self.folder / "progress" / "latest.png", png, durable=False)
                self._latest = now
        except OSError as error:
            self._showing = False
            self.warnings.append(f"no frames after step {step.index}: {error.strerror or error}")
            if error.errno in FULL:
                self._miss(f"frames from step {step.index}")

    def _open_film(self, size: tuple[int, int]) -> Film:
        self._video = video.VideoWriter(
            self.folder / "progress.mp4", size, self._plan.fps, json.loads(self._texts()[containers.KEY]),
            title=self.job.title, scale=self._scale,
        )  # fmt: skip
        return Film(self._plan, self._video.append)

    def _abandon_film(self) -> None:
        """End the encoder and leave no film."""
        if self._video is not None:
            self._video.abandon()
        self._film = None

    def _close_film(self, image: torch.Tensor | None) -> None:
        """Finish the video and make what else was asked for from it; problems become warnings."""
        if self._film is None or self._video is None:
            return
        known = image is not None and bool(torch.isfinite(image).all())
        final = images.to_pil(image) if image is not None and known else None
        self._film.end(None if final is None else np.asarray(final))
        made = self._video.close(final, seekable=not self._missing)
        if self._video.problem:
            self.warnings.append(self._video.problem)
        if self._video.full:
            self._miss("frames of the film")
        for form in self._formats if made and not self._video.full else ():
            if made and form != "mp4":
                try:
                    video.animate(made, self.folder / f"progress.{form}", self._texts())
                except (video.EncoderError, ValueError) as error:
                    self.warnings.append(f"no progress.{form}: {error}")
        if made and "mp4" not in self._formats:
            made.unlink(missing_ok=True)

    def _picture(self, result: Result | None) -> torch.Tensor | None:
        """The result's image, else that of the last step that was finite, else the start so far; None without any."""
        if result is not None:
            return result.image
        for step in (self._seen, self._shown) if self._seen else (self._opening,):
            if step is not None and bool(torch.isfinite(step.image).all()):
                return step.image
        return None

    def _save_picture(self, image: torch.Tensor | None) -> None:
        """Write final.png with its texts; nothing without an image."""
        if image is None:
            return
        data = images.to_png(image, self._texts())
        try:
            write_bytes(self.folder / "final.png", data)
        except ResourceError:
            self._reserve.release()
            while self._free_frames():
                pass
            write_bytes(self.folder / "final.png", data)

    def _texts(self) -> dict[str, str]:
        """What picture and films carry."""
        return metadata.embed(job=self.job, **self.recipe)

    def _outcome(self, result: Result | None) -> dict[str, Any]:
        """What there is to say once the run is over."""
        terms = result.terms if result else self._logged
        return {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(result.seconds, 4) if result else None,  # the backend's own
            "wall_seconds": self._elapsed,  # with frames, video and judge
            "steps": result.steps if result else self._seen.index if self._seen else None,
            "terms": {name: finite(value) for name, value in terms.items()},
            "verdict": asdict(result.verdict) if result and result.verdict else None,
            "warnings": self.warnings,
            "outputs": hashes(self.folder),
        }

    def _write_run(self, status: Status, more: Mapping[str, Any] | None = None) -> None:
        """Replace run.json."""
        started = self._began.isoformat(timespec="seconds")
        about: dict[str, Any] = {"schema": SCHEMA, "status": status, "started": started}
        about |= {"process": presence.process()} if status == "running" else {}
        write_json(self.folder / "run.json", about | {"job": described(self.job)} | self._facts | dict(more or {}))


def clear(folder: Path, *, but: Callable[[Path], bool] = lambda _: False) -> None:
    """Remove what a killed process has left in a run folder, `but` what is still of use."""
    for path in (path for pattern in LEFT_BEHIND for path in folder.glob(pattern) if not but(path)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _cut(path: Path, step: int) -> None:
    """Leave the lines of metrics.jsonl up to a step; one that was not written to its end goes too."""
    kept = []
    with suppress(FileNotFoundError), open(path, encoding="utf-8", newline="") as lines:
        for line in lines:
            try:
                if not line.endswith("\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(line)
    write_text(path, "".join(kept))
