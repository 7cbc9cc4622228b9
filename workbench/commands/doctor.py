"""`doctor`: check this machine and the installation."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llm.limits import allowed_processors, cpu_quota, memory, usable_cores
from llm.load import busy_processes
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table

TESTED_TORCH = ((2, 10), (2, 14))  # from, below
NEEDED_FREE_BYTES = 2 * 10**9
NEEDED_MEMORY_BYTES = 2 * 10**9
OPTIONAL = (("rustbpe", "fast BPE training", "BPE is trained in Python, many times slower", "rustbpe"),)


@dataclass(frozen=True)
class Finding:
    """The result of one check. `advice` says what to do where the level is not ok."""

    name: str
    level: Literal["ok", "warn", "fail"]
    about: str
    advice: str = ""


def finding(name: str, about: str, advice: str = "") -> Finding:
    """A finding that is ok without advice, else a warning."""
    return Finding(name, "warn" if advice else "ok", about, advice)


def register(subparsers: Any) -> None:
    add_command(subparsers, "doctor", "check this machine and the installation", doctor, json=True)


def doctor(options: argparse.Namespace) -> int:
    """Print the findings; returns 1 if one has level "fail"."""
    findings = list(diagnose(options.home))
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(f.level, f.name, f.about + (f"; {f.advice}" if f.advice else "")) for f in findings]
        print_table(("level", "check", "status"), rows)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def diagnose(home: Path) -> Iterator[Finding]:
    """All findings, most important first."""
    yield finding("python", f"{platform.python_version()} at {sys.executable}")
    torch = torch_version()
    yield torch
    if torch.level != "fail":
        yield from devices()
        yield compiler()
    yield from machine(home)
    yield home_is_writable(home)
    yield from terminal()
    yield other_llm_package()
    for module, what, without, package in OPTIONAL:
        yield optional(module, what, without, package)


def torch_version() -> Finding:
    """Whether torch can be imported, and is a tested version."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "fail", f"cannot be imported ({error})", "install it: pip install -U torch")
    version = torch.__version__
    low, high = TESTED_TORCH
    about = f"tested versions: {low[0]}.{low[1]} to below {high[0]}.{high[1]}"
    if low <= release(version) < high:
        return finding("torch", version)
    return finding("torch", f"{version}; {about}", "install a tested version if you see errors")


def release(version: str) -> tuple[int, int]:
    """(major, minor); (0, 0) for another format."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return 0, 0


def devices() -> Iterator[Finding]:
    """The devices, and whether they have bf16."""
    import torch

    from llm.device import choose_device, choose_precision, cpu_multiplies_bf16

    chosen = choose_device("auto")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(index).total_memory
        yield finding(f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        yield finding("mps", "Apple GPU")
    threads = processors()
    bf16 = "bf16 instructions" if cpu_multiplies_bf16() else "no bf16 instructions (fp32 is used)"
    yield finding("cpu", f"{platform.machine()}, {threads}, {bf16}")
    yield load()
    about = f"auto selects {chosen} with {choose_precision('auto', chosen)}"
    hint = "; no GPU found: choose a small preset such as quickstart" if chosen == "cpu" else ""
    yield finding("device", about + hint)


def load() -> Finding:
    """Whether other processes use the processors that training needs."""
    busy = busy_processes()
    if not busy:
        return Finding("load", "ok", "no other process is busy")
    return Finding("load", "warn", ", ".join(map(str, busy[:3])), "training is faster when they have ended")


def processors() -> str:
    """The usable cores, and what limits them to fewer than the processors of the machine."""
    cores, allowed, there, quota = usable_cores(), allowed_processors(), os.cpu_count() or 1, cpu_quota()
    text = f"{cores} usable core{'s' * (cores != 1)}"
    if cores < allowed and quota is not None:
        return f"{text} (cgroup quota: {quota:g} of {allowed} processors)"
    return f"{text} (CPU affinity: {allowed} of {there} processors)" if allowed < there else text


def compiler() -> Finding:
    """torch.compile needs a C++ compiler for CPU kernels and Triton for CUDA."""
    import torch

    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is not None:
            return finding("torch.compile", "Triton is installed")
        advice = "install triton, or set train.compile to off"
        return finding("torch.compile", "Triton is not installed: training is not compiled", advice)
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    state = f"{found} is installed; " if found else "no C++ compiler; not needed, since "
    return finding("torch.compile", f"{state}compilation is off on CPUs by default")


def machine(home: Path) -> Iterator[Finding]:
    """Free memory, and free disk space for runs."""
    held = memory()
    about = f"{held.available / 1e9:.1f} of {held.total / 1e9:.1f} GB free"
    if held.limit:
        about += f" within {held.limit}"
    advice = f"{'raise the limit' if held.limit else 'close other programs'}, or choose a small preset"
    yield finding("memory", about, advice if held.available < NEEDED_MEMORY_BYTES else "")
    free = shutil.disk_usage(nearest_existing(home)).free
    about = f"{free / 1e9:.1f} GB free at {home}"
    advice = "free some space, or choose another folder with --home"
    yield finding("disk", about, advice if free < NEEDED_FREE_BYTES else "")


def home_is_writable(home: Path) -> Finding:
    """Whether the home folder is writable."""
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(home)):
            pass
    except OSError as error:
        advice = "choose another folder with --home or LLM_WORKBENCH_HOME"
        return Finding("home", "fail", f"{home} is not writable ({error.strerror})", advice)
    return finding("home", str(home))


def nearest_existing(folder: Path) -> Path:
    """`folder`, or its first parent that exists; creates nothing."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def terminal() -> Iterator[Finding]:
    """Whether the terminal suits the workbench: its type, size, colors and encoding."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        about = "input or output is not a terminal; commands work, the workbench does not"
        yield finding("terminal", about, "start the workbench in a terminal")
        return
    columns, lines = os.get_terminal_size(sys.stderr.fileno())
    kind, colors = os.environ.get("TERM", "unknown"), os.environ.get("COLORTERM", "")
    about = f"{kind}{f' with {colors}' if colors else ''}, {columns}×{lines}"
    is_small = columns < 80 or lines < 24
    advice = "enlarge the window to at least 80×24" if is_small else ""
    if kind in ("dumb", "unknown"):
        advice = "set TERM to the type of the terminal, such as xterm-256color"
    yield finding("terminal", about, advice)
    encoding = (sys.stderr.encoding or "").lower().replace("-", "")
    if encoding != "utf8":
        yield finding("encoding", f"{sys.stderr.encoding}: charts are drawn in ASCII", "use a UTF-8 locale")


def other_llm_package() -> Finding:
    """Whether PyPI's package `llm`, which has the same import name, is installed too."""
    from importlib import metadata  # slow to import

    try:
        version = metadata.version("llm")
    except metadata.PackageNotFoundError:
        return finding("package llm", "no other package of this name is installed")
    about = f"another package named llm ({version}) is installed; Python can import only one of the two"
    return finding("package llm", about, "install llm-workbench in a separate environment")


def optional(
    module: str, what: str, without: str, package: str, find: Callable[[str], object] = importlib.util.find_spec
) -> Finding:
    """Whether an optional package is installed."""
    if find(module) is not None:
        return finding(module, what)
    return finding(module, f"not installed: {without}", f"if you need {what}: pip install '{package}'")
