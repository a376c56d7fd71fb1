"""Limits of containers, on trees of files as Linux has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from accord.machine import limits
from accord.machine.limits import (
    meminfo,
    memory_limit,
    processor_flags,
    processor_limit,
    usable_processors,
)
from accord.machine.speed import bf16_row, memory_rows, storage_rows, thread_row

Root = Callable[[dict[str, str]], Path]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    def build(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")
        return tmp_path

    return build


def test_the_smallest_limit_of_all_groups_around_a_process_holds(root: Root) -> None:
    tree = root(
        {
            "proc/self/cgroup": "0::/pods/one\n",
            "sys/fs/cgroup/pods/memory.max": "4096\n",
            "sys/fs/cgroup/pods/one/memory.max": "8192\n",
            "sys/fs/cgroup/pods/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/pods/one/cpu.max": "150000 100000\n",
        }
    )
    assert memory_limit(tree) == 4096
    assert processor_limit(tree) == 1.5


def test_version_1_has_a_folder_per_controller_and_a_huge_number_without_a_limit(
    root: Root,
) -> None:
    tree = root(
        {
            "proc/self/cgroup": "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/\n",
            # The container sees its end of the path alone.
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "2048\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        }
    )
    assert memory_limit(tree) == 2048
    assert processor_limit(tree) == 0.5
    free = root(
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        }
    )
    assert memory_limit(free) is None
    assert processor_limit(free) is None


def test_without_the_files_of_linux_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert processor_limit(tmp_path) is None
    assert meminfo(tmp_path) == {}
    assert processor_flags(tmp_path) == frozenset()


def test_a_part_of_a_processor_is_one_thread(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 8)
    assert usable_processors(root({"sys/fs/cgroup/cpu.max": "20000 100000"})) == 1
    assert usable_processors(root({"sys/fs/cgroup/cpu.max": "250000 100000"})) == 3
    assert usable_processors(root({"sys/fs/cgroup/cpu.max": "max 100000"})) == 8


def test_threads_are_compared_with_the_processors_of_the_container(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 8)
    tree = root({"sys/fs/cgroup/cpu.max": "200000 100000"})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    row = thread_row(8, tree)
    assert (row.state, row.remedy.partition(":")[0]) == ("slow", "export OMP_NUM_THREADS=2")
    assert thread_row(2, tree).state == "ok"
    # torch takes half of the processors where they are hyperthreads: that is not a fault.
    assert thread_row(1, tree).state == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_row(1, tree).remedy.startswith("unset OMP_NUM_THREADS")


def test_bf16_is_advised_where_it_is_faster(root: Root) -> None:
    tree = root({"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu amx_bf16 avx512_bf16\n"})
    row = bf16_row(4.0, tree)
    assert (row.state, row.remedy) == ("ok", "set precision: bf16 in your recipes")
    assert "0.25 of the time" in row.detail
    assert row.detail.endswith("amx_bf16, avx512_bf16")
    assert bf16_row(0.5, tree).state == "slow"
    assert "no bf16 instructions" in bf16_row(1.0, root({"proc/cpuinfo": "flags : fpu\n"})).detail


def test_memory_that_is_withheld_and_swap_in_use_are_reported(root: Root) -> None:
    total = "MemTotal: 1000000 kB\n"
    assert list(memory_rows(root({"proc/meminfo": total}))) == []
    tree = root(
        {
            "proc/meminfo": f"{total}SwapTotal: 900000 kB\nSwapFree: 100000 kB\n",
            "sys/fs/cgroup/memory.max": "512000000",
        }
    )
    limit, swap = memory_rows(tree)
    assert "512.0 MB of the machine's 1.0 GB" in limit.detail
    assert swap.detail.startswith("819.2 MB")  # 800,000 · 1024 bytes


def test_small_shared_memory_and_a_full_disk_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        total, used, free = 2**26, 0, 2**30

    monkeypatch.setattr("accord.machine.speed.shutil.disk_usage", lambda _: Usage)
    shared, disk = storage_rows(tmp_path, tmp_path)
    assert (shared.name, shared.detail.split(" has ")[1][:7]) == ("shared memory", "67.1 MB")
    assert "--shm-size" in shared.remedy
    assert disk.detail.startswith("1.1 GB free")
    Usage.total, Usage.free = 2**31, 2**40
    assert list(storage_rows(tmp_path, tmp_path)) == []
