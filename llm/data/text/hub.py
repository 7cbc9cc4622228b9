"""Datasets of the Hugging Face hub: `hf:OWNER/NAME` or `hf:OWNER/NAME:CONFIGURATION`.

The training split is downloaded with the `datasets` library (an extra), which runs no code of a dataset, and saved in
`<home>/datasets` as Arrow files.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from llm.data.text.text_files import MissingText
from llm.data.text.urls import short_digest
from llm.errors import UserError, WrongUse
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


def download_hub_dataset(text: str, home: Path) -> Path:
    """Download the training split, unless it is here; returns its folder, which appears only when it is complete."""
    match = NAME.fullmatch(text)
    if match is None:
        raise WrongUse(f"{text} names no dataset of the hub; write hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION.")
    folder = hub_folder(text, home)
    if folder.is_dir():
        return folder
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise WrongUse("hf: needs the package datasets; install it: pip install 'llm-workbench[datasets]'.") from error
    try:
        rows = load_dataset(*filter(None, match.groups()), split="train")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with published_directory(folder) as staging:
            rows.save_to_disk(str(staging))
    except (OSError, ValueError, RuntimeError) as error:  # what the library raises, without a network too
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{text} could not be downloaded ({reason}); check the name and the network.") from error
    return folder
