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

SMOKE, FULL = 8, 10_000
KINDS = (
    "curves.npz", "events.jsonl", "commands.jsonl", "run.toml", "meta.json", "lock", "manifest.json", "state.json",
    "model.safetensors", "optimizer.safetensors", "tokenizer.json", "transcript", "preset", "settings.toml",
    "knobs.toml", "queue.json", "measured.json", "runs.json", "prepared dataset.json", "prepared train-00000.json",
    "prepared train-00000.bin", "prepared verified.json", "prepared tokenizer/tokenizer.json", "files.json",
    "unverified", "bpe tokenizer.json", "bpe ranks.tiktoken", "char tokenizer.json", "vocab.json", "merges.txt",
    "sentencepiece.model", "a.npy", "encoded_tokens_chunk_0.dat", "b.bin", "own-00000.json", "own-00000.bin", "a.txt",
    "a.jsonl", "a.json", "a.parquet", "prompts.jsonl", "CORE core.yaml", "CORE eval_meta_data.csv",
    "CORE eval_data/pronouns.jsonl", "CORE eval_data/last_words.jsonl", "record of a download", "note of a download",
    "corpora.json", "a.zip",
)  # fmt: skip
"""The names of all kinds, so that they can be fuzzed in parallel."""


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
    assert set(kinds) == set(KINDS)
    for kind in kinds.values():
        strike(kind, SMOKE)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", KINDS)
def test_many_damaged_copies(kinds: dict[str, Kind], name: str) -> None:
    strike(kinds[name], FULL)
