"""The cores and the memory that this process may use.

Containers, batch systems and service managers set limits below the size of the machine: cgroups (Linux, version 1 and
2), CPU affinity, and `ulimit`. Imports nothing heavy. The file formats are described in the
kernel's Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst and scheduler/sched-bwc.rst, and in proc(5).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
V1, V2 = "cgroup", "cgroup2"  # the types of file system


@dataclass(frozen=True)
class Memory:
    """Bytes: `total` is the limit, shared with other processes under it; `available` is what is free or can be freed.
    `limit` names the source of the limit, "" for the machine itself."""

    total: int
    available: int
    limit: str = ""


@dataclass(frozen=True)
class Group:
    """A cgroup of this process. `directories` are its own and its visible parents, own first."""

    version: str
    directories: tuple[Path, ...]


def usable_cores(root: Path = ROOT) -> int:
    """Number of threads that can run at the same time: the allowed processors, or the CPU quota where it is less. A
    quota of 1.5 processors means one thread: two would wait for each other."""
    quota = cpu_quota(root)
    cores = allowed_processors()
    return cores if quota is None else max(1, min(cores, int(quota)))


def allowed_processors() -> int:
    """Processors in the CPU affinity of this process (set by `taskset`, cpusets and batch systems)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_processors() -> int:
    """Processors of this machine, also those that this process may not use."""
    return os.cpu_count() or 1


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPU seconds per second that the cgroup of this process may use; None without a limit."""
    group = find_group("cpu", root)
    if group is None:
        return None
    quotas = [quota for directory in group.directories if (quota := _quota_of(directory, group.version)) is not None]
    return min(quotas, default=None)


def memory(root: Path = ROOT) -> Memory:
    """The memory of this process under its tightest limit."""
    import psutil  # slow to import, so not at the top

    machine = psutil.virtual_memory()
    found = [Memory(int(machine.total), int(machine.available))]
    group = find_group("memory", root)
    if group is not None:
        limits = (limit for directory in group.directories for limit in _memory_of(directory, group.version))
        found += [limit for limit in limits if limit.total < machine.total]
    found += _process_limits(root)
    return min(found, key=lambda one: one.available)


def swap_bytes() -> int:
    """The machine's swap space, which a process may use in addition to `Memory.total`."""
    import psutil

    return int(psutil.swap_memory().total)


def find_group(controller: str, root: Path = ROOT) -> Group | None:
    """The cgroup that limits `controller` ("cpu" or "memory") for this process; None without one."""
    try:
        entries = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    paths = {name: entry[2] for entry in entries if len(entry) == 3 for name in entry[1].split(",")}
    version, path = (V1, paths[controller]) if controller in paths else (V2, paths.get("", ""))
    for mount in mounts if path else []:
        with suppress(ValueError, IndexError):
            kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
            if kind == version and (version == V2 or controller in options):
                top = root / _unescape(mount[4]).lstrip("/")
                return Group(version, tuple(_upwards(top, PurePosixPath(_unescape(mount[3])), PurePosixPath(path))))
    return None


def _upwards(top: Path, mounted: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """The directories from the group `path` up to `top`, the mount point of the group `mounted`. Only `top` where the
    group is outside the mount, as in a container that sees the paths of its host."""
    below = path.relative_to(mounted) if path.is_relative_to(mounted) and ".." not in path.parts else PurePosixPath()
    for part in (below, *below.parents):
        if (directory := top / part).is_dir():
            yield directory


def _unescape(text: str) -> str:
    r"""A path of mountinfo, in which blanks are written as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _quota_of(directory: Path, version: str) -> float | None:
    if version == V2:
        words = _text(directory / "cpu.max").split()
    else:
        words = [_text(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _memory_of(directory: Path, version: str) -> Iterator[Memory]:
    """The limits of one cgroup. The page cache counts as available: it is dropped before a limit is hit."""
    new = version == V2
    used = _number(directory / ("memory.current" if new else "memory.usage_in_bytes")) or 0
    words = _text(directory / "memory.stat").split()
    stat = dict(zip(words[::2], words[1::2], strict=False))
    prefix = "" if new else "total_"
    with suppress(KeyError, ValueError):
        used -= sum(int(stat[f"{prefix}{name}"]) for name in ("inactive_file", "active_file"))
    names = ("memory.max", "memory.high") if new else ("memory.limit_in_bytes",)
    limits = [(name, _number(directory / name)) for name in names]
    if not new and stat.get("hierarchical_memory_limit", "").isdecimal():
        limits.append(("memory.limit_in_bytes", int(stat["hierarchical_memory_limit"])))
    for name, limit in limits:
        if limit is not None:
            yield Memory(limit, max(0, min(limit, limit - used)), f"the cgroup's {name}")


def _process_limits(root: Path) -> Iterator[Memory]:
    """The limits of `ulimit -v` and `ulimit -d`. Only Linux enforces them."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    pages = _text(root / "proc/self/statm").split()
    for kind, column, name in ((resource.RLIMIT_AS, 0, "ulimit -v"), (resource.RLIMIT_DATA, 5, "ulimit -d")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and column < len(pages):
            yield Memory(limit, max(0, limit - int(pages[column]) * resource.getpagesize()), name)


def _text(path: Path) -> str:
    """The content of a kernel file; "" without one."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None
