"""`doctor`: what this machine has, what will work, what will not and why."""

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
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table

TESTED_TORCH = ((2, 10), (2, 14))  # from, below
NEEDED_FREE_BYTES = 2 * 10**9
NEEDED_MEMORY_BYTES = 2 * 10**9
OPTIONAL = (
    ("rustbpe", "fast BPE training", "the readable trainer is used, many times slower", "rustbpe"),
    (
        "sentencepiece",
        "SentencePiece tokenizers",
        "presets with kind sentencepiece do not work",
        "llm-workbench[sentencepiece]",
    ),
    ("pyarrow", "Parquet corpora", "Parquet files cannot be read", "llm-workbench[parquet]"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. `advice` says what to do where it is not ok."""

    name: str
    level: Literal["ok", "warn", "fail"]
    about: str
    advice: str = ""


def register(subparsers: Any) -> None:
    add_command(subparsers, "doctor", "say what works on this machine, and what does not", doctor, json=True)


def doctor(options: argparse.Namespace) -> int:
    """Print the findings; 1 if something will keep the workbench from working."""
    findings = list(diagnose(options.home))
    if options.json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(f.level, f.name, f.about + (f"; {f.advice}" if f.advice else "")) for f in findings]
        print_table(("", "what", "how it stands"), rows)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def diagnose(home: Path) -> Iterator[Finding]:
    """All findings, in the order a person would fix them."""
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
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
    """Whether torch can be imported, and is in the range the tests ran with."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "fail", f"cannot be imported ({error})", "install it: pip install -U torch")
    version = torch.__version__
    low, high = TESTED_TORCH
    about = f"tested are {low[0]}.{low[1]} up to below {high[0]}.{high[1]}"
    if not low <= release(version) < high:
        return Finding("torch", "warn", f"{version}; {about}", "install a tested version if something misbehaves")
    return Finding("torch", "ok", version)


def release(version: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) where they cannot be read."""
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return 0, 0


def devices() -> Iterator[Finding]:
    """What can compute, and whether it has bf16."""
    import torch

    from llm.device import choose_device, choose_precision, cpu_multiplies_bf16

    parse_names = choose_device("auto")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(index).total_memory
        yield Finding(f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory / 1e9:.0f} GB")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")
    threads = processors()
    bf16 = "bf16 instructions" if cpu_multiplies_bf16() else "no bf16 instructions, so fp32 is used"
    yield Finding("cpu", "ok", f"{platform.machine()}, {threads}, {bf16}")
    about = f"auto means {parse_names} with {choose_precision('auto', parse_names)}"
    if parse_names == "cpu":
        yield Finding(
            "device", "ok", f"{about}; no GPU was found, so choose small presets (quickstart is made for this)"
        )
    else:
        yield Finding("device", "ok", about)


def processors() -> str:
    """How many threads can compute at once, and what limits them to fewer than there are processors."""
    cores, allowed, there, quota = usable_cores(), allowed_processors(), os.cpu_count() or 1, cpu_quota()
    text = f"{cores} usable core{'s' * (cores != 1)}"
    if cores < allowed and quota is not None:
        return f"{text} (the control group's quota is {quota:g} of {allowed} processors)"
    return f"{text} (by its affinity, of {there} processors)" if allowed < there else text


def compiler() -> Finding:
    """torch.compile needs a C++ compiler for CPU kernels and Triton for CUDA."""
    import torch

    if torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            advice = "install triton, or set train.compile to off"
            return Finding("torch.compile", "warn", "Triton is missing: training runs uncompiled", advice)
        return Finding("torch.compile", "ok", "Triton is there")
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if found is None:
        return Finding("torch.compile", "ok", "no C++ compiler; not needed, since compiling is off on CPUs by default")
    return Finding("torch.compile", "ok", f"{found} is there; compiling is off on CPUs by default")


def machine(home: Path) -> Iterator[Finding]:
    """Memory, and room on the disk where runs go."""
    held = memory()
    about = f"{held.available / 1e9:.1f} of {held.total / 1e9:.1f} GB free"
    if held.limit:
        about += f" within {held.limit}"
    if held.available < NEEDED_MEMORY_BYTES:
        advice = "raise the limit" if held.limit else "close other programs"
        yield Finding("memory", "warn", about, f"{advice}, or choose a small preset")
    else:
        yield Finding("memory", "ok", about)
    free = shutil.disk_usage(nearest_existing(home)).free
    about = f"{free / 1e9:.1f} GB free at {home}"
    if free < NEEDED_FREE_BYTES:
        yield Finding("disk", "warn", about, "make room, or put runs elsewhere with --home")
    else:
        yield Finding("disk", "ok", about)


def home_is_writable(home: Path) -> Finding:
    """Whether a file can be made where runs go."""
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(home)):
            pass
    except OSError as error:
        advice = "give another with --home or LLM_WORKBENCH_HOME"
        return Finding("home", "fail", f"{home} cannot be written ({error.strerror})", advice)
    return Finding("home", "ok", str(home))


def nearest_existing(folder: Path) -> Path:
    """`folder`, or the first of its parents that is there: looking must not make it."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def terminal() -> Iterator[Finding]:
    """Whether the workbench can draw here: a terminal, its size, colours, and UTF-8."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        about = "input or output is no terminal; the subcommands work, the workbench does not"
        yield Finding("terminal", "warn", about, "start the workbench in a terminal")
        return
    columns, lines = os.get_terminal_size(sys.stderr.fileno())
    kind, colours = os.environ.get("TERM", "unknown"), os.environ.get("COLORTERM", "")
    about = f"{kind}{f' with {colours}' if colours else ''}, {columns}×{lines}"
    if kind in ("dumb", "unknown"):
        yield Finding("terminal", "warn", about, "set TERM to what the terminal is, such as xterm-256color")
    elif columns < 80 or lines < 24:
        yield Finding("terminal", "warn", about, "make it at least 80×24 to see everything")
    else:
        yield Finding("terminal", "ok", about)
    encoding = (sys.stderr.encoding or "").lower().replace("-", "")
    if encoding != "utf8":
        yield Finding("encoding", "warn", f"{sys.stderr.encoding}, so charts fall back", "use a UTF-8 locale")


def other_llm_package() -> Finding:
    """The import name `llm` also belongs to a package on PyPI; with both installed, one hides the other."""
    from importlib import metadata  # brings the email package, for which no other command waits

    try:
        version = metadata.version("llm")
    except metadata.PackageNotFoundError:
        return Finding("package llm", "ok", "no other package of this name is installed")
    about = f"another package named llm ({version}) is installed; only one of the two can be imported"
    return Finding("package llm", "warn", about, "use an environment of its own for llm-workbench")


def optional(
    module: str, what: str, without: str, package: str, find: Callable[[str], object] = importlib.util.find_spec
) -> Finding:
    """Whether something that most people do not need is installed."""
    if find(module) is not None:
        return Finding(module, "ok", what)
    return Finding(module, "warn", f"missing: {without}", f"if you need {what}: pip install '{package}'")
