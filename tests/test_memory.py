"""How much memory there is: the machine, control groups of both versions, CUDA."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from vqclip.run import memory

CPU = torch.device("cpu")


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert memory.available(CPU, root=system(tmp_path, {})) == 8_000 * 1024


def test_a_group_of_version_2_leaves_less(tmp_path: Path) -> None:
    inner = "sys/fs/cgroup/user/job/"
    files = {
        "proc/self/cgroup": "0::/user/job\n",
        inner + "memory.max": "5000000\n",
        inner + "memory.current": "3000000\n",
        inner + "memory.stat": "anon 9\ninactive_file 400000\nactive_file 7\n",
        "sys/fs/cgroup/user/memory.max": "max\n",
        "sys/fs/cgroup/user/memory.current": "3000000\n",
    }
    assert memory.available(CPU, root=system(tmp_path, files)) == 2_400_000


def test_an_outer_group_can_be_the_tighter_one(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/user/job\n"}
    for folder, limit in (("user", 1_000_000), ("user/job", 5_000_000)):
        files[f"sys/fs/cgroup/{folder}/memory.max"] = str(limit)
        files[f"sys/fs/cgroup/{folder}/memory.current"] = "900000"
    assert memory.available(CPU, root=system(tmp_path, files)) == 100_000


@pytest.mark.parametrize("place", ["/docker/abc", "/", "/../other"])
def test_in_a_container_the_root_of_the_mount_counts(tmp_path: Path, place: str) -> None:
    mount = "sys/fs/cgroup/memory/"
    files = {
        "proc/self/cgroup": f"4:memory:{place}\n3:cpu:/\n0::/\n",
        mount + "memory.limit_in_bytes": "4000000\n",
        mount + "memory.usage_in_bytes": "1000000\n",
        mount + "memory.stat": "inactive_file 1\ntotal_inactive_file 500000\n",
    }
    assert memory.available(CPU, root=system(tmp_path, files)) == 3_500_000


def test_a_full_group_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "100\n",
        "sys/fs/cgroup/memory.current": "200\n",
    }
    assert memory.available(CPU, root=system(tmp_path, files)) == 0


def test_nothing_is_claimed_where_nothing_is_said(tmp_path: Path) -> None:
    assert memory.available(CPU, root=tmp_path) is None
    assert memory.available(torch.device("mps")) is None


def test_this_process_is_seen() -> None:
    size = 200_000_000
    before, _ = memory.held(CPU)
    with mmap.mmap(-1, size) as block:  # a tensor could be given freed memory that the heap still holds
        torch.frombuffer(block, dtype=torch.uint8).fill_(1)
        after, most = memory.held(CPU)
    assert 0.9 < (after - before) / size < 1.2
    assert memory.held(CPU)[1] > 0.99 * most >= 0.99 * after


def test_cuda_counts_what_its_cache_can_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 200)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 50)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 90)
    assert memory.available(torch.device("cuda")) == 850
    assert memory.held(torch.device("cuda")) == (50, 90)


@pytest.mark.parametrize(("size", "shown"), [(2_140_000_000, "2.1 GB"), (96_000_000, "0.1 GB"), (40_000_000, "40 MB")])
def test_sizes_are_shown_for_people(size: int, shown: str) -> None:
    assert memory.gigabytes(size) == shown
