"""From a configuration to token files: `<home>/data/<fingerprint>/`, made once and shared by every run that needs it.

The folder is made under a temporary name and renamed when whole. Two processes may make the same one at once: the
first to finish wins. A process holds a lock (flock) on its temporary folder, so that what an interrupted one left can
be told from what is being written, and is removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm.config.schema import RunConfig
from llm.data.background import Report, in_background, summed
from llm.data.batches import check_length
from llm.data.corpora import Corpus, digest, open_corpus
from llm.data.holdout import count_characters, units
from llm.data.shards import ShardedTokens, TokenSplit, write_synced
from llm.data.tokenise import SplitWriter, tokenise
from llm.errors import UserError
from llm.events import Progress
from llm.files import STAGING, staging_path, sync_directory, sync_file
from llm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

INDEX = "dataset.json"
VERSION = 1
HELD_OUT_TEXT = "validation.txt"
TRAINED_KINDS = ("char", "bpe", "sentencepiece")


@dataclass(frozen=True)
class Dataset:
    """A prepared corpus. `warnings` are sentences for the person; `path` is the folder in the cache."""

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    fingerprint: str
    path: Path
    warnings: tuple[str, ...] = ()

    @property
    def validation_text(self) -> Path:
        """A file with exactly the held-out text, for comparing bits per byte with a compressor's."""
        return self.path / HELD_OUT_TEXT


def prepare(config: RunConfig, home: Path) -> Generator[Progress, None, Dataset]:
    """Make, or find, the token files of `config`; yields progress and returns the Dataset.

    Raises UserError where the corpus is missing, empty or damaged, too short for one window on either side, or where
    the disk is full.
    """
    separator = next(iter(config.tokenizer.special_tokens), "")
    corpus = open_corpus(config.data, home, separator)
    identity = yield from in_background(
        lambda report: corpus.fingerprint(summed(report)), "Reading the corpus", corpus.size_bytes / 1e6
    )
    tokenizer = None if is_trained(config) else build_tokenizer(config.tokenizer, ())
    fingerprint = dataset_fingerprint(identity, config, tokenizer)
    target = home / "data" / fingerprint
    if not (target / INDEX).exists():
        with staged(target) as folder:
            yield from make(config, corpus, tokenizer, folder, fingerprint)
    dataset = load_dataset(target)
    seq_len = config.train.seq_len or config.model.context
    check_length(dataset.train, seq_len)
    check_length(dataset.validation, seq_len)
    return dataset


def make(
    config: RunConfig, corpus: Corpus, tokenizer: Tokenizer | None, folder: Path, fingerprint: str
) -> Generator[Progress, None, None]:
    """Write a whole data set into `folder`."""
    characters = 0
    if config.data.split == "tail":
        characters = yield from in_background(lambda report: count_characters(corpus), "Measuring the corpus")
    if tokenizer is None:
        tokenizer = yield from in_background(
            lambda report: train_tokenizer(config, corpus, characters, report), "Training the tokenizer", 100, "%"
        )
    tokenizer.save(folder / "tokenizer")
    splits = {
        "train": SplitWriter(folder, "train", tokenizer),
        "validation": SplitWriter(folder, "validation", tokenizer, folder / HELD_OUT_TEXT),
    }
    yield from tokenise(
        units(corpus, config.data, characters),
        tokenizer,
        config.data.boundary,
        splits["train"],
        splits["validation"],
        corpus.size_bytes,
    )
    if not splits["train"].tokens or not splits["validation"].tokens:
        raise UserError(
            f"The corpus {corpus.name} ({corpus.size_bytes:,} bytes) is too short to hold out a share of "
            f"{config.data.validation_fraction} for validation; give more text or a larger data.validation_fraction."
        )
    index = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "corpus": corpus.name,
        "warnings": corpus.warnings(),
        "splits": {name: writer.record() for name, writer in splits.items()},
    }
    write_synced(folder / INDEX, json.dumps(index, indent=1).encode())


def load_dataset(path: Path) -> Dataset:
    """A data set made earlier, the sizes of its files checked. UserError names what is damaged."""
    try:
        index = json.loads((path / INDEX).read_bytes())
        train, validation = (split_of(path, index, name) for name in ("train", "validation"))
        warnings, fingerprint = tuple(index["warnings"]), index["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The prepared data in {path} is damaged; delete that folder and it is made again.") from error
    return Dataset(load_tokenizer(path / "tokenizer"), train, validation, fingerprint, path, warnings)


def split_of(path: Path, index: dict[str, Any], name: str) -> ShardedTokens:
    record = index["splits"][name]
    label = "training" if name == "train" else "held-out"
    return ShardedTokens(label, [path / f"{shard}.bin" for shard in record["shards"]], record["bytes"])


def is_trained(config: RunConfig) -> bool:
    """Whether the tokenizer is learnt from the corpus, rather than given."""
    return config.tokenizer.kind in TRAINED_KINDS and not config.tokenizer.path


def train_tokenizer(config: RunConfig, corpus: Corpus, characters: int, report: Report) -> Tokenizer:
    """A tokenizer learnt from the training side; a character one from all of the text, so that none is unknown."""
    alphabet = config.tokenizer.kind == "char"
    read = summed(lambda done: report(100e6 * done / corpus.size_bytes) if alphabet else None)

    def texts() -> Iterator[str]:
        for unit in units(corpus, config.data, characters):
            for piece in unit.pieces if alphabet or not unit.held_out else ():
                read(len(piece))
                yield piece

    return build_tokenizer(config.tokenizer, texts(), lambda done, total: report(100 * done / total))


def dataset_fingerprint(identity: str, config: RunConfig, tokenizer: Tokenizer | None) -> str:
    """Names a data set by all that decides its tokens; 32 hexadecimal digits."""
    data = config.data
    encoding = json.dumps(asdict(config.tokenizer)) if tokenizer is None else tokenizer.fingerprint()
    return digest(
        str(VERSION),
        identity,
        encoding,
        data.split,
        repr(data.validation_fraction),
        data.boundary,
        separator_of(config),
    )[:32]


def separator_of(config: RunConfig) -> str:
    return next(iter(config.tokenizer.special_tokens), "")


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and vanishes otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        folder, lock = locked_folder(target)
        try:
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    sync_file(path)
            publish(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"The data cannot be prepared in {target.parent} ({reason}); free some space there or give another --home."
        ) from error


def publish(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`, unless another process has just published the same."""
    try:
        folder.rename(target)
    except OSError:
        if not (target / INDEX).exists():
            raise
    sync_directory(target.parent)


def locked_folder(target: Path) -> tuple[Path, int]:
    """A new temporary folder beside `target` and the descriptor that holds its lock."""
    while True:
        folder = staging_path(target)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # somebody who was cleaning took it for a leftover before it was locked


def remove_leftovers(directory: Path) -> None:
    """Remove temporary folders that no living process holds."""
    for folder in directory.glob(f"{STAGING}*"):
        if not folder.is_dir():
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
