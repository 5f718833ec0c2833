"""How many cores there are: affinity, threads of one core, control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqclip.run import cores


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def siblings(*pairs: str) -> dict[str, str]:
    """Which processors are threads of one core, as the kernel writes it: "0,4" or "0-1"."""
    rows = {number: pair for pair in pairs for number in pair.replace("-", ",").split(",")}
    return {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{row}\n" for n, row in rows.items()}


def test_where_nothing_is_told_each_processor_is_a_core(tmp_path: Path) -> None:
    assert cores.physical(root=tmp_path) == 8


@pytest.mark.parametrize("pairs", [("0,4", "1,5", "2,6", "3,7"), ("0-1", "2-3", "4-5", "6-7")])
def test_two_threads_of_a_core_count_once(tmp_path: Path, pairs: tuple[str, ...]) -> None:
    assert cores.physical(root=system(tmp_path, siblings(*pairs))) == 4


def test_affinity_leaves_some_cores_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 4}, raising=False)
    assert cores.physical(root=system(tmp_path, siblings("0,4", "1,5", "2,6", "3,7"))) == 2


def test_systems_without_affinity_count_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.physical(root=tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.physical(root=tmp_path) == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/x\n0::/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"proc/self/cgroup": "3:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"proc/self/cgroup": "4:cpuset:/x\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n"}, 8),
    ],
)  # fmt: skip
def test_control_groups_allow_less(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert cores.physical(root=system(tmp_path, files)) == expected
