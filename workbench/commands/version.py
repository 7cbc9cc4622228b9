"""`--version`: the version, and with `--json` all that a bug report needs. Does not load torch."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.errors import WrongUse
from llm.limits import allowed_processors, cpu_quota, memory, usable_cores
from workbench.commands.doctor import nearest_existing
from workbench.commands.output import print_json

PACKAGES = (
    *("torch", "numpy", "textual", "rich", "plotext", "textual-plotext", "tiktoken", "rustbpe", "regex"),
    *("safetensors", "sentencepiece", "pyarrow", "PyYAML", "zstandard", "psutil", "nvidia-ml-py", "triton"),
    *("transformers", "tokenizers", "gguf", "starlette", "uvicorn", "tensorboard", "wandb", "trackio"),
    *("lm_eval", "datasets"),
)
VARIABLES = (
    *("TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "NO_COLOR", "TMUX", "SSH_TTY", "LANG", "LC_ALL"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF"),
)


def print_version(words: Sequence[str], home: Path) -> int:
    """Print the version; `words` are the arguments after `--version`."""
    if list(words) not in ([], ["--json"]):
        raise WrongUse(f'--version does not take "{words[0]}"; use --version or --version --json.')
    if words:
        print_json(describe(home))
    else:
        print(f"llm-workbench {installed_version('llm-workbench') or '(not installed: running from its source)'}")
    return 0


def describe(home: Path) -> dict[str, Any]:
    """The program and what it runs on. Paths below the home directory of the user begin with ~."""
    limits = memory()
    columns, lines = shutil.get_terminal_size()
    return {
        "llm-workbench": installed_version("llm-workbench"),
        "installed_in": shorten(Path(__file__).parents[2]),
        "home": shorten(home),
        "python": sys.version,
        "executable": shorten(Path(sys.executable)),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "processor": processor(),
        "cores": {"usable": usable_cores(), "allowed": allowed_processors(), "quota": cpu_quota()},
        "memory": vars(limits),
        "disk_free_bytes": shutil.disk_usage(nearest_existing(home)).free,
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
        "encoding": {"stdout": sys.stdout.encoding, "preferred": locale.getpreferredencoding(False)},
        "terminal": {"is_terminal": sys.stdout.isatty(), "columns": columns, "lines": lines},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "nvidia_driver": first_line(Path("/proc/driver/nvidia/version")),
    }


def installed_version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow, and not needed for the first screen

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def shorten(path: Path) -> str:
    """`path` with ~ for the home directory: reports are public, and names are private."""
    own = Path.home()
    return f"~/{path.relative_to(own)}" if path.is_relative_to(own) and own != Path("/") else str(path)


def processor() -> str:
    """The model of the processor."""
    for line in read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def first_line(path: Path) -> str:
    return read(path).partition("\n")[0]


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
