"""Datasets of the Hugging Face hub: `hf:OWNER/NAME` or `hf:OWNER/NAME:CONFIGURATION`.

The training split is downloaded with the `datasets` library (an extra), which runs no code of a dataset, and saved in
`<home>/datasets` as Arrow files. That is done in a separate process (`hub_process.py`), which can be ended at any time;
the library resumes an interrupted download.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from llm.config.schema import DataConfig
from llm.data.text.text_files import MissingText
from llm.data.text.urls import short_digest
from llm.errors import WrongUse
from llm.events import Progress
from llm.files import published_directory

PREFIX = "hf:"
NAME = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?")
MAX_STEM = 60


def is_hub(text: str) -> bool:
    """Whether `text` names a dataset of the hub."""
    return text.startswith(PREFIX)


def hub_folder(text: str, home: Path) -> Path:
    """Where the dataset is saved."""
    stem = re.sub(r"[^\w.-]+", "_", text.removeprefix(PREFIX))[:MAX_STEM]
    return home / "datasets" / f"hf-{stem}-{short_digest(text)}"


def saved_hub_dataset(text: str, home: Path) -> Path:
    """The folder of a downloaded dataset. MissingText, with the command, for one that is not here."""
    folder = hub_folder(text, home)
    if not folder.is_dir():
        raise MissingText(
            f"The dataset {text} is not downloaded; run: llm-workbench data download {shlex.quote(text)} "
            "(or, offline, use --data.corpus stories, pylib, or a local file)."
        )
    return folder


def download_named_in(data: DataConfig, home: Path) -> Generator[Progress, None, None]:
    """Download the datasets of the hub that `data` names, unless they are here."""
    for text in filter(is_hub, (data.corpus, data.validation)):
        yield from download_hub_dataset(text, home)


def download_hub_dataset(text: str, home: Path) -> Generator[Progress, None, Path]:
    """Download the training split, unless it is here; returns its folder, which appears only when it is complete.

    Yields progress, in megabytes read and written. MissingText where it cannot be downloaded.
    """
    match = NAME.fullmatch(text)
    if match is None:
        raise WrongUse(f"{text} names no dataset of the hub; write hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION.")
    folder = hub_folder(text, home)
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("datasets") is None:
        raise WrongUse("hf: needs the package datasets; install it: pip install 'llm-workbench[datasets]'.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with published_directory(folder) as staging:
            for record in run_process([match[1], match[2] or "", str(staging)]):
                if reason := record.get("error"):
                    raise MissingText(f"{text} could not be downloaded ({reason}); check the name and the network.")
                done, total = record["done"] / 1e6, record["total"] / 1e6
                size = max(done, total) if total else 0
                yield Progress(stage=f"Downloading {text}", done=done, total=size, unit="MB")
    except OSError as error:
        raise MissingText(f"{folder} cannot be written ({error.strerror}); give another --home.") from error
    return folder


def run_process(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """What the process that downloads prints; an error where it ends without having finished. Closing ends it."""
    command = [sys.executable, "-m", "llm.data.text.hub_process", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield json.loads(line)
        if status := process.wait():
            yield {"error": f"the download ended with status {status}"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
