"""Folders that `save_to_disk` of Hugging Face's `datasets` writes, and the Arrow files in them.

Such a folder holds `data-00000-of-00001.arrow`, … in Arrow's streaming format, with `state.json` and
`dataset_info.json`; one of several splits holds `dataset_dict.json` and a folder for each.
"""

from __future__ import annotations

from pathlib import Path

FILE_MAGIC = b"ARROW1"
SUFFIX = ".arrow"
ABOUT = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
TRAIN = "train"


def is_arrow(name: str, beginning: bytes) -> bool:
    """Whether a file with this name and beginning is read as Arrow."""
    return Path(name).suffix.lower() == SUFFIX or beginning.startswith(FILE_MAGIC)


def train_split(folder: Path) -> Path:
    """The folder of the training split if `folder` holds a saved dataset of several splits, else `folder` itself."""
    split = folder / TRAIN
    return split if (folder / "dataset_dict.json").is_file() and split.is_dir() else folder


def is_about_data(path: Path) -> bool:
    """Whether a file describes a saved dataset instead of holding its text."""
    return path.name in ABOUT and (path.name == "dataset_dict.json" or any(path.parent.glob(f"*{SUFFIX}")))
