"""Checks before a run with a checkpoint is resumed or forked. They change nothing on disk."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.config import RunConfig, resumed_config
from llm.config.overrides import Overrides, merge_overrides
from llm.core.bundle import Task, bundle_folder, load_bundle
from llm.data.batches.streaming import check_streams, resolve_streams
from llm.data.tokens.prepare import identify
from llm.data.tokens.sources import StreamSource, open_source
from llm.errors import UserError
from llm.events import Progress
from llm.run import Run
from llm.run.fork import Parent, changed_paths, changes_data
from llm.run.states import state_and_config
from llm.training.batch_plan import resolve_batch_size


def config_for_resume(run: Run, overrides: Overrides) -> RunConfig:
    """The configuration of a resumed run: that of its newest checkpoint, with `overrides`, which must be safe."""
    kept = newest_state(run).get("overrides", {})
    return resumed_config(run.config(), merge_overrides(kept, overrides).items())


def newest_state(run: Run) -> dict[str, Any]:
    """The content of `state.json` of the newest readable checkpoint; empty if there is none."""
    for info in reversed(run.checkpoints()):
        with suppress(UserError):  # restoring reports a damaged one
            return state_and_config(run, info)[0]
    return {}


def check_resume(run: Run, home: Path, overrides: Overrides, ranks: int) -> Generator[Progress, None, None]:
    """`UserError` unless `ranks` processes can resume a run with a checkpoint."""
    config, state = config_for_resume(run, overrides), newest_state(run)
    check_world_size(config, home, ranks, state)
    load_core_tasks(config, home)
    yield from check_text(run.name, config, home, state)


def check_world_size(config: RunConfig, home: Path, ranks: int, state: Mapping[str, Any]) -> None:
    """ConfigError unless `ranks` processes can divide the batch, and the streams of a streamed corpus, evenly. `state`
    is that of the newest checkpoint, empty for a new run."""
    rows, _ = resolve_batch_size(
        config, ranks, global_batch_size=state.get("rows", 0), micro_batch=state.get("micro_batch", 0)
    )
    source = open_source(config, home) if config.data.order == "stream" else None
    if isinstance(source, StreamSource):
        streams = resolve_streams(config.data.streams, state.get("data_cursor"), ranks)
        check_streams(source.stream, rows, streams, ranks)


def load_core_tasks(config: RunConfig, home: Path) -> tuple[Task, ...]:
    """The tasks of the CORE metric; none where the run does not measure it."""
    return load_bundle(bundle_folder(config.evaluate.core_path, home)) if config.evaluate.core_every else ()


def check_text(name: str, config: RunConfig, home: Path, state: Mapping[str, Any]) -> Generator[Progress, None, None]:
    """`UserError` where the text of `config` is not the one that `state` was trained on. Not for a text that cannot be
    read, which preparing the data reports."""
    trained_on = state.get("data_fingerprint", "")
    if not trained_on:  # "": a fork that continues on another text
        return
    try:
        _, _, fingerprint = yield from identify(config, home)
    except UserError:
        return
    if fingerprint != trained_on:
        raise text_changed_error(name, config)


def check_fork(parent: Parent, config: RunConfig, home: Path) -> Generator[Progress, None, None]:
    """`UserError` where a fork of `parent` uses its text and that has changed."""
    if not changes_data(changed_paths(parent, config)):
        yield from check_text(parent.run.name, config, home, parent.state)


def text_changed_error(name: str, config: RunConfig) -> UserError:
    return UserError(
        f"the text of {name} has changed since it was trained (corpus {config.data.corpus}); "
        "restore the old text, or start a new run."
    )
