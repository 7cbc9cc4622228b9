"""Fine-tuning from the Chat screen on the replies marked good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from llm.errors import UserError
from llm.run import Run
from llm.run.fork import open_parent
from workbench.chat.marks import count_good, good_file
from workbench.chat.session import ChatSession
from workbench.text import one_line
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.screen import WorkbenchScreen

FEWEST = 2
"""Replies needed: one of them is held out."""
STEPS = 40
SETTINGS = (("train.steps", str(STEPS)), ("evaluate.every", "10"), ("sample.every", "0"))


class Tuner:
    """Starts fine-tuning the open model. `note` shows a line of text; its second argument marks a warning."""

    def __init__(self, screen: WorkbenchScreen, session: ChatSession, note: Callable[[str, bool], object]) -> None:
        self._screen, self._session, self._note = screen, session, note

    async def fine_tune(self) -> str:
        """Ask, create the run and train it; returns the model to chat with, "" if nothing was started."""
        workbench, model = self._screen.workbench, self._session.model
        if model is None:
            self._note(self._session.obstacle, True)
            return ""
        reference = model.name
        try:
            count = count_good(workbench.home)
            if count < FEWEST:
                self._note(
                    f"Fine-tuning needs at least {FEWEST} replies marked good (+) or corrected (c); there are {count}.",
                    True,
                )
                return ""
            question = f"Fine-tune {one_line(reference)} on {count:,} marked replies?"
            answers = [Answer("start", f"Start ({STEPS} steps, as a new run)"), Answer("", "Cancel")]
            if not await self._screen.app.push_screen_wait(Ask(question, answers)):
                return ""
            run = await asyncio.to_thread(create_run, workbench.home, reference)
            workbench.training.begin(run)
        except (UserError, OSError) as error:
            self._note(str(error), True)
            return ""
        self._note(f"{run.name} trains on the marked replies; press 2 to see its curves.", False)
        return f"{run.name}@live"


def create_run(home: Path, reference: str) -> Run:
    """Create a run that fine-tunes a checkpoint on the replies marked good. Copies its weights: for a thread."""
    from llm.training.start_stage import plan_stage, start_stage

    overrides = [("data.corpus", str(good_file(home))), *SETTINGS]
    return start_stage(home, plan_stage(home, open_parent(home, reference), overrides))
