"""How many cores this process has to itself: the machine's, its affinity's, its control groups'. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable() -> int:
    """Cores that this process may use, at least 1, as the system schedules: two threads of one core count twice."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical(*, root: Path = Path("/")) -> int:
    """Cores that may be used, at least 1; the two threads of one core count once, for they share its arithmetic.

    On Linux no more than the CPU time that the control groups around the process, of version 1 or 2, allow: with more
    threads than that each waits for others that are not let run.

    Args:
        root: where /proc and /sys lie.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    folder = root / "sys/devices/system/cpu"
    shared = {_text(folder / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in usable}
    return max(1, min([len(shared), *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Whole cores that each control group with a limit allows, from the process's own up to the outermost."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = PurePosixPath(place.lstrip("/"))
        # Inside a container the path may be one of the host, which is not mounted: then only the root counts.
        for group in [inner, *inner.parents] if ".." not in inner.parts else [PurePosixPath()]:
            folder = root / "sys/fs/cgroup" / ("cpu" if controllers else "") / group
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            words = " ".join(_text(folder / name) for name in names).split()  # microseconds of time, of which period
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                yield int(words[0]) // int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
