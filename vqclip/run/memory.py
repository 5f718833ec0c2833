"""How much memory there is and how much of it this process holds, on a CPU or a CUDA device.

Asks the system each time; changes nothing but, on request, the peak it counts from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

# cgroup version: its mount below /sys/fs/cgroup, limit, use, and the line of memory.stat on file cache to drop.
_VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


def available(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Bytes that can still be taken on a device, None where the system does not say.

    On Linux the least of the machine's MemAvailable and what the control groups around the process, of
    version 1 or 2, leave. On CUDA what the driver has free and torch's cache holds unused.

    Args:
        device: another kind than CPU and CUDA does not say.
        root: where /proc and /sys lie.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    kilobytes = _table(root / "proc/meminfo").get("MemAvailable")
    machine = [] if kilobytes is None else [1024 * kilobytes]
    return min([*machine, *_left_by_groups(root)], default=None)


def held(device: torch.device) -> tuple[int, int]:
    """Bytes held now and at most so far: by the whole process in RAM, by torch's tensors on CUDA."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    status = _table(Path("/proc/self/status"))
    if "VmRSS" in status and "VmHWM" in status:
        now = 1024 * status["VmRSS"]
        return now, max(now, 1024 * status["VmHWM"])  # the kernel writes the two down at different moments
    import resource  # not on every system

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def forget_peak(device: torch.device) -> bool:
    """Let the second number of `held` begin anew from what is held now; False where the system does not allow that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if device.type != "cpu":
        return False
    try:  # Linux: 5 resets VmHWM (proc(5), clear_refs)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def gigabytes(size: int) -> str:
    """A number of bytes for people: "2.1 GB", below 0.1 GB in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 0.095e9 else f"{size / 1e6:.0f} MB"


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group with a limit leaves, from the process's own up to the outermost."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, limit, use, cache = _VERSION_1 if controllers else _VERSION_2
        inner = PurePosixPath(place.lstrip("/"))
        # Inside a container the path may be one of the host, which is not mounted: then only the root counts.
        for group in [inner, *inner.parents] if ".." not in inner.parts else [PurePosixPath()]:
            folder = root / "sys/fs/cgroup" / mount / group
            most, used = (_text(folder / name).strip() for name in (limit, use))
            if most.isdecimal() and used.isdecimal():
                yield max(0, int(most) - int(used) + _table(folder / "memory.stat").get(cache, 0))


def _table(path: Path) -> dict[str, int]:
    """Lines of "name: 12 kB" or "name 12" as numbers."""
    rows = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
