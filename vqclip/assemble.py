"""From a config to loaded models: device and precision, backend, judge, and what is known of them."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from vqclip import __version__
from vqclip.backends import Backend
from vqclip.compare.judge import Judge
from vqclip.compare.rivals import COUNT, rivals
from vqclip.config import Config
from vqclip.cores import physical
from vqclip.exact import hardware
from vqclip.inputs import check, digests
from vqclip.job import InputError, Job
from vqclip.makers import make
from vqclip.models import Perceptor
from vqclip.models.likeness import alike, sketch
from vqclip.models.weights import Weights, load
from vqclip.perceptors import locate, perceptor
from vqclip.place import Made, Place
from vqclip.starter.reading import Read, notices

PACKAGES = (
    "vqclip", "torch", "openai-clip", "taming-transformers", "kornia", "diffusers", "transformers", "numpy", "pillow",
    "torchvision", "imageio-ffmpeg",
)  # fmt: skip


@dataclass(frozen=True)
class Studio:
    """The models of a config, loaded once, and what is known about them."""

    backend: Backend
    judge: Perceptor | None
    judge_name: str
    self_scored: bool
    facts: Mapping[str, Any]
    note: Once
    readers: tuple[Read, ...] = ()

    def notices(self, job: Job) -> list[str]:
        """What the user should know of how the job's texts are read by guides and judge, see `notices`."""
        judges = () if self.judge is None else (self.judge.read,)
        return notices(job, {"guide": self.readers, "judge": judges})

    def judge_of(self, job: Job) -> Judge | None:
        """The judge of a job's prompts, None when the config names no judge."""
        if self.judge is None:
            return None
        return judge_for(job, self.judge, self.judge_name, self_scored=self.self_scored, aside=self.note.aside())


class Once:
    """Says each message once, for guides and judge read the same prompts, and nothing of what is read aside."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._said, self._silent = note, set[str](), False

    def __call__(self, message: str) -> None:
        if not self._silent and message not in self._said:
            self._said.add(message)
            self._note(message)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Say nothing in this block: what is read are texts that nobody wrote."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False


def judge_for(
    job: Job, eye: Perceptor, name: str, *, self_scored: bool = False, aside: AbstractContextManager[None] | None = None
) -> Judge:
    """A judge of a job's prompts who looks with `eye`; includes that have no weight are not asked for.

    `aside` is entered while texts are read that nobody wrote.
    """
    include = [prompt.text for prompt in job.include if prompt.weight > 0] or [prompt.text for prompt in job.include]
    shares = [(COUNT + place) // len(include) for place in range(len(include))]  # COUNT in all
    return Judge(
        eye,
        name,
        include,
        rivals=[rivals(eye.read(text).text, count=max(1, share)) for text, share in zip(include, shares, strict=True)],
        exclude=[prompt.text for prompt in job.exclude],
        self_scored=self_scored,
        aside=aside,
    )


def open_judge(config: Config, note: Callable[[str], None]) -> tuple[Callable[[Job], Judge | None], str, str]:
    """Load a config's judge alone: what makes a judge for a job, its file's SHA-256 and its tensors' sketch."""
    if config.judge is None:
        raise InputError("judge: none; a comparison needs one, for example judge=starter")
    torch.set_num_threads(pick_threads(config))  # scores are the same whichever variant was made before
    device = pick_device(config.device)
    file = load(locate(config.judge, "judge", note))
    note = note if isinstance(note, Once) else Once(note)
    place = Place(device, pick_dtype(config.precision, device), config.too_long, note)
    eye = perceptor(config.judge, file, place)

    def judge_of(job: Job) -> Judge:
        judge = judge_for(job, eye, file.name, aside=note.aside())
        for message in judge.notes:
            note(message)
        return judge

    return judge_of, file.sha256, sketch(file.state)


def open_studio(config: Config, note: Callable[[str], None] = warnings.warn) -> Studio:
    """Load the models that a config names and put them on its device; `note` takes warnings, each once.

    What can be seen before is refused before, see `inputs.check`.
    """
    note = note if isinstance(note, Once) else Once(note)
    check(config, note)
    torch.set_num_threads(pick_threads(config))
    device = pick_device(config.device)
    dtype = pick_dtype(config.precision, device)

    place = Place(device, dtype, config.too_long, note)
    judge_path = locate(config.judge, "judge", note) if config.judge else None
    made = make(config, place, [judge_path] if judge_path else [])
    judge_file = load(judge_path) if judge_path else None
    return Studio(
        made.backend,
        perceptor(str(config.judge), judge_file, place) if judge_file else None,
        judge_file.name if judge_file else "",
        judge_file is not None and _steered(judge_file, made),
        {
            "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
            "weights": {**made.hashes} | ({"judge": judge_file.sha256} if judge_file else {}),
            "eyes": {**made.eyes} | ({"judge": sketch(judge_file.state)} if judge_file else {}),
            "models": [*made.models, *([judge_file.name] if judge_file else [])],
            "device": str(device),
            "precision": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "files": digests(config),
            **hardware(device),
        },
        note,
        made.readers,
    )


def _steered(judge: Weights, made: Made) -> bool:
    """Whether a judge is one of the CLIPs behind a backend, as this very file or saved again."""
    eye = sketch(judge.state)
    return judge.sha256 in made.hashes.values() or any(alike(eye, each) for each in made.eyes.values())


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # vqclip itself, run from a checkout that is not installed
        return f"{__version__}+checkout"


def pick_threads(config: Config) -> int:
    """CPU threads of a run: as asked for, else as many as pay, whatever the environment says.

    The models that ship are so small that threads wait for each other as long as they save, and where something else
    has one of the cores much longer; any others get every physical core.
    """
    steering = (config.generator, *(guide.model for guide in config.guides), config.denoiser.model)
    parts = {
        "vqgan": steering,
        "kandinsky": (config.kandinsky.prior, config.kandinsky.decoder, config.kandinsky.inpaint or "starter"),
        "stable-diffusion": ("",),
    }
    named = [part for backend in {config.backend, config.start.backend or config.backend} for part in parts[backend]]
    small = all(part.split("/")[0] in ("starter", "auto", "none") for part in named)
    return config.threads or (1 if small else physical())


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
