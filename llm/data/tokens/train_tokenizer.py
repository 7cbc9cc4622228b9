"""A tokenizer learned from the text of a corpus: what is read for it, where it is trained, what is said about it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llm.config.schema import RunConfig
from llm.data.background import Report, in_background, summed
from llm.data.text.corpora import WELL_MIXED
from llm.data.tokens.sources import StreamSource, TextSource
from llm.events import Progress
from llm.tokenizer import Sample, Tokenizer, build_tokenizer, is_learned_from_sample, take_sample
from llm.tokenizer.training_process import learn_apart


@dataclass(frozen=True)
class Learned:
    """A tokenizer, with sentences about what it learned from and about what is amiss."""

    tokenizer: Tokenizer
    notes: list[str]
    warnings: list[str]


def learn(
    config: RunConfig, source: TextSource | StreamSource, characters: int, folder: Path
) -> Generator[Progress, None, Learned]:
    """Learn the tokenizer of `config` from the training side of `source`; `folder` takes what is needed meanwhile.

    Characters are learned from all of the text, so that none is unknown, in this process. The others learn from a
    sample, in a process of their own.
    """
    if not is_learned_from_sample(config.tokenizer):
        tokenizer = yield from in_background(
            lambda report: learn_characters(config, source, characters, report), "Training the tokenizer", 100, "%"
        )
        return Learned(tokenizer, [], [])
    if config.data.corpus in WELL_MIXED:
        config = replace(config, tokenizer=replace(config.tokenizer, train_sample="beginning"))
    megabytes, which = config.tokenizer.train_mb, config.tokenizer.train_sample
    texts = source.texts_to_sample(characters, megabytes * 1e6 if which == "spread" else None)
    size = source.size_bytes / 1e6
    sample = yield from in_background(
        lambda report: take_sample(texts, megabytes, which, lambda read: report(read / 1e6)),
        "Reading text for the tokenizer",
        min(size, megabytes) if which == "beginning" else size,
    )
    tokenizer = yield from in_background(
        lambda report: learn_apart(config.tokenizer, sample.texts, folder, lambda done: report(100 * done)),
        "Training the tokenizer",
        100,
        "%",
    )
    return Learned(tokenizer, [what_was_read(sample, config)], too_few(tokenizer, sample, config))


def learn_characters(
    config: RunConfig, source: TextSource | StreamSource, characters: int, report: Report
) -> Tokenizer:
    """A character tokenizer, from both sides of the text."""
    read = summed(lambda done: report(100e6 * done / source.size_bytes))

    def texts() -> Iterator[str]:
        for piece in source.texts(characters, held_out_too=True):
            read(len(piece))
            yield piece

    return build_tokenizer(config.tokenizer, texts())


def what_was_read(sample: Sample, config: RunConfig) -> str:
    """What the tokenizer learned from, in a sentence."""
    taken, read = sample.taken_bytes / 1e6, sample.read_bytes / 1e6
    if not sample.is_whole:
        return f"The tokenizer learned from {taken:,.1f} MB of text, evenly spread over {read:,.1f} MB."
    if config.tokenizer.train_sample == "beginning" and taken >= 0.999 * config.tokenizer.train_mb:
        return f"The tokenizer learned from the first {taken:,.1f} MB of the text."
    return f"The tokenizer learned from all of the text for training, {taken:,.1f} MB."


def too_few(tokenizer: Tokenizer, sample: Sample, config: RunConfig) -> list[str]:
    """A warning where fewer ids were learned than asked for."""
    asked = config.tokenizer.vocab_size
    if tokenizer.vocab_size >= asked:
        return []
    return [
        f"The tokenizer learned {tokenizer.vocab_size:,} ids of the {asked:,} asked for: nothing is left to merge in "
        f"the {sample.taken_bytes / 1e6:,.2f} MB of text it read; give more text or a smaller tokenizer.vocab_size."
    ]
