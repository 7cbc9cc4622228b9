"""Dialogs to extend a finished run, or a fork of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llm.errors import UserError
from llm.run import Run
from workbench.text import clean
from workbench.train.service import Overrides
from workbench.ui.dialogs import Answer, Ask, AskSteps

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import App

    from llm.config import RunConfig
    from llm.run.fork import Parent
    from llm.training.extension import RateChange


async def ask_extension(app: App[object], run: Run, done: int, offered: int) -> Overrides | None:
    """Ask for the new last step of `run`, which has taken `done` steps, and its learning rate; None for cancel. Call it
    from a worker."""
    question = f"{clean(run.name)} has finished at step {done:,}. Train to which step?"
    answer = await app.push_screen_wait(AskSteps(question, done, offered))
    if not answer:
        return None
    overrides = (("train.steps", answer),)
    rate = await ask_rate(app, lambda: rate_change_of(run, overrides))
    return None if rate is None else overrides + rate


async def ask_rate(app: App[object], compute: Callable[[], RateChange | None]) -> Overrides | None:
    """If the learning rate changes, ask whether to keep it; returns the overrides for that, None for cancel."""
    change = await asyncio.to_thread(change_or_none, compute)
    if change is None or not change.is_jump:
        return ()
    sentence = change.describe()
    answers = (
        Answer("follow", f"Follow the schedule, from {change.first:.2e}"),
        Answer("keep", f"Keep the rate at {change.last:.2e}"),
        Answer("", "Cancel"),
    )
    choice = await app.push_screen_wait(Ask(f"{sentence[:1].upper()}{sentence[1:]}.", answers))
    if not choice:
        return None
    return change.keeping() if choice == "keep" else ()


def change_or_none(compute: Callable[[], RateChange | None]) -> RateChange | None:
    """How the learning rate changes; None where that is unknown. Errors are reported when the run starts."""
    try:
        return compute()
    except (UserError, ImportError, OSError):
        return None


def rate_change_of(run: Run, overrides: Overrides) -> RateChange | None:
    from llm.training.extension import rate_change  # loads torch

    return rate_change(run, overrides)


def fork_rate_change_of(parent: Parent, config: RunConfig) -> RateChange | None:
    from llm.training.extension import fork_rate_change  # loads torch

    return fork_rate_change(parent, config)
