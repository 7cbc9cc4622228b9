"""Whatever stands in a file, reading it gives a value or one sentence: no traceback, no wait, nothing left broken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from llm.errors import UserError
from tests.fuzz.data_kinds import data_kinds
from tests.fuzz.mutations import damaged
from tests.fuzz.run_kinds import Kind, run_kinds, trained_home

SMOKE, FULL = 20, 10_000


@pytest.fixture(scope="module")
def kinds() -> Iterator[dict[str, Kind]]:
    """By name, in a folder in memory where there is one: a disk takes longer to sync a file than all else takes."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield kinds_in(Path(folder))


def kinds_in(folder: Path) -> dict[str, Kind]:
    home = folder / "home"
    trained_home(home)
    found = [*run_kinds(home), *data_kinds(home, folder / "data")]
    assert len({kind.name for kind in found}) == len(found)
    return {kind.name: kind for kind in found}


def strike(kind: Kind, cases: int) -> None:
    """Read `cases` damaged copies of a file. AssertionError tells the first that ended in anything but a sentence."""
    whole = kind.path.read_bytes()
    spare = kind.path.parent.with_name(kind.path.parent.name + ".spare")
    shutil.copytree(kind.path.parent, spare, symlinks=True)
    kind.read()
    for number in range(cases):
        data = damaged(whole, random.Random(f"{kind.name} {number}"))
        kind.path.write_bytes(data)
        try:
            kind.settle()
            kind.read()
        except UserError as error:
            assert str(error).strip() and "\n\n" not in str(error)
        except BaseException as error:
            kept = Path(f"{spare}.case")
            kept.write_bytes(data)
            raise AssertionError(f"{kind.name}, case {number}: {error!r} at {data[:300]!r} (kept in {kept})") from error
        finally:
            bring_back(kind, whole, spare)
    shutil.rmtree(spare)


def bring_back(kind: Kind, whole: bytes, spare: Path) -> None:
    """The folder of a file as it was, which reading may have written to."""
    for path in spare.iterdir():
        place = kind.path.parent / path.name
        if path.is_file() and (not place.exists() or place.read_bytes() != path.read_bytes()):
            shutil.copy2(path, place)
    kind.path.write_bytes(whole)


def test_a_few_damaged_copies_of_every_kind(kinds: dict[str, Kind]) -> None:
    for kind in kinds.values():
        strike(kind, SMOKE)


@pytest.mark.fuzz
def test_many_damaged_copies_of_every_kind(kinds: dict[str, Kind]) -> None:
    for kind in kinds.values():
        strike(kind, FULL)
