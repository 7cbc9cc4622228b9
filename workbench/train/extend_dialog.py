"""Asking how a run that has reached its length is to be trained for longer."""

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


async def ask_for_longer(app: App[object], run: Run, done: int, offered: int) -> Overrides | None:
    """Ask to which step `run`, which has taken `done`, is to be trained, and what its learning rate is to do; None for
    not at all. To be called from a worker."""
    question = f"{clean(run.name)} has reached step {done:,}, its end. Train it to which step?"
    answer = await app.push_screen_wait(AskSteps(question, done, offered))
    if not answer:
        return None
    overrides = (("train.steps", answer),)
    change = await asyncio.to_thread(known_change, run, overrides)
    if change is None or not change.is_jump:
        return overrides
    sentence = change.describe()
    answers = (
        Answer("follow", f"Follow the schedule, from {change.first:.2e}"),
        Answer("keep", f"Keep the rate at {change.last:.2e}"),
        Answer("", "Do not train"),
    )
    choice = await app.push_screen_wait(Ask(f"{sentence[:1].upper()}{sentence[1:]}.", answers))
    if not choice:
        return None
    return overrides + change.keeping() if choice == "keep" else overrides


def known_change(run: Run, overrides: Overrides) -> RateChange | None:
    """How the rate changes; None where that cannot be told, or where the run is refused, which beginning it tells."""
    try:
        from llm.training.extension import rate_change

        return rate_change(run, overrides)
    except (UserError, ImportError, OSError):
        return None
