"""The files of a path, folder or glob, and the skipped ones with the reason."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llm.data.text.saved_datasets import SUFFIX, is_about_data, train_split
from llm.data.text.text_files import why_not_text
from llm.files import expand_user

MAX_NAMES = 5  # files per reason in a sentence


class SkippedFile(NamedTuple):
    """A file or folder that is not read, and why."""

    path: Path
    reason: str


class FoundFiles(NamedTuple):
    """The files of a pattern in a fixed order, and the skipped ones."""

    paths: list[Path]
    skipped: list[SkippedFile]


def find_files(pattern: str) -> list[Path]:
    """The files of a path, folder (recursively) or glob, in a fixed order."""
    return search_files(pattern).paths


def search_files(pattern: str) -> FoundFiles:
    """The files of a path, folder (recursively, following links to folders) or glob.

    In a folder, hidden files and files without text are skipped. Of a saved dataset of several splits, the training
    split is read.
    """
    path = expand_user(pattern)
    if not os.access(path, os.F_OK):
        return match_glob(str(path))
    if not path.is_dir():
        return FoundFiles([path] if path.is_file() else [], [])
    path = train_split(path)
    skipped: list[SkippedFile] = []
    found = [Path(folder, name) for folder, _, names in walk_following_links(path, skipped) for name in sorted(names)]
    reasons = {file: skip_reason(file) for file in found}
    skipped += [SkippedFile(file, reason) for file, reason in reasons.items() if reason]
    return FoundFiles([file for file in found if not reasons[file]], skipped)


def match_glob(pattern: str) -> FoundFiles:
    """The files of a glob; ** matches all folders below, like `walk_following_links`."""
    return FoundFiles([path for path in sorted(set(expand(pattern)), key=str) if path.is_file()], [])


def expand(pattern: str) -> Iterator[Path]:
    """The paths a glob matches. Python's own ** does not end if links form a circle."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207  Path.glob takes no absolute pattern
        return
    place = parts.index("**")
    below = parts[place + 1 :] or ("*",)
    for root in expand(str(Path(*parts[:place]))):
        for folder, _, _ in walk_following_links(root, []):
            yield from expand(str(Path(glob.escape(folder), *below)))


def skip_reason(path: Path) -> str:
    """Why a file in a folder is skipped; "" if it is read."""
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a regular file"
    if is_about_data(path):
        return "about the dataset"
    return "" if path.suffix.lower() in (".parquet", SUFFIX) else why_not_text(path)


def walk(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, without hidden folders, links to folders and those named in `skip`."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skip)
        yield folder, folders, names


def walk_following_links(root: Path, skipped: list[SkippedFile]) -> Iterator[tuple[str, list[str], list[str]]]:
    """The same, following links to folders, each folder once; adds the folders it skips to `skipped`."""
    entered = [root.resolve()]
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for path in (Path(folder, name) for name in sorted(folders)):
            if reason := folder_skip_reason(path, entered):
                skipped.append(SkippedFile(path, reason))
            else:
                kept.append(path.name)
        folders[:] = kept
        yield folder, folders, names


def folder_skip_reason(path: Path, entered: list[Path]) -> str:
    """Why a folder is skipped, "" if it is entered. `entered` are the resolved roots that are read; a followed link
    is added."""
    if path.name.startswith("."):
        return "hidden"
    if not path.is_symlink():
        return ""
    real = path.resolve()
    if any(root.is_relative_to(real) for root in (entered[0], path.parent.resolve())):
        return "a link to one of its parent folders"
    if any(real.is_relative_to(root) and not is_hidden(real.relative_to(root)) for root in entered):
        return "a link to a folder that is read anyway"
    entered.append(real)
    return ""


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def describe_skipped(skipped: list[SkippedFile]) -> list[str]:
    """A sentence for each reason with the number of files and the first names."""
    by_reason: dict[str, list[Path]] = {}
    for path, reason in skipped:
        by_reason.setdefault(reason, []).append(path)
    return [
        f"{len(paths):,} {'file or folder' if len(paths) == 1 else 'files or folders'} skipped ({reason}): "
        f"{', '.join(str(path) for path in paths[:MAX_NAMES])}{', …' if len(paths) > MAX_NAMES else ''}."
        for reason, paths in by_reason.items()
    ]
