"""The state in a checkpoint together with the configuration in effect there. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm.config import RunConfig, resolve_accumulation, resumed_config, smallest_micro_batch
from llm.errors import UserError
from llm.run.checkpoints import STATE, CheckpointInfo, read_state

if TYPE_CHECKING:
    from llm.run.directory import Run

MAX_RANKS = 1 << 14  # with which a run may have started
MAX_BATCHES = 1 << 40  # drawn: times the sequences of a batch, their number fits in 64 bits


def state_and_config(run: Run, info: CheckpointInfo) -> tuple[dict[str, Any], RunConfig]:
    """The content of `state.json` and the configuration with its overrides. UserError where the state is damaged
    (`read_state`) or does not fit the configuration."""
    state = read_state(info)
    config = resumed_config(run.config(), state.get("overrides", {}).items())
    if wrong := batch_problem(state, config):
        raise UserError(f"{info.path / STATE} is damaged ({wrong}); use another checkpoint of this run.")
    return state, config


def batch_problem(state: Mapping[str, Any], config: RunConfig) -> str:
    """What is impossible about the batches of a state of this configuration; "" if they are possible.

    A batch of 10¹⁵ sequences fits in no memory, and searching for its divisors does not end.
    """
    rows, micro_batch, drawn = (state.get(name, 0) for name in ("rows", "micro_batch", "batch_index"))
    configured = smallest_micro_batch(config.train) * resolve_accumulation(config.train, config.model)
    if rows > max(1, configured) * MAX_RANKS:
        return f"rows is {rows}, and a step of one process has {configured}"
    if micro_batch and rows % micro_batch:
        return f"micro_batch is {micro_batch}, which does not divide rows, {rows}"
    if drawn > MAX_BATCHES:
        return f"batch_index is {drawn}"
    return ""
