"""Which files a path, folder or glob means, and which of those it finds are passed over, with the reason."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llm.data.text.text_files import why_not_text

NAMED_AT_MOST = 5  # files of each reason in a sentence


class PassedOver(NamedTuple):
    """A file or folder that was left out, and why."""

    path: Path
    reason: str


class FoundFiles(NamedTuple):
    """The files that a pattern means, in a fixed order, and what else lies there."""

    paths: list[Path]
    passed_over: list[PassedOver]


def find_files(pattern: str) -> list[Path]:
    """The files that a path, folder (all the way down) or glob means, in a fixed order."""
    return look_for_files(pattern).paths


def look_for_files(pattern: str) -> FoundFiles:
    """The files that a path, folder (all the way down, links to folders included) or glob means.

    In a folder, hidden files and those without text are passed over.
    """
    path = Path(pattern).expanduser()
    if not os.access(path, os.F_OK):
        return match_files(str(path))
    if not path.is_dir():
        return FoundFiles([path] if path.is_file() else [], [])
    passed_over: list[PassedOver] = []
    found = [Path(folder, name) for folder, _, names in walk_linked(path, passed_over) for name in sorted(names)]
    reasons = {file: why_passed_over(file) for file in found}
    passed_over += [PassedOver(file, reason) for file, reason in reasons.items() if reason]
    return FoundFiles([file for file in found if not reasons[file]], passed_over)


def match_files(pattern: str) -> FoundFiles:
    """The files that a glob means; ** stands for all folders further down, as they are walked."""
    return FoundFiles([path for path in sorted(set(expand(pattern)), key=str) if path.is_file()], [])


def expand(pattern: str) -> Iterator[Path]:
    """What a glob matches. Python's own ** never ends where links go in a circle."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207  Path.glob takes no absolute pattern
        return
    place = parts.index("**")
    below = parts[place + 1 :] or ("*",)
    for root in expand(str(Path(*parts[:place]))):
        for folder, _, _ in walk_linked(root, []):
            yield from expand(str(Path(glob.escape(folder), *below)))


def why_passed_over(path: Path) -> str:
    """Why a file in a folder is not read; "" where it is."""
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "not a regular file"
    return "" if path.suffix.lower() == ".parquet" else why_not_text(path)


def walk(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, without hidden folders, links to folders and those named in `skip`."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skip)
        yield folder, folders, names


def walk_linked(root: Path, passed_over: list[PassedOver]) -> Iterator[tuple[str, list[str], list[str]]]:
    """The same, into links to folders too, each folder once; what is not entered is added to `passed_over`."""
    entered = [root.resolve()]
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for path in (Path(folder, name) for name in sorted(folders)):
            if reason := why_not_entered(path, entered):
                passed_over.append(PassedOver(path, reason))
            else:
                kept.append(path.name)
        folders[:] = kept
        yield folder, folders, names


def why_not_entered(path: Path, entered: list[Path]) -> str:
    """Why a folder is not entered, "" where it is; `entered` are the real folders that are read anyway, with all that
    is in them, and is added to."""
    if path.name.startswith("."):
        return "hidden"
    if not path.is_symlink():
        return ""
    real = path.resolve()
    if any(root.is_relative_to(real) for root in (entered[0], path.parent.resolve())):
        return "a link back to a folder that holds it"
    if any(real.is_relative_to(root) and not is_hidden(real.relative_to(root)) for root in entered):
        return "a link to a folder that is read in its own place"
    entered.append(real)
    return ""


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def describe_passed_over(passed_over: list[PassedOver]) -> list[str]:
    """A sentence for each reason, with the number of files and the first of their names."""
    by_reason: dict[str, list[Path]] = {}
    for path, reason in passed_over:
        by_reason.setdefault(reason, []).append(path)
    return [
        f"{len(paths):,} {'file or folder' if len(paths) == 1 else 'files or folders'} passed over ({reason}): "
        f"{', '.join(str(path) for path in paths[:NAMED_AT_MOST])}{', …' if len(paths) > NAMED_AT_MOST else ''}."
        for reason, paths in by_reason.items()
    ]
