"""From a configuration to a tokenized dataset, made once and shared by every run that needs it."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm.config.schema import RunConfig
from llm.data.background import count_megabytes, run_in_background
from llm.data.text.corpora import check_text
from llm.data.text.hub import download_named_in
from llm.data.text.text_files import MissingText
from llm.data.text.validation_split import count_characters
from llm.data.tokens.conversation_source import ConversationSource, tokenize_conversations
from llm.data.tokens.dataset import (
    INDEX,
    VALIDATION_TEXT,
    Dataset,
    all_token_files,
    check_lengths,
    load_dataset,
    verify_dataset,
)
from llm.data.tokens.encoders import make_encoder
from llm.data.tokens.fingerprint import (
    PATH_SETTINGS,
    VERSION,
    dataset_fingerprint,
    index_settings,
    token_settings,
)
from llm.data.tokens.shards import write_synced
from llm.data.tokens.sources import Source, StreamSource, TextSource, open_source, trains_tokenizer
from llm.data.tokens.staging import empty_folder, staging_folder
from llm.data.tokens.token_files import TokenCorpus, needs_tokenizer
from llm.data.tokens.tokenizing import Tokenizing, resume_tokenizing, skip_units
from llm.data.tokens.train_tokenizer import TrainedTokenizer, train_tokenizer
from llm.data.tokens.verification import record_written
from llm.errors import UserError
from llm.events import Progress
from llm.reader import WRONG_SHAPE, load_json
from llm.tokenizer import Tokenizer, build_tokenizer
from llm.tokenizer.chat_template import with_template
from llm.tokenizer.patterns import resolve_pattern


def prepare(config: RunConfig, home: Path, known: str = "") -> Generator[Progress, None, Dataset]:
    """Find or make the tokenized dataset of `config`; yields progress and returns it.

    A dataset of the hub is downloaded first. If the text is missing, a dataset made from it earlier is used: the one
    with the fingerprint `known`, else the newest. Raises UserError if the corpus is missing, empty, damaged or too
    short for one window per split, or if the disk is full.
    """
    try:
        yield from download_named_in(config.data, home)
        source, tokenizer, fingerprint = yield from identify(config, home)
    except MissingText as missing:
        return find_earlier_dataset(config, home, missing, known)
    target = home / "data" / fingerprint
    if not (target / INDEX).exists():
        with staging_folder(target, INDEX) as folder:
            if isinstance(source, TokenCorpus):
                assert tokenizer is not None
                index = yield from make_from_tokens(source, tokenizer, folder)
            elif isinstance(source, ConversationSource):
                index = yield from make_from_conversations(config, source, tokenizer, folder)
            else:
                index = yield from make_from_text(config, source, tokenizer, folder)
            index |= {"version": VERSION, "fingerprint": fingerprint, "corpus": source.name}
            index["made_with"] = index_settings(config)
            write_synced(folder / INDEX, json.dumps(index, indent=1).encode())
            record_written(folder, all_token_files(folder, index))
    dataset = load_dataset(target, source)
    yield from verify_dataset(dataset)
    return replace(dataset, warnings=(*dataset.warnings, *check_lengths(dataset, config)))


def open_prepared(config: RunConfig, home: Path, name: str) -> Dataset:
    """The dataset in the folder `name`, which another process has just prepared and verified from `config`: neither its
    tokens nor the text are read in full again."""
    try:
        source = open_source(config, home)
    except MissingText:
        source = None
    return load_dataset(home / "data" / name, source)


def identify(config: RunConfig, home: Path) -> Generator[Progress, None, tuple[Source, Tokenizer | None, str]]:
    """The source of `config`, its tokenizer (None if it is trained on the text) and the fingerprint of its dataset.

    Yields progress. Raises UserError if the corpus is missing, empty or damaged.
    """
    source = open_source(config, home)
    corpus = yield from run_in_background(
        lambda report: source.fingerprint(count_megabytes(report)), "Reading the corpus", source.size_bytes / 1e6
    )
    tokenizer = existing_tokenizer(config, source)
    return source, tokenizer, dataset_fingerprint(corpus, config, tokenizer)


def find_tokenized_dataset(config: RunConfig, home: Path) -> tuple[Dataset | None, Tokenizer | None]:
    """The dataset of `config` if it exists, and its tokenizer unless that must be trained first. Makes nothing."""
    try:
        source = open_source(config, home)
    except MissingText as missing:
        dataset = find_earlier_dataset(config, home, missing)
        return dataset, dataset.tokenizer
    tokenizer = existing_tokenizer(config, source)
    target = home / "data" / dataset_fingerprint(source.fingerprint(), config, tokenizer)
    return (load_dataset(target, source) if (target / INDEX).exists() else None), tokenizer


def find_earlier_dataset(config: RunConfig, home: Path, missing: MissingText, known: str = "") -> Dataset:
    """The dataset `known`, which a run was trained on, or else the newest one made with the same settings from a text
    that is missing now. The index of `known` may name another copy of the text, from which it was made.

    Raises `missing` if there is none, or if the text itself is read during training.
    """
    settings = index_settings(config)
    found = [] if config.data.order == "stream" else list((home / "data").glob(f"*/{INDEX}"))
    for index in sorted(found, key=lambda path: (path.parent.name == known, path.stat().st_mtime_ns), reverse=True):
        try:
            record = load_json(index)
            without = PATH_SETTINGS if index.parent.name == known else ()
            is_wanted = token_settings(record["made_with"], without) == token_settings(settings, without)
            fits = "files" not in record and is_wanted
        except (UserError, OSError, *WRONG_SHAPE):
            continue  # damaged, or older than recorded settings
        if fits:
            dataset = load_dataset(index.parent)
            check_lengths(dataset, config)
            warning = f"The text {config.data.corpus} is missing; the dataset tokenized from it earlier is used."
            return replace(dataset, warnings=(*dataset.warnings, warning))
    raise missing


def existing_tokenizer(config: RunConfig, source: Source) -> Tokenizer | None:
    """The tokenizer of `config`; None if it is to be trained on the text. ConfigError if there is no text to train
    on."""
    if not trains_tokenizer(config):
        tokenizer = build_tokenizer(config.tokenizer, ())
        return with_template(tokenizer) if isinstance(source, ConversationSource) else tokenizer
    if isinstance(source, TokenCorpus):
        raise needs_tokenizer()
    resolve_pattern(config.tokenizer.pattern)  # an unknown pattern is refused before the corpus is read
    return None


def make_from_conversations(
    config: RunConfig, source: ConversationSource, tokenizer: Tokenizer | None, folder: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Tokenize conversations into `folder`, training the tokenizer first if it is None; returns the entries of the
    index."""
    notes: list[str] = []
    warnings: list[str] = []
    if tokenizer is None:
        trained = yield from train_tokenizer(config, source, 0, folder)
        tokenizer, notes, warnings = with_template(trained.tokenizer), trained.notes, trained.warnings
    index = yield from tokenize_conversations(source, tokenizer, folder, folder / VALIDATION_TEXT)
    index["warnings"] = warnings + index["warnings"]
    return index | {"notes": notes}


def make_from_text(
    config: RunConfig, source: TextSource | StreamSource, tokenizer: Tokenizer | None, folder: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Tokenize a text into `folder`, training the tokenizer first if it is None; returns the entries of the index.

    Continues what an interrupted process has begun in `folder`.
    """
    characters = 0
    if isinstance(source, TextSource):
        yield from run_in_background(lambda report: check_text(source.corpus), "Reading the corpus")
        if source.needs_character_count:
            characters = yield from run_in_background(
                lambda report: count_characters(source.corpus), "Measuring the corpus"
            )
    begun = yield from resume_tokenizing(folder)
    if begun is None:
        empty_folder(folder)
        if tokenizer is None:
            trained = yield from train_tokenizer(config, source, characters, folder)
        else:
            trained = TrainedTokenizer(tokenizer, [], [])
        trained.tokenizer.save(folder / "tokenizer")
        begun = Tokenizing(folder, trained, config.data.chunk_tokens)
    encoder = make_encoder(begun.tokenizer, folder / "tokenizer", source.size_bytes, config.data.processes)
    units = skip_units(source.units(characters), begun.units)
    yield from begun.tokenize(units, encoder, config.data.boundary, source.size_bytes)
    if not begun.train.tokens or not begun.validation.tokens:
        raise UserError(
            f"The corpus {source.name} ({source.size_bytes:,} bytes) is too short to split off a share of "
            f"{config.data.validation_fraction} for validation; give more text or a larger data.validation_fraction."
        )
    return begun.index(source.warnings())


def make_from_tokens(
    source: TokenCorpus, tokenizer: Tokenizer, folder: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Check every token of token files, which stay in place; returns the entries of the index."""
    tokenizer.save(folder / "tokenizer")
    megabytes = source.size_bytes / 1e6
    splits = yield from run_in_background(
        lambda report: source.verify(tokenizer, folder / VALIDATION_TEXT, count_megabytes(report)),
        "Checking tokens",
        megabytes,
    )
    return {"warnings": [], "splits": splits, "files": source.record()}
