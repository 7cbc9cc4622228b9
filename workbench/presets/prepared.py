"""Whether the data of a configuration are here already. Reads or hashes the corpus where it is a file: not for the
screen's own thread."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from llm.config import RunConfig
from llm.errors import UserError
from workbench.terminal import write_log


@dataclass(frozen=True)
class DataState:
    """What is known of a configuration's data. `train_tokens` is 0 until they are prepared; `problem` says in words why
    they cannot be had."""

    vocab_size: int = 0
    train_tokens: int = 0
    problem: str = ""

    @property
    def is_prepared(self) -> bool:
        return self.train_tokens > 0


def look_for_data(config: RunConfig, home: Path) -> DataState:
    """The state of the data that `config` needs, without making anything."""
    from llm.data.tokens.prepare import find_tokenized_dataset

    try:
        dataset, tokenizer = find_tokenized_dataset(config, home)
        if dataset is None:
            return DataState(vocab_size=tokenizer.vocab_size if tokenizer is not None else 0)
        return DataState(dataset.tokenizer.vocab_size, len(dataset.train))
    except UserError as error:
        return DataState(problem=str(error))
    except Exception as error:  # noqa: BLE001 - the end of a thread that only looks: it must not take the screen along
        write_log(traceback.format_exc())
        return DataState(problem=f"it could not be looked at ({type(error).__name__}: {error}); see workbench.log.")
