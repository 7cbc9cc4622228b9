"""The limits of a process: control groups of both versions as trees of files, a real one where root may make it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llm.limits import Memory, cpu_quota, find_group, memory, usable_cores

MB = 1_000_000
FIRST_PROCESSOR = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
UNLIMITED = "9223372036854771712"  # what version 1 says where there is no limit


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 processors and 16 GB, of which 12 are free."""
    held = namedtuple("held", "total available")(16_000 * MB, 12_000 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: held)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A file system with these lines in /proc/self/cgroup and mountinfo, and these files."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
V1_GROUPS = "9:name=systemd:/\n4:memory:/jobs/7\n2:cpu,cpuacct:/jobs/7\n0::/\n"


def test_version_2_inside_a_container(tmp_path: Path) -> None:
    """The file cache counts as available: the kernel drops it before it refuses memory."""
    top = "sys/fs/cgroup"
    stat = f"anon {50 * MB}\ninactive_file {120 * MB}\nactive_file {30 * MB}\n"
    files = {
        f"{top}/memory.max": f"{700 * MB}\n",
        f"{top}/memory.high": "max\n",
        f"{top}/memory.current": f"{250 * MB}\n",
        f"{top}/memory.stat": stat,
        f"{top}/cpu.max": "150000 100000\n",
    }
    root = tree(tmp_path, "0::/\n", V2_MOUNT, files)
    assert memory(root) == Memory(700 * MB, 600 * MB, "the cgroup's memory.max")
    assert cpu_quota(root) == 1.5
    assert usable_cores(root) == 1


def test_the_tightest_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    top = "sys/fs/cgroup/user.slice"
    files = {
        f"{top}/memory.max": f"{4_000 * MB}",
        f"{top}/memory.current": f"{3_500 * MB}",
        f"{top}/cpu.max": "300000 100000",
        f"{top}/job/memory.max": "max",
        f"{top}/job/memory.high": f"{2_000 * MB}",
        f"{top}/job/memory.current": f"{100 * MB}",
        f"{top}/job/cpu.max": "max 100000",
    }
    root = tree(tmp_path, "0::/user.slice/job\n", V2_MOUNT, files)
    assert memory(root) == Memory(4_000 * MB, 500 * MB, "the cgroup's memory.max"), "its siblings use the rest"
    (root / top / "memory.current").write_text("0")
    assert memory(root) == Memory(2_000 * MB, 1_900 * MB, "the cgroup's memory.high")
    assert usable_cores(root) == 3


def test_version_1(tmp_path: Path) -> None:
    memory_files, cpu = "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu,cpuacct"
    files = {
        f"{memory_files}/memory.limit_in_bytes": UNLIMITED,
        f"{memory_files}/jobs/memory.limit_in_bytes": f"{5_000 * MB}",
        f"{memory_files}/jobs/memory.usage_in_bytes": f"{1_000 * MB}",
        f"{memory_files}/jobs/7/memory.limit_in_bytes": f"{700 * MB}",
        f"{memory_files}/jobs/7/memory.usage_in_bytes": f"{200 * MB}",
        f"{memory_files}/jobs/7/memory.stat": f"cache 9\ntotal_inactive_file {40 * MB}\ntotal_active_file {10 * MB}\n",
        f"{cpu}/cpu.cfs_quota_us": "-1",
        f"{cpu}/cpu.cfs_period_us": "100000",
        f"{cpu}/jobs/cpu.cfs_quota_us": "50000",
        f"{cpu}/jobs/cpu.cfs_period_us": "100000",
        f"{cpu}/jobs/7/cpu.cfs_quota_us": "400000",
        f"{cpu}/jobs/7/cpu.cfs_period_us": "100000",
    }
    root = tree(tmp_path, V1_GROUPS, V1_MOUNTS, files)
    assert memory(root) == Memory(700 * MB, 550 * MB, "the cgroup's memory.limit_in_bytes")
    assert cpu_quota(root) == 0.5
    assert usable_cores(root) == 1, "one at least"


def test_version_1_tells_of_limits_above_what_is_mounted(tmp_path: Path) -> None:
    """A container of version 1 sees its own group at the mount point, under a path that it does not see."""
    mounts = "33 31 0:30 /docker/abc /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n"
    top = "sys/fs/cgroup/memory"
    files = {
        f"{top}/memory.limit_in_bytes": UNLIMITED,
        f"{top}/memory.usage_in_bytes": f"{100 * MB}",
        f"{top}/memory.stat": f"hierarchical_memory_limit {900 * MB}\n",
    }
    root = tree(tmp_path, "4:memory:/docker/abc\n", mounts, files)
    assert memory(root) == Memory(900 * MB, 800 * MB, "the cgroup's memory.limit_in_bytes")
    assert usable_cores(root) == 8, "no group limits the processors"


@pytest.mark.parametrize("path", ["/../../elsewhere", "/another/container"])
def test_a_group_outside_of_what_is_mounted(tmp_path: Path, path: str) -> None:
    mounts = V2_MOUNT.replace(" / /sys/fs/cgroup", " /pods/one /sys/fs/with\\040blank")
    root = tree(tmp_path, f"0::{path}\n", mounts, {"sys/fs/with blank/memory.max": f"{300 * MB}"})
    group = find_group("memory", root)
    assert group is not None
    assert group.directories == (root / "sys/fs/with blank",)
    assert memory(root) == Memory(300 * MB, 300 * MB, "the cgroup's memory.max")


@pytest.mark.parametrize(
    ("groups", "mounts", "files"),
    [
        ("", "", {}),
        ("0::/\n", V2_MOUNT, {}),
        ("0::/\n", V2_MOUNT, {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/cpu.max": "max 100000"}),
        ("0::/\n", V2_MOUNT, {"sys/fs/cgroup/memory.max": "?", "sys/fs/cgroup/cpu.max": "a b c"}),
        ("0::/\n", V2_MOUNT, {"sys/fs/cgroup/memory.max": f"{10**15}", "sys/fs/cgroup/cpu.max": "9900000 100000"}),
        (V1_GROUPS, V1_MOUNTS, {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED}),
        ("nonsense\n0::\n", "nonsense\n1 - \n", {}),
    ],
)
def test_without_limits_the_machine_counts(tmp_path: Path, groups: str, mounts: str, files: dict[str, str]) -> None:
    root = tree(tmp_path, groups, mounts, files)
    assert memory(root) == Memory(16_000 * MB, 12_000 * MB)
    assert usable_cores(root) == 8


def test_no_proc_at_all(tmp_path: Path) -> None:
    assert memory(tmp_path) == Memory(16_000 * MB, 12_000 * MB)
    assert usable_cores(tmp_path) == 8


def test_the_address_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 600 * MB, resource.RLIMIT_DATA: 500 * MB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], resource.RLIM_INFINITY))
    page = resource.getpagesize()
    root = tree(tmp_path, "", "", {"proc/self/statm": f"{400 * MB // page} 1 1 1 0 {100 * MB // page} 0\n"})
    found = memory(root)
    assert (found.total, found.limit) == (600 * MB, "ulimit -v")
    assert found.available == pytest.approx(200 * MB, abs=page)


# --- a real process under real limits

REPORT = """
import json, llm.limits, llm.environment, os
llm.environment.configure_threads()
from workbench.presets.estimate import available_bytes
import torch
held = llm.limits.memory()
print(json.dumps([held.total, held.available, available_bytes(), llm.limits.usable_cores(), torch.get_num_threads()]))
"""


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """Two control groups of version 1: 700 MB, and the time of one processor. Skips where they cannot be made."""
    made: list[Path] = []
    limits = {"memory": ("memory.limit_in_bytes", 700 << 20), "cpu": ("cpu.cfs_quota_us", 100_000)}
    try:
        for controller, (name, limit) in limits.items():
            group = Path("/sys/fs/cgroup") / controller / f"test-limits-{os.getpid()}"
            group.mkdir()
            made.append(group)
            (group / name).write_text(str(limit))
    except OSError as error:
        for group in made:
            group.rmdir()
        pytest.skip(f"no control groups of version 1 can be made here ({error.strerror})")
    yield made
    for group in made:
        group.rmdir()


def reported(*join: str) -> list[int]:
    """What a process says of its limits that first carries out the shell commands `join`."""
    script = " && ".join([*join, f"exec {sys.executable} -c '{REPORT}'"])
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_real_control_group(groups: list[Path]) -> None:
    total, available, for_a_run, cores, threads = reported(*(f"echo $$ > {group}/cgroup.procs" for group in groups))
    assert total == 700 << 20
    assert 400 * MB < available < total
    assert for_a_run <= available + 10 * MB  # measured a moment later, and the group's usage changes meanwhile
    assert (cores, threads) == (1, 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to both")
def test_a_real_limit_of_the_address_space_and_a_real_affinity() -> None:
    total, available, _, *processors = reported("ulimit -v 4000000", f"taskset -pc {FIRST_PROCESSOR} $$ > /dev/null")
    assert total == 4_000_000 * 1024
    assert 1_000 * MB < available < total
    assert processors == [1, 1]
