"""A tokenized dataset: the folder `<home>/data/<fingerprint>/` with its index `dataset.json`."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config.resolve import resolve_seq_len
from llm.config.schema import RunConfig
from llm.data.background import count_megabytes, run_in_background
from llm.data.text.parquet import RowGroups
from llm.data.tokens.conversation_tokens import ConversationTokens, check_conversations
from llm.data.tokens.shards import JoinedTokens, ShardedTokens, TokenSplit, check_length
from llm.data.tokens.sources import Source, StreamSource
from llm.data.tokens.token_files import TokenCorpus, decoded_bytes, join_token_files
from llm.data.tokens.verification import unverified, verify_files
from llm.errors import UserError
from llm.events import Progress
from llm.reader import WRONG_SHAPE, load_json
from llm.tokenizer import Tokenizer, load_tokenizer

INDEX = "dataset.json"
VALIDATION_TEXT = "validation.txt"
SPLITS = {"train": "training", "validation": "validation"}
STEM = re.compile(r"[a-z]+[a-z_]*[-_][0-9]{1,9}")


@dataclass(frozen=True)
class Dataset:
    """A tokenized dataset. `path` is its folder; `warnings` and `notes` are sentences for the user.

    With a `stream`, the training text is tokenized during training and `train` is a sample of its beginning.
    """

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    fingerprint: str
    path: Path
    warnings: tuple[str, ...] = ()
    stream: RowGroups | None = None
    notes: tuple[str, ...] = ()

    @property
    def validation_text(self) -> Path:
        """A file with exactly the validation text, to compare bits per byte with a compressor's."""
        return self.path / VALIDATION_TEXT


def load_dataset(path: Path, source: Source | None = None) -> Dataset:
    """The dataset in the folder `path`, with the sizes of its files checked. UserError names what is damaged.

    `source` says where token files or Parquet files are now. Without it, token files are read from the paths in the
    index, and there is no stream.
    """
    try:
        index = load_json(path / INDEX)
        tokenizer = load_tokenizer(path / "tokenizer")
        if "files" in index:
            files = source if isinstance(source, TokenCorpus) else TokenCorpus.from_record(index["files"])
            train, validation = files.splits(tokenizer.vocab_size, index["splits"])
        else:
            train, validation = (load_split(path, index, name, tokenizer) for name in SPLITS)
        rewritten = tokenizer.text_changes(bytes_known="files" not in index)
        warnings, fingerprint = tuple(map(str, index["warnings"])), str(index["fingerprint"])
        notes = tuple(map(str, index.get("notes", ())))
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}); check that it is there and may be read."
        ) from error
    except WRONG_SHAPE as error:
        raise UserError(f"The prepared data in {path} is damaged; delete that folder and it is made again.") from error
    stream = source.stream if isinstance(source, StreamSource) else None
    warnings = tuple(filter(None, (*warnings, rewritten)))
    return Dataset(tokenizer, train, validation, fingerprint, path, warnings, stream, notes)


def load_split(folder: Path, index: Mapping[str, Any], name: str, tokenizer: Tokenizer) -> TokenSplit:
    """The tokens of one split: shards, or chunk files."""
    record = index["splits"][name]
    paths = list(token_files(folder, record, name))
    tokens: JoinedTokens
    if "marks" in record:
        marks = list(mark_files(folder, record))
        tokens = ConversationTokens(SPLITS[name], paths, marks, int(record["bytes"]))
    elif "chunks" in record:
        tokens = join_token_files(SPLITS[name], paths, tokenizer.vocab_size, int(record["bytes"]))
        if len(tokens) != record["tokens"]:
            raise ValueError(f"{len(tokens)} tokens where there were {record['tokens']}")
    else:
        tokens = ShardedTokens(SPLITS[name], paths, int(record["bytes"]))
    if tokenizer.text_changes():
        spelled = int(record["spelled"]) if "spelled" in record else decoded_bytes(tokens, tokenizer)
        tokens.bytes_scale = int(record["bytes"]) / max(1, spelled)
    return tokens


def token_files(folder: Path, record: Mapping[str, Any], name: str) -> dict[Path, str]:
    """The files of one split with the sha256 in the index: that of chunks, "" for shards and for chunks of 0.1.0.
    ValueError if the index names files outside the folder or the lists differ in length."""
    names = record["chunks"] if "chunks" in record else record["shards"]
    if "chunks" not in record:
        return shard_files(folder, names)
    check_stems(names)
    checksums = map(str, record.get("sha256") or [""] * len(names))
    return {folder / name / f"{stem}.dat": sha256 for stem, sha256 in zip(names, checksums, strict=True)}


def mark_files(folder: Path, record: Mapping[str, Any]) -> dict[Path, str]:
    """The files of the marks of one split of conversations; none for text."""
    return shard_files(folder, record["marks"]) if "marks" in record else {}


def shard_files(folder: Path, names: Any) -> dict[Path, str]:
    check_stems(names)
    return {folder / f"{stem}.bin": "" for stem in names}


def check_stems(names: Any) -> None:
    """ValueError unless `names` are names of token files in the folder."""
    if not names or not all(isinstance(stem, str) and STEM.fullmatch(stem) for stem in names):
        raise ValueError(f"{names!r:.40} are no names of token files")


def all_token_files(folder: Path, index: Mapping[str, Any]) -> dict[Path, str]:
    """The token files in the folder of a dataset, as in `token_files`; none if the dataset reads another program's
    files elsewhere."""
    if "files" in index:
        return {}
    found: dict[Path, str] = {}
    for name in SPLITS:
        record = index["splits"][name]
        found |= token_files(folder, record, name) | mark_files(folder, record)
    return found


def verify_dataset(dataset: Dataset) -> Generator[Progress, None, None]:
    """Read in full the token files that were not verified since they changed; UserError names a damaged one. Files of
    other programs are verified when they are prepared."""
    files = all_token_files(dataset.path, load_json(dataset.path / INDEX))
    waiting = {path: files[path] for path in unverified(dataset.path, files)}
    if waiting:
        yield from run_in_background(
            lambda report: verify_files(dataset.path, waiting, dataset.tokenizer.vocab_size, count_megabytes(report)),
            "Verifying the tokenized dataset",
            sum(path.stat().st_size for path in waiting) / 1e6,
        )


def check_lengths(dataset: Dataset, config: RunConfig) -> list[str]:
    """Warnings about conversations longer than the sequences of `config`. UserError if a split is too short for one
    sequence."""
    if config.tune.stage == "dpo":
        return []  # the lengths of pairs are checked when they are read
    seq_len = resolve_seq_len(config.train, config.model)
    warnings = []
    for split in (dataset.train, dataset.validation):
        if isinstance(split, ConversationTokens):
            warnings += check_conversations(split, seq_len)
        else:
            check_length(split, seq_len)
    return warnings
