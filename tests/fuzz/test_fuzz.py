"""Whatever stands in a file, reading it gives a value or one sentence: no traceback, no wait, nothing left broken."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm.errors import UserError
from tests.fuzz.data_kinds import data_kinds
from tests.fuzz.mutations import damaged
from tests.fuzz.run_kinds import Kind, run_kinds, trained_home

SMOKE, FULL = 60, 10_000


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("fuzz")
    home = folder / "home"
    trained_home(home)
    found = [*run_kinds(home), *data_kinds(home, folder / "data")]
    assert len({kind.name for kind in found}) == len(found)
    return {kind.name: kind for kind in found}


@pytest.fixture
def restored(kinds: dict[str, Kind]) -> Iterator[None]:
    """The folders of all kinds, as they were before."""
    yield


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
    folder = kind.path.parent
    for path in spare.iterdir():
        if path.is_file() and (
            not (folder / path.name).exists() or (folder / path.name).read_bytes() != path.read_bytes()
        ):
            shutil.copy2(path, folder / path.name)
    kind.path.write_bytes(whole)


def test_a_few_damaged_copies_of_every_kind(kinds: dict[str, Kind]) -> None:
    for kind in kinds.values():
        strike(kind, SMOKE)


@pytest.mark.fuzz
def test_many_damaged_copies_of_every_kind(kinds: dict[str, Kind]) -> None:
    for kind in kinds.values():
        strike(kind, FULL)
