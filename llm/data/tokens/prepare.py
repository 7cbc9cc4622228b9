"""From a configuration to token files: `<home>/data/<fingerprint>/`, made once and shared by every run that needs it.

The folder is made under a temporary name and renamed when whole. Two processes may make the same one at once: the
first to finish wins. A process holds a lock (flock) on its temporary folder, so that what an interrupted one left can
be told from what is being written, and is removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm.config import before_added_fields
from llm.config.schema import DataConfig, RunConfig
from llm.data.batches.streaming import RowGroups, StreamedBatches
from llm.data.batches.windows import Batches, BatchSource, check_length
from llm.data.text.background import in_background, summed
from llm.data.text.corpora import check_text, digest
from llm.data.text.holdout import count_characters
from llm.data.text.textfiles import MissingText
from llm.data.tokens.encoders import make_encoder
from llm.data.tokens.learning import WELL_MIXED, learn
from llm.data.tokens.settings import DECIDES_THE_TOKENS
from llm.data.tokens.shards import JoinedTokens, ShardedTokens, TokenSplit, write_synced
from llm.data.tokens.sources import StreamSource, TextSource, learns_tokenizer, open_source, separator_of
from llm.data.tokens.tokenfiles import TokenCorpus, joined, needs_tokenizer, portions
from llm.data.tokens.tokenize import SplitWriter, tokenise
from llm.data.tokens.verified import remember_all, unverified, verify_files
from llm.errors import UserError
from llm.events import Progress
from llm.file_locks import try_lock
from llm.files import STAGING, staging_path, sync_directory, sync_file
from llm.reader import WRONG_SHAPE, load_json
from llm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from llm.tokenizer.patterns import resolve_pattern
from llm.tokenizer.textbytes import TextBytes

INDEX = "dataset.json"
VERSION = 1
STEM = re.compile(r"[a-z]+[a-z_]*[-_][0-9]{1,9}")
HELD_OUT_TEXT = "validation.txt"
UNTOUCHED_SECONDS = 7 * 86_400.0
ADDED_FIELDS = {"train_sample": "beginning", "pattern": "ours", "ties": "ids"}


@dataclass(frozen=True)
class Dataset:
    """A prepared corpus. `warnings` are sentences for the person; `path` is the folder in the cache.

    With a `stream` the training text is tokenised while training, and `train` is only a sample of its beginning.
    """

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    fingerprint: str
    path: Path
    warnings: tuple[str, ...] = ()
    stream: RowGroups | None = None
    notes: tuple[str, ...] = ()
    """Sentences about how it was made, nothing of which is wrong."""

    @property
    def validation_text(self) -> Path:
        """A file with exactly the held-out text, for comparing bits per byte with a compressor's."""
        return self.path / HELD_OUT_TEXT


def prepare(config: RunConfig, home: Path, known: str = "") -> Generator[Progress, None, Dataset]:
    """Make, or find, the token files of `config`; yields progress and returns the Dataset.

    Where the text is not there any more, tokens that were prepared from it are used: of several data sets the one whose
    fingerprint is `known`, else the newest.

    Raises UserError where the corpus is missing, empty or damaged, too short for one window on either side, or where
    the disk is full.
    """
    try:
        source, tokenizer, fingerprint = yield from identify(config, home)
    except MissingText as missing:
        return prepared_earlier(config, home, missing, known)
    target = home / "data" / fingerprint
    if not (target / INDEX).exists():
        with staged(target) as folder:
            if isinstance(source, TokenCorpus):
                assert tokenizer is not None
                index = yield from make_from_tokens(source, tokenizer, folder)
            else:
                index = yield from make(config, source, tokenizer, folder)
            index |= {"version": VERSION, "fingerprint": fingerprint, "corpus": source.name}
            index["made_with"] = made_with(config)
            write_synced(folder / INDEX, json.dumps(index, indent=1).encode())
            remember_all(folder, token_paths_of(folder, index))
    dataset = load_dataset(target, source)
    yield from verify_prepared(dataset)
    return checked_lengths(dataset, config)


def checked_lengths(dataset: Dataset, config: RunConfig) -> Dataset:
    """`dataset`; UserError where a side is too short for one window of `config`."""
    seq_len = config.train.seq_len or config.model.context
    check_length(dataset.train, seq_len)
    check_length(dataset.validation, seq_len)
    return dataset


def identify(
    config: RunConfig, home: Path
) -> Generator[Progress, None, tuple[TextSource | StreamSource | TokenCorpus, Tokenizer | None, str]]:
    """The source of `config`, its tokenizer (None where it is learned from the text) and the fingerprint of the data
    set they make. Yields progress; raises UserError where the corpus is missing, empty or damaged."""
    source = open_source(config, home)
    identity = yield from in_background(
        lambda report: source.fingerprint(summed(report)), "Reading the corpus", source.size_bytes / 1e6
    )
    tokenizer = given_tokenizer(config, source)
    return source, tokenizer, dataset_fingerprint(identity, config, tokenizer)


def find_prepared(config: RunConfig, home: Path) -> tuple[Dataset | None, Tokenizer | None]:
    """The data set of `config` if it is there, and the tokenizer if it need not be learnt; nothing is made."""
    try:
        source = open_source(config, home)
    except MissingText as missing:
        dataset = prepared_earlier(config, home, missing)
        return dataset, dataset.tokenizer
    tokenizer = given_tokenizer(config, source)
    target = home / "data" / dataset_fingerprint(source.fingerprint(), config, tokenizer)
    return (load_dataset(target, source) if (target / INDEX).exists() else None), tokenizer


def prepared_earlier(config: RunConfig, home: Path, missing: MissingText, known: str = "") -> Dataset:
    """The data set that was made with the same settings, for a text that is not there any more: `known`, or the newest.

    Raises `missing` where there is none, or where the text itself is read while training.
    """
    wanted = made_with(config)
    found = [] if config.data.order == "stream" else list((home / "data").glob(f"*/{INDEX}"))
    for index in sorted(found, key=lambda path: (path.parent.name == known, path.stat().st_mtime_ns), reverse=True):
        try:
            record = load_json(index)
            fits = "files" not in record and deciding(record["made_with"]) == deciding(wanted)
        except (UserError, OSError, *WRONG_SHAPE):
            continue  # damaged, or from before settings were recorded
        if fits:
            dataset = load_dataset(index.parent)
            warning = (
                f"The text {config.data.corpus} is not there any more; the tokens that were prepared from it are used."
            )
            return checked_lengths(replace(dataset, warnings=(*dataset.warnings, warning)), config)
    raise missing


def made_with(config: RunConfig) -> dict[str, Any]:
    """The settings of a data set, for its index."""
    return {"data": asdict(config.data), "tokenizer": asdict(config.tokenizer)}


def deciding(settings: dict[str, Any]) -> str:
    """Of the settings in an index, those that decide the tokens, as one text; one that is not recorded had its
    default."""
    data = asdict(DataConfig()) | settings["data"]
    tokenizer = asdict(before_added_fields().tokenizer) | settings["tokenizer"]
    return json.dumps([[data[name] for name in DECIDES_THE_TOKENS], tokenizer], sort_keys=True)


def batch_source(
    dataset: Dataset,
    config: RunConfig,
    *,
    rows: int,
    seq_len: int,
    start: int = 0,
    cursor: Any = None,
    rank: int = 0,
    ranks: int = 1,
) -> BatchSource:
    """The training batches of `config` from batch `start` on, where `cursor` was taken, each of `rows` rows.

    Of several ranks each gets its share of every batch's rows.
    """
    if dataset.stream is not None:
        return StreamedBatches(
            dataset.stream,
            dataset.tokenizer,
            config.data.boundary,
            rows=rows,
            seq_len=seq_len,
            streams=config.data.streams,
            start=start,
            cursor=cursor,
            rank=rank,
            ranks=ranks,
        )
    return Batches(
        dataset.train,
        rows=rows,
        seq_len=seq_len,
        seed=config.train.seed,
        order=config.data.order,
        stride=config.data.stride,
        drop_last=config.data.drop_last,
        rank=rank,
        ranks=ranks,
    )


def make(
    config: RunConfig, source: TextSource | StreamSource, tokenizer: Tokenizer | None, folder: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Write the token files of a text into `folder`; returns what the index says of them."""
    if isinstance(source, TextSource):
        yield from in_background(lambda report: check_text(source.corpus), "Reading the corpus")
    characters = 0
    if isinstance(source, TextSource) and source.ends_with_held_out:
        characters = yield from in_background(lambda report: count_characters(source.corpus), "Measuring the corpus")
    notes: list[str] = []
    warnings: list[str] = []
    if tokenizer is None:
        learned = yield from learn(config, source, characters, folder)
        tokenizer, notes, warnings = learned.tokenizer, learned.notes, learned.warnings
    tokenizer.save(folder / "tokenizer")
    chunk_tokens = config.data.chunk_tokens
    splits = {
        "train": SplitWriter(folder, "train", tokenizer, chunk_tokens=chunk_tokens),
        "validation": SplitWriter(folder, "validation", tokenizer, folder / HELD_OUT_TEXT, chunk_tokens),
    }
    yield from tokenise(
        source.units(characters),
        tokenizer,
        make_encoder(tokenizer, folder / "tokenizer", source.size_bytes, config.data.processes),
        config.data.boundary,
        splits["train"],
        splits["validation"],
        source.size_bytes,
    )
    if not splits["train"].tokens or not splits["validation"].tokens:
        raise UserError(
            f"The corpus {source.name} ({source.size_bytes:,} bytes) is too short to hold out a share of "
            f"{config.data.validation_fraction} for validation; give more text or a larger data.validation_fraction."
        )
    warnings += source.warnings()
    index: dict[str, Any] = {"warnings": warnings, "notes": notes}
    index["splits"] = {name: writer.record() for name, writer in splits.items()}
    if tokenizer.text_changes():
        for name, record in index["splits"].items():
            record["spelled"] = spelled_bytes(split_of(folder, index, name, tokenizer), tokenizer)
    return index


def make_from_tokens(
    source: TokenCorpus, tokenizer: Tokenizer, folder: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Look at every token of token files, which stay where they are; returns what the index says of them."""
    tokenizer.save(folder / "tokenizer")
    megabytes = source.size_bytes / 1e6
    splits = yield from in_background(
        lambda report: source.verify(tokenizer, folder / HELD_OUT_TEXT, summed(report)), "Checking tokens", megabytes
    )
    return {"warnings": [], "splits": splits, "files": source.record()}


def load_dataset(path: Path, source: TextSource | StreamSource | TokenCorpus | None = None) -> Dataset:
    """A data set made earlier, the sizes of its files checked. UserError names what is damaged.

    Where token files or Parquet lie now, `source` knows; without it token files are looked for where they lay, and a
    stream is left out.
    """
    try:
        index = load_json(path / INDEX)
        tokenizer = load_tokenizer(path / "tokenizer")
        if "files" in index:
            files = source if isinstance(source, TokenCorpus) else TokenCorpus.from_record(index["files"])
            train, validation = files.splits(tokenizer.vocab_size, index["splits"])
        else:
            train, validation = (split_of(path, index, name, tokenizer) for name in ("train", "validation"))
        rewritten = tokenizer.text_changes(bytes_known="files" not in index)
        warnings, fingerprint = tuple(map(str, index["warnings"])), str(index["fingerprint"])
        notes = tuple(map(str, index.get("notes", ())))
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read ({error.strerror}); allow that.") from error
    except WRONG_SHAPE as error:
        raise UserError(f"The prepared data in {path} is damaged; delete that folder and it is made again.") from error
    stream = source.stream if isinstance(source, StreamSource) else None
    warnings = tuple(filter(None, (*warnings, rewritten)))
    return Dataset(tokenizer, train, validation, fingerprint, path, warnings, stream, notes)


def verify_prepared(dataset: Dataset) -> Generator[Progress, None, None]:
    """Read the token files of a data set in full, those that were not verified as they are now; UserError names one
    that is damaged. Files of other programs are verified when they are prepared."""
    paths = token_paths_of(dataset.path, load_json(dataset.path / INDEX))
    waiting = unverified(dataset.path, paths)
    if waiting:
        size = sum(path.stat().st_size for path in waiting) / 1e6
        yield from in_background(
            lambda report: verify_files(dataset.path, waiting, dataset.tokenizer.vocab_size, summed(report)),
            "Verifying the prepared data",
            size,
        )


def token_paths_of(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    """The token files in the folder of a data set; none where they are another program's and lie elsewhere."""
    if "files" in index:
        return []
    return [path for name in ("train", "validation") for path in paths_of_split(folder, index["splits"][name], name)]


def paths_of_split(folder: Path, record: Mapping[str, Any], name: str) -> list[Path]:
    """The files of one side. ValueError where the index names files outside the folder."""
    names = record["chunks"] if "chunks" in record else record["shards"]
    if not names or not all(isinstance(stem, str) and STEM.fullmatch(stem) for stem in names):
        raise ValueError(f"{names!r:.40} are no names of token files")
    chunked = "chunks" in record
    return [folder / name / f"{stem}.dat" if chunked else folder / f"{stem}.bin" for stem in names]


def split_of(path: Path, index: dict[str, Any], name: str, tokenizer: Tokenizer) -> TokenSplit:
    """The tokens of one side: our own shards, or chunk files."""
    record = index["splits"][name]
    paths = paths_of_split(path, record, name)
    label = "training" if name == "train" else "held-out"
    tokens: JoinedTokens
    if "chunks" not in record:
        tokens = ShardedTokens(label, paths, int(record["bytes"]))
    else:
        tokens = joined(label, paths, tokenizer.vocab_size, int(record["bytes"]))
        if len(tokens) != record["tokens"]:
            raise ValueError(f"{len(tokens)} tokens where there were {record['tokens']}")
    if tokenizer.text_changes():
        spelled = int(record["spelled"]) if "spelled" in record else spelled_bytes(tokens, tokenizer)
        tokens.bytes_scale = int(record["bytes"]) / max(1, spelled)
    return tokens


def spelled_bytes(tokens: TokenSplit, tokenizer: Tokenizer) -> int:
    """Bytes of the text that the tokens spell, which is not the text itself where the tokenizer rewrites it."""
    text = TextBytes(tokenizer)
    return sum(int(text.counts(*part).sum()) for part in portions(tokens, text.beginning))


def given_tokenizer(config: RunConfig, source: TextSource | StreamSource | TokenCorpus) -> Tokenizer | None:
    """The tokenizer of `config`; None where it is to be learnt from the text, which token files do not hold."""
    if not learns_tokenizer(config):
        return build_tokenizer(config.tokenizer, ())
    if isinstance(source, TokenCorpus):
        raise needs_tokenizer()
    resolve_pattern(config.tokenizer.pattern)  # refused now, and not after the corpus was read
    return None


def learning_of(config: RunConfig) -> dict[str, Any]:
    """What decides a learned tokenizer besides the text. Fields that were added later are left out where they say what
    was done before they were there, so that data which were prepared then are found again."""
    chosen = asdict(config.tokenizer)
    if config.data.corpus in WELL_MIXED or config.tokenizer.kind == "char":
        chosen["train_sample"] = "beginning"
    return {name: value for name, value in chosen.items() if ADDED_FIELDS.get(name) != value}


def dataset_fingerprint(identity: str, config: RunConfig, tokenizer: Tokenizer | None) -> str:
    """Names a data set by all that decides its tokens; 32 hexadecimal digits."""
    data = config.data
    encoding = json.dumps(learning_of(config)) if tokenizer is None else tokenizer.fingerprint()
    return digest(
        str(VERSION),
        identity,
        encoding,
        data.split,
        repr(data.validation_fraction),
        data.boundary,
        separator_of(config),
        *([f"chunks of {data.chunk_tokens}"] if data.chunk_tokens else []),
    )[:32]


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
        try_lock(lock, wait=True)
        if folder.exists():
            return folder, lock
        os.close(lock)  # somebody who was cleaning took it for a leftover before it was locked


def remove_leftovers(directory: Path) -> None:
    """Remove temporary folders that no living process holds; where there are no locks, those of long ago."""
    for folder in directory.glob(f"{STAGING}*"):
        if not folder.is_dir():
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            if try_lock(lock) or time.time() - folder.stat().st_mtime > UNTOUCHED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(lock)
