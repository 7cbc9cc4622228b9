"""Asking how to train a finished run for longer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llm.errors import UserError
from llm.run import Run
from workbench.text import clean
from workbench.train.service import Overrides
from workbench.ui.dialogs import Answer, Ask, AskSteps

if TYPE_CHECKING:
    from textual.app import App

    from llm.training.extension import RateChange


async def ask_extension(app: App[object], run: Run, done: int, offered: int) -> Overrides | None:
    """Ask for the new last step of `run`, which has taken `done` steps, and its learning rate; None for cancel. Call it
    from a worker."""
    question = f"{clean(run.name)} has finished at step {done:,}. Train to which step?"
    answer = await app.push_screen_wait(AskSteps(question, done, offered))
    if not answer:
        return None
    overrides = (("train.steps", answer),)
    change = await asyncio.to_thread(rate_change_or_none, run, overrides)
    if change is None or not change.is_jump:
        return overrides
    sentence = change.describe()
    answers = (
        Answer("follow", f"Follow the schedule, from {change.first:.2e}"),
        Answer("keep", f"Keep the rate at {change.last:.2e}"),
        Answer("", "Cancel"),
    )
    choice = await app.push_screen_wait(Ask(f"{sentence[:1].upper()}{sentence[1:]}.", answers))
    if not choice:
        return None
    return overrides + change.keeping() if choice == "keep" else overrides


def rate_change_or_none(run: Run, overrides: Overrides) -> RateChange | None:
    """How the learning rate changes; None where that is unknown. A run that is refused is refused when it starts."""
    try:
        from llm.training.extension import rate_change

        return rate_change(run, overrides)
    except (UserError, ImportError, OSError):
        return None
