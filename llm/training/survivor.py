"""Save what the surviving ranks still hold after a rank has died.

Every data-parallel rank holds the whole state, and a collective fails before the optimizer step, so that the state is
the one after the last completed step. Rank 0 saves it under the lock of the run; where rank 0 is dead, the first of
the others to get the lock does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

from llm.errors import UserError
from llm.events import Event, Finished
from llm.generators import drain
from llm.run.checkpoints import newest_step
from llm.training.context import TrainingContext
from llm.training.rank_watch import RankLost

Save = Callable[[], Generator[Event, None, str]]
"""Saves the current step, and returns why it could not be saved, or ""."""


def save_after_loss(context: TrainingContext, lost: RankLost, save: Save) -> Iterator[Event]:
    """Save the last completed step; always raises `RankLost`, which says what happened and what is saved."""
    if context.ranks.is_first:
        failure = yield from save()
        raise RankLost(describe(context, lost, failure))
    with suppress(UserError, OSError):  # rank 0 or another survivor saves it, or nothing can be written
        save_in_place_of_first(context, lost, save)
    raise lost


def save_in_place_of_first(context: TrainingContext, lost: RankLost, save: Save) -> None:
    """Save and log as rank 0 would. RunBusy where another rank has the lock of the run."""
    with context.run.lock():
        log = context.run.log()
        try:
            failure = drain(save(), log.append)
            log.append(context.event(Finished, status="failed", reason=describe(context, lost, failure)))
        finally:
            log.close()


def describe(context: TrainingContext, lost: RankLost, failure: str) -> str:
    """The reason in the `Finished` event of the run."""
    name, newest = context.run.name, newest_step(context.run.checkpoint_directory)
    if not failure:
        return f"{lost}; step {context.state.step} is saved, and llm-workbench resume {name} continues from there."
    where = f"step {newest}, the newest checkpoint" if newest >= 0 else "the beginning"
    return (
        f"{lost}; step {context.state.step} could not be saved ({failure}), so resuming {name} continues from {where}."
    )
