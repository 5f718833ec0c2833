"""Does it work here? Checks of this machine, one after the other: each tells a fact, or what to do.

Fetches nothing and leaves nothing behind. Published weights are tried by `rehearsal`. What a check needs is imported
inside it, so that a package which is missing fails the checks that need it and no others.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vqclip import __version__
from vqclip.job import InputError, ResourceError, WeightsError
from vqclip.run import cores

# Package: the version that the tests ran with (requirements.txt), and those that should also work (pyproject.toml).
PACKAGES = {
    "torch": ("2.12.1", ">=2.11,<3"),
    "torchvision": ("0.27.1", ">=0.26"),
    "numpy": ("2.4.6", ">=1.26"),
    "pillow": ("13.0.0", ">=12"),
    "openai-clip": ("1.0.1", ">=1.0.1"),
    "setuptools": ("81.0.0", ">=75,<82"),
    "packaging": ("26.3", ""),
    "ftfy": ("6.3.1", ""),
    "taming-transformers": ("0.0.1", ">=0.0.1"),
    "kornia": ("0.9.0", ">=0.9,<0.10"),
    "diffusers": ("0.42.1", ">=0.40"),
    "transformers": ("5.23.0", ">=5"),
    "accelerate": ("1.15.0", ">=1"),
    "huggingface_hub": ("2.4.0", ">=1"),
    "jinja2": ("3.1.6", ">=3.1"),
    "imageio": ("2.38.1", ">=2.38"),
    "imageio-ffmpeg": ("0.8.1", ""),
    "omegaconf": ("2.4.0", ">=2.4"),
    "PyYAML": ("6.0.3", ">=6"),
    "scipy": ("1.17.1", ">=1.15"),
    "safetensors": ("0.8.0", ">=0.8"),
    "platformdirs": ("4.14.5", ">=4"),
    "filelock": ("4.2.11", ">=3.20"),
    "click": ("8.5.1", ">=8.2"),
    "rich": ("15.0.0", ">=14"),
}
_LEAST_MEMORY = 1_000_000_000  # bytes: what the quickstart takes
_LEAST_DISK = 100_000_000  # bytes; less holds not even the smallest weights
_ERRORS = (InputError, WeightsError, ResourceError)


@dataclass(frozen=True)
class Check:
    """`look` returns a fact, or raises an error whose message says what to do."""

    name: str
    look: Callable[[], str]


@dataclass(frozen=True)
class Finding:
    """What a check gave: the fact, or with `problem` the error's message; and the seconds it took."""

    name: str
    said: str
    seconds: float
    problem: Exception | None = None


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Make every check, whatever the ones before gave."""
    for check in checks:
        begun = time.perf_counter()
        problem: Exception | None = None
        try:
            said = check.look()
        except ImportError as error:
            problem = InputError(f"{error}; the line on packages says what to install")
            said = str(problem)
        except Exception as error:  # what a machine or a file does that nobody has seen is what this looks for
            problem, said = error, _message(error)
        yield Finding(check.name, said, time.perf_counter() - begun, problem)


def fault(findings: Sequence[Finding]) -> Exception | None:
    """What a command ends with after these findings: the first error's kind over all names, None if all are fine.

    An error that no user should meet is returned as it is.
    """
    failed = [each for each in findings if each.problem is not None]
    if not failed:
        return None
    for each in failed:
        if not isinstance(each.problem, _ERRORS):
            return each.problem
    kind = next(kind for kind in _ERRORS if isinstance(failed[0].problem, kind))
    return kind(f"{len(failed)} of {len(findings)} checks failed: {', '.join(each.name for each in failed)}")


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, _ERRORS) else f"{type(error).__name__}: {text[:300]}"


def checks() -> list[Check]:
    """Those of the machine, the quick ones first."""
    return [
        Check("system", system),
        Check("packages", packages),
        Check("device", device),
        Check("precision", precision),
        Check("memory", memory),
        Check("threads", threads),
        Check("video", encoder),
        Check("store", weight_store),
        Check("catalogue", cached),
        Check("diffusion", diffusion),
        Check("starter", starter),
    ]


def system() -> str:
    """This program, its interpreter and the system."""
    return f"vqclip {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def packages() -> str:
    """Whether what is installed is what the tests ran with, or at least what should work.

    Raises:
        InputError: a package is missing or of a version that is not supported.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    wrong, other = [], []
    for name, (tested, allowed) in PACKAGES.items():
        try:
            found = Version(version(name))
        except PackageNotFoundError:
            wrong.append(f"{name} is missing ({tested})")
            continue
        if not SpecifierSet(allowed, prereleases=True).contains(found.public):
            wrong.append(f"{name} is {found} ({allowed})")
        elif found.public != tested:
            other.append(f"{name} {found} ({tested})")
    if wrong:
        raise InputError(f"{', '.join(wrong)}; `pip install -r requirements.txt` has what is needed")
    return f"{len(PACKAGES)} as tested" if not other else f"work, others were tested: {', '.join(other)}"


def device(root: Path = Path("/")) -> str:
    """What `device: auto` takes, and why; an accelerator has to compute something.

    Args:
        root: where /proc lies.

    Raises:
        InputError: an accelerator is there and cannot be used.
    """
    import torch

    from vqclip.run.device import pick_device

    with warnings.catch_warnings(record=True) as heard:  # why a driver did not start, torch only warns
        warnings.simplefilter("always")
        chosen = pick_device("auto")
    if chosen.type == "cpu":
        return _no_accelerator(root, [str(each.message) for each in heard])
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else platform.processor()
    try:
        ones = torch.ones(8, 8, device=chosen)
        total = float((ones @ ones).sum())
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{chosen} ({name}) is found and cannot compute ({said}); device=cpu does without") from error
    if total != 512:
        raise InputError(f"{chosen} ({name}) computes 8x8x8 = {total:g}; device=cpu does without")
    return f"{chosen}: {name}"


def _no_accelerator(root: Path, heard: Sequence[str]) -> str:
    """Why it is the CPU."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        cuda = "this torch is built without CUDA"
    else:
        cuda = " ".join(heard[0].split())[:160] if heard else "no CUDA device is found"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        cuda = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, {cuda}"
    elif (root / "proc/driver/nvidia/version").exists():
        raise InputError(f"an NVIDIA driver is here, but {cuda}; install the torch that pytorch.org names for it")
    mps = "MPS is not taken" if torch.backends.mps.is_available() else "no MPS (Apple's)"
    return f"cpu: {cuda}, {mps}"


def precision() -> str:
    """What `precision: auto` takes."""
    import torch

    from vqclip.run.device import pick_device, pick_dtype

    chosen = pick_device("auto")
    if pick_dtype("auto", chosen) == torch.bfloat16:
        return f"bfloat16, which this {chosen.type} computes natively"
    return f"float32, for this {chosen.type} does not compute bfloat16 natively"


def memory() -> str:
    """How much is free, in RAM and on the device.

    Raises:
        ResourceError: too little for the starter models.
    """
    import torch

    from vqclip.run.device import pick_device
    from vqclip.run.memory import available, gigabytes

    chosen = pick_device("auto")
    rooms = {"in RAM": available(torch.device("cpu"))}
    if chosen.type == "cuda":
        rooms[f"on {chosen}"] = available(chosen)
    for where, room in rooms.items():
        if room is not None and room < _LEAST_MEMORY:
            raise ResourceError(
                f"{gigabytes(room)} free {where}; the starter models take {gigabytes(_LEAST_MEMORY)}, full-size ones "
                "more; close other programs"
            )
    parts = [f"{gigabytes(room)} free {where}" for where, room in rooms.items() if room is not None]
    return ", ".join(parts) or "this system does not say how much is free"


def threads() -> str:
    """Cores that this process may use, and what the environment says about them."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    parts = [f"{name} is {os.environ[name]}" for name in names if name in os.environ]
    return ", ".join([f"{cores.usable()} cores for this process", *parts])


def encoder() -> str:
    """The video encoder, after it has encoded something.

    Raises:
        InputError: there is none, or it does not work.
    """
    from vqclip.record import video

    problem = video.probe()
    if problem is not None:
        raise InputError(
            f"{problem}; `pip install imageio-ffmpeg`, or IMAGEIO_FFMPEG_EXE with the path of an ffmpeg that has "
            "libx264; runs without a film work"
        )
    return f"H.264 by {video.encoder()}"


def weight_store() -> str:
    """Where fetched weights go, whether it can be written, and how much fits.

    Raises:
        ResourceError: it cannot be written, or is full.
    """
    from vqclip.run.memory import gigabytes
    from vqclip.weights import store

    home = store.home().absolute()
    there = next(each for each in (home, *home.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"vqclip")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"{home} cannot be written ({reason}); set VQCLIP_HOME to a folder that can") from error
    free = shutil.disk_usage(there).free
    if free < _LEAST_DISK:
        raise ResourceError(f"{home} has {gigabytes(free)} left; make room, or set VQCLIP_HOME to another disk")
    fetching = ", offline: nothing is fetched" if store.is_offline() else ""
    return f"{home}, {gigabytes(free)} free{fetching}"


def cached() -> str:
    """What of the catalogue is on this machine; by size, `vqclip models verify` reads the files.

    Raises:
        WeightsError: a file is damaged, or the list of pins is.
    """
    from vqclip.weights import catalogue, store

    states: dict[str, list[str]] = {}
    for entry in catalogue.entries().values():
        states.setdefault(store.status(entry).state, []).append(entry.name)
    damaged = states.get("damaged", [])
    if damaged:
        raise WeightsError(f"damaged: {', '.join(damaged)}; `vqclip models get {' '.join(damaged)}` fetches anew")
    here = [*states.get("here", []), *states.get("shared", [])]
    parts = [f"here: {', '.join(here) or 'none'}"]
    if begun := states.get("partial"):
        parts.append(f"begun: {', '.join(begun)}")
    missing = len(states.get("missing", []))
    return ", ".join([*parts, f"{missing} that `vqclip models get NAME` fetches"])


def diffusion() -> str:
    """Which of the big pipelines are on this machine; neither is fetched by this command."""
    from vqclip.backends.kandinsky import files as kandinsky_files
    from vqclip.backends.stable_diffusion import layout as stable_diffusion_layout

    here = [part for part in kandinsky_files.HUB if kandinsky_files.is_here(part)]
    file = Path("weights") / stable_diffusion_layout.FILE
    found = f"{file} is here" if file.is_file() else f"no {file} in this folder"
    return f"Kandinsky 2.2: {', '.join(here) or 'nothing'} of it is here; Stable Diffusion 1.5: {found}"


def starter() -> str:
    """Two steps of the starter models as `run` makes them, judged, with film and page, in a folder that goes again.

    Raises:
        InputError, WeightsError, ResourceError: as a run.
    """
    from vqclip import config
    from vqclip.run import picture as runner
    from vqclip.run.progress import Silent

    with tempfile.TemporaryDirectory(prefix="vqclip-doctor-") as folder:
        settings = ["include=a red apple", "steps=2", "size=64,64", "tries=1", "crops.count=4", f"outputs={folder}"]
        loaded = config.load(None, settings)
        display = Silent()
        models = runner.open_run(loaded, display)
        try:
            (result,) = runner.run(loaded, display, models)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # without the name of a folder that is gone
        filmed = result.folder is not None and (result.folder / "progress.mp4").is_file()
    if result.verdict is None:
        raise WeightsError("the starter judge has no verdict on 'a red apple'; reinstall vqclip")
    facts = models.facts
    where = f"{facts['device']}, {facts['precision']}, threads {facts['threads']}"
    return f"2 steps at 64x64 on {where}; judged, {'filmed' if filmed else 'without a film'}"
