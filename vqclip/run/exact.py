"""What decides the last bits of a picture beside its recipe: device, precision, threads, versions. Loads no model."""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")

# Of the recorded versions those that cannot show in pixels: what runs the code, and what writes films.
UNSEEN = ("python", "imageio-ffmpeg")
_UNDETERMINED = re.compile(r"(?s)(\S+) does not have a deterministic implementation|.*not deterministic.* uses CuBLAS")


def hardware(device: torch.device) -> dict[str, str]:
    """What run.json says of the machine: the name of the device, and the instructions that torch's CPU kernels use."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device_name": name, "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def _processor() -> str:
    """The name of the CPU; where the system has none, its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a picture says of the machine that made it, out of the facts of a run: texts by name."""
    names = ("device", "device_name", "cpu_capability", "precision", "threads")
    return {name: str(facts[name]) for name in names if name in facts}


def differences(
    then: Mapping[str, str], now: Mapping[str, str], versions: Mapping[str, str], versions_now: Mapping[str, str]
) -> str | None:
    """One line on everything that may change the pixels of a repeated run, None where nothing does.

    Args:
        then: `machine` as the picture says it, empty in pictures that say nothing.
        now: that of this run.
        versions: package -> version as the picture says it.
        versions_now: package -> version here.
    """
    pairs = {
        "device": (_device(then), _device(now)),
        "CPU instructions": (then.get("cpu_capability"), now.get("cpu_capability")),
        "precision": (then.get("precision"), now.get("precision")),
        "threads": (then.get("threads"), now.get("threads")),
    }
    for name in versions_now if versions else ():
        if name not in UNSEEN:
            pairs[name] = (versions.get(name), versions_now[name])
    found = [f"{name} {before} -> {after}" for name, (before, after) in pairs.items() if before and before != after]
    return f"pixels may differ: {', '.join(found)}" if found else None


def _device(machine: Mapping[str, str]) -> str | None:
    """Kind and name: which of several alike it was does not matter."""
    kind = machine.get("device", "").partition(":")[0]
    return f"{kind} ({machine['device_name']})" if kind and machine.get("device_name") else kind or None


def warning(undetermined: set[str]) -> list[str]:
    """The line for a run that met operations without a deterministic form, see `deterministic`; none where it did not.
    """
    names = ", ".join(sorted(undetermined))
    return [f"a repeated run may differ in the last bits: {names} have no deterministic form here"] if names else []


@contextmanager
def deterministic() -> Iterator[set[str]]:
    """Ask torch for deterministic algorithms in this block, and put everything back behind it.

    Yields the names of the operations met so far that have none on this device: they run all the same, and a repeated
    run may then differ in the last bits. Who had demanded deterministic algorithms before still gets torch's error.
    """
    demanded = torch.get_deterministic_debug_mode()  # 0 nothing, 1 warn, 2 raise
    memory: Any = torch.utils.deterministic  # a module whose attributes are made by its class
    filled, cudnn = memory.fill_uninitialized_memory, torch.backends.cudnn
    tuned = cudnn.benchmark, cudnn.deterministic
    undetermined = set[str]()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def take(message: Warning | str, *where: Any, **more: Any) -> None:
            found = _UNDETERMINED.match(str(message))
            if found is None:
                shown(message, *where, **more)
            else:
                undetermined.add(found[1] or "cuBLAS without CUBLAS_WORKSPACE_CONFIG=:4096:8")

        warnings.filterwarnings("always", message=_UNDETERMINED.pattern)
        warnings.showwarning = take
        # What `use_deterministic_algorithms` sets, without its import of torch._inductor, which takes a second.
        torch.set_deterministic_debug_mode(max(demanded, 1))
        memory.fill_uninitialized_memory = False  # whoever allocates also writes; it costs time
        cudnn.benchmark, cudnn.deterministic = False, True
        try:
            yield undetermined
        finally:
            torch.set_deterministic_debug_mode(demanded)
            memory.fill_uninitialized_memory = filled
            cudnn.benchmark, cudnn.deterministic = tuned


def stepwise(steps: Iterator[Made]) -> Iterator[Made]:
    """The same steps, each made in a `deterministic` block of its own: whoever takes them finds torch as it was."""
    while True:
        with deterministic():
            step = next(steps, None)
        if step is None:
            return
        yield step
