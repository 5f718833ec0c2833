"""From a config to loaded models: device and precision, generator, guides, judge, and what is known of them."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vqclip import images
from vqclip.backends.vqgan import Recipe, VQGANBackend
from vqclip.compare.judge import Judge, distractors
from vqclip.config import Config
from vqclip.crops import CropSpec
from vqclip.job import InputError, Job
from vqclip.models import Perceptor, catalogue, clip, open_clip, vqgan
from vqclip.models.weights import Weights, find, load
from vqclip.preflight import check_files

PACKAGES = ("vqclip", "torch", "openai-clip", "taming-transformers", "kornia", "numpy", "pillow", "imageio-ffmpeg")


@dataclass(frozen=True)
class Studio:
    """The models of a config, loaded once, and what is known about them."""

    backend: VQGANBackend
    judge: Perceptor | None
    judge_name: str
    self_scored: bool
    facts: Mapping[str, Any]

    def judge_of(self, job: Job) -> Judge | None:
        """The judge of a job's prompts, None when the config names no judge."""
        if self.judge is None:
            return None
        against = [prompt.text for prompt in job.exclude]
        rivals = distractors(job.title)
        return Judge(
            self.judge, self.judge_name, job.title, exclude=against, distractors=rivals, self_scored=self.self_scored
        )


def open_studio(config: Config, note: Callable[[str], None] = warnings.warn) -> Studio:
    """Load the models that a config names and put them on its device; `note` takes warnings, each once."""
    note = _once(note)
    torch.set_num_threads(config.threads or _cores())
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)

    def perceptor(name: str, weights: Weights) -> Perceptor:
        named = _open_clip_name(name)
        if named is not None:
            net = open_clip.build(weights.state, model=named.model, tag=named.tag)
            return open_clip.OpenClipPerceptor(
                net, model=named.model, device=device, dtype=dtype, too_long=config.too_long, notice=note
            )
        ids = weights.state.get("token_ids")
        return clip.ClipPerceptor(
            clip.build(weights.state), device=device, dtype=dtype, token_ids=ids, too_long=config.too_long, notice=note
        )

    guide_paths = [_locate(guide.model, "guide", note) for guide in config.guides]
    judge_path = _locate(config.judge, "judge", note) if config.judge else None
    generator_path = _locate(config.generator, "generator", note)
    check_files([generator_path, *guide_paths, *([judge_path] if judge_path else [])], device)
    files = [load(path) for path in guide_paths]
    judge_file = load(judge_path) if judge_path else None
    made_by = load(generator_path)
    network = vqgan.build(made_by.state, groups=vqgan.groups_of(made_by.metadata))
    generator = vqgan.VQGAN(network, device=device, dtype=dtype, pull=config.optimizer.pull)
    recipe = _recipe(config, generator)
    guides = [perceptor(guide.model, file) for guide, file in zip(config.guides, files, strict=True)]
    backend = VQGANBackend(generator, guides, [guide.weight for guide in config.guides], recipe=recipe)
    hashes = {f"guide {i}": file.sha256 for i, file in enumerate(files)} | {"generator": made_by.sha256}
    return Studio(
        backend,
        perceptor(str(config.judge), judge_file) if judge_file else None,
        judge_file.name if judge_file else "",
        judge_file is not None and judge_file.sha256 in hashes.values(),
        {
            "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "weights": hashes | ({"judge": judge_file.sha256} if judge_file else {}),
            "models": [f.name for f in (made_by, *files, *([judge_file] if judge_file else []))],
            "device": str(device),
            "precision": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        },
    )


def _locate(name: str, role: str, note: Callable[[str], None]) -> Path:
    """The weight file that a config value names; what has to be fetched for it is noted at every tenth."""

    def fetched(done: int, total: int | None) -> None:
        if total:
            note(f"{name}: {10 * (10 * done // total)} % of {total / 1e6:.0f} MB fetched")

    named = _open_clip_name(name)
    return find(named.path if named is not None and named.path else name, role=role, on_progress=fetched)


def _open_clip_name(name: str) -> open_clip.Named | None:
    """Architecture and tag when the value names an open_clip model: by prefix, or by its catalogue name."""
    if name.startswith(open_clip.PREFIX):
        return open_clip.parse(name)
    if name.startswith("starter") or Path(name).is_file():
        return None
    try:
        entry = catalogue.entry(name)
    except InputError:  # a path that does not exist, or a typo: `find` says so
        return None
    return open_clip.Named(entry.extra["model"], entry.extra["tag"], "") if entry.kind == "open_clip" else None


def _cores() -> int:
    """Cores this process may use: the number of threads is part of a result, so the environment has no say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """Guides and judge read the same prompts; what they have in common to say is said once."""
    said: set[str] = set()

    def say(message: str) -> None:
        if message not in said:
            said.add(message)
            note(message)

    return say


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # vqclip itself, run from a checkout that is not installed
        return "checkout"


def _recipe(config: Config, generator: vqgan.VQGAN) -> Recipe:
    start, rates, weights = config.start, config.optimizer, config.losses
    if start.kind == "image" and start.image is None:
        raise InputError("start.image: kind 'image' needs the path of a picture")
    generator.grid(config.size)
    picture = images.fit(images.read(Path(start.image)), config.size) if start.image else None
    return Recipe(
        crops=CropSpec(**asdict(config.crops)),
        start=start.kind,
        cells=start.cells,
        contrast=start.contrast,
        image=None if picture is None else images.from_pil(picture),
        optimizer=rates.name,
        rate=rates.lr,
        rate_end=rates.lr_end,
        weight_decay=rates.weight_decay,
        average=config.average,
        **asdict(weights),
    )


def pick_device(wanted: str) -> torch.device:
    """The device of a config value: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: the device does not exist here; there is no silent fallback to the CPU.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(wanted.split(":")[0], False):
        raise InputError(f"device: {wanted!r} is not available here; allowed: auto, cpu")
    return torch.device(wanted)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 where "auto" finds hardware that computes it natively, else float32."""
    native = {
        "cpu": bool(torch.cpu.get_capabilities().get("avx512_bf16")) if device.type == "cpu" else False,
        "cuda": device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0),
    }
    half = wanted == "bf16" or (wanted == "auto" and native.get(device.type, False))
    return torch.bfloat16 if half else torch.float32
