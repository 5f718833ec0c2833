"""Writes down one picture while it is made: metrics, frames, video, the final picture and run.json.

Reads the numbers of a step in one transfer. Never takes part in the run: it neither judges numbers that
are not finite nor ends a run because frames or the video fail.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import torch

from vqclip import images
from vqclip.job import Job, ResourceError, Result, Step
from vqclip.record import containers, metadata, video
from vqclip.record.facts import described, finite, hashes, one_line
from vqclip.record.film import Film
from vqclip.record.folder import to_json, write_bytes, write_json
from vqclip.record.pace import VideoPlan

Status = Literal["running", "done", "interrupted", "failed"]
Score = Callable[[torch.Tensor], Mapping[str, float]]

SCHEMA: Final = 1  # of run.json
LATEST_EVERY: Final = 0.25  # seconds between two previews


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
        self._began, self._clock = datetime.now(UTC), time.perf_counter()
        self._write_run("running")
        try:
            self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115  # closed by finish
        except OSError as error:
            raise ResourceError(f"{folder / 'metrics.jsonl'} cannot be written ({error.strerror})") from error

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

        Raises ResourceError when metrics.jsonl cannot be written.
        """
        self._seen = step
        last = step.index == step.total
        scored = self._score is not None and self._score_every > 0 and (last or step.index % self._score_every == 0)
        terms = self._log(step, scored=scored) if scored or last or step.index % self._log_every == 0 else None
        # Without a film only a picture that is there already, which a denoiser's guess is not, is previewed.
        framed = bool(self._formats) or self._keep or "image" in vars(step)
        if last or (framed and self._plan.wants(step.index, step.total)):
            self._show(step, last=last)
        return terms

    def finish(self, result: Result | None, status: Status = "done", facts: Mapping[str, Any] | None = None) -> None:
        """Close the video, write final.png, then run.json; without a result the last step stands in.

        Raises ResourceError when picture or run.json cannot be written; the files are closed all the same.
        """
        if self._finished:
            return
        self._finished = True
        more = dict(facts or {})
        try:
            image = self._picture(result)
            self._close_film(image)
            self._save_picture(image)
        except BaseException as error:
            status = "interrupted" if isinstance(error, self._stops) else "failed"
            more |= {"error": one_line(error)}
            raise
        finally:
            with suppress(OSError):  # a full disk was reported by the write that met it
                self._metrics.close()
            self._write_run(status, more | self._outcome(result))

    def _log(self, step: Step, *, scored: bool) -> Mapping[str, float]:
        """Append a line to metrics.jsonl; JSON has no NaN, so that a number that is not finite becomes null."""
        names = list(step.terms)
        values = torch.stack([step.terms[name].float() for name in names]).tolist() if names else []  # device sync
        terms = dict(zip(names, values, strict=True))
        line: dict[str, Any] = {
            "step": step.index,
            "seconds": round(time.perf_counter() - self._clock, 4),
            "total": finite(sum(values)),
            "terms": {name: finite(value) for name, value in terms.items()},
        }
        if scored and self._score is not None:
            line["judge"] = {name: finite(value) for name, value in self._score(step.image).items()}
        try:
            self._metrics.write(to_json(line) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise ResourceError(f"{self.folder / 'metrics.jsonl'} cannot be written ({error.strerror})") from error
        self._logged = terms
        return terms

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
            if self._keep or preview:
                place = self.folder / "progress"
                place.mkdir(exist_ok=True)
                png = images.to_png(picture, compress_level=1)
                if self._keep:
                    images.replace_file(place / f"{step.index:06d}.png", png, durable=False)
                if preview:
                    images.replace_file(place / "latest.png", png, durable=False)
                    self._latest = now
        except OSError as error:
            self._showing = False
            self.warnings.append(f"no frames after step {step.index}: {error.strerror or error}")

    def _open_film(self, size: tuple[int, int]) -> Film:
        self._video = video.VideoWriter(
            self.folder / "progress.mp4", size, self._plan.fps, json.loads(self._texts()[containers.KEY]),
            title=self.job.title, scale=self._scale,
        )  # fmt: skip
        return Film(self._plan, self._video.append)

    def _close_film(self, image: torch.Tensor | None) -> None:
        """Finish the video and make what else was asked for from it; problems become warnings."""
        if self._film is None or self._video is None:
            return
        known = image is not None and bool(torch.isfinite(image).all())
        final = images.to_pil(image) if image is not None and known else None
        self._film.end(None if final is None else np.asarray(final))
        made = self._video.close(final)
        if self._video.problem:
            self.warnings.append(self._video.problem)
        for form in self._formats if made else ():
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
        if image is not None:
            write_bytes(self.folder / "final.png", images.to_png(image, self._texts()))

    def _texts(self) -> dict[str, str]:
        """What picture and films carry."""
        return metadata.embed(job=self.job, **self.recipe)

    def _outcome(self, result: Result | None) -> dict[str, Any]:
        """What there is to say once the run is over."""
        terms = result.terms if result else self._logged
        return {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(result.seconds, 4) if result else None,  # the backend's own
            "wall_seconds": round(time.perf_counter() - self._clock, 4),  # with frames, video and judge
            "steps": result.steps if result else self._seen.index if self._seen else None,
            "terms": {name: finite(value) for name, value in terms.items()},
            "verdict": asdict(result.verdict) if result and result.verdict else None,
            "warnings": self.warnings,
            "outputs": hashes(self.folder),
        }

    def _write_run(self, status: Status, more: Mapping[str, Any] | None = None) -> None:
        """Replace run.json."""
        about = {"schema": SCHEMA, "status": status, "started": self._began.isoformat(timespec="seconds")}
        write_json(self.folder / "run.json", about | {"job": described(self.job)} | self._facts | dict(more or {}))
