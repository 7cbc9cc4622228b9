"""The tools of the Chat screen: dialogs about a reply, jobs in the chat's thread, export."""

from __future__ import annotations

from collections.abc import Callable

from llm.errors import UserError
from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.marks import read_marks
from workbench.chat.microscope_screen import Microscope
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.replay import replay, save_step
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.sampling_presets_dialog import SamplingPresetsDialog
from workbench.chat.service import Work
from workbench.chat.session import ChatSession
from workbench.chat.split import open_run, timelapse_prompts
from workbench.chat.split_screen import Split
from workbench.chat.timelapse_screen import TimeLapse
from workbench.chat.transcripts import export, load
from workbench.chat.transcripts_dialog import PastConversations
from workbench.text import one_line
from workbench.ui.dialogs import AskText
from workbench.ui.screen import WorkbenchScreen


class ReplyTools:
    """Tools for the selected exchange. `note` shows a line of text; its second argument marks a warning."""

    def __init__(self, screen: WorkbenchScreen, session: ChatSession, note: Callable[[str, bool], object]) -> None:
        self._screen, self._session, self._note = screen, session, note

    def run(self, work: Work, note: str) -> None:
        """Queue a job in the chat's thread; the screen receives its message or JobFailed."""
        self._note(note, False)
        if self._session.service is not None:
            self._session.service.do(work)
            self._screen.refresh_bindings()

    def replay(self, picked: Exchange) -> None:
        """Generate the reply again with the same checkpoint, parameters and seed, and compare."""
        self.run(
            lambda service, stop: replay(picked, service.model_for(picked.model, picked.sha256, stop), stop),
            f"Replaying with {one_line(picked.model)} …",
        )

    def save_step(self, picked: Exchange) -> None:
        """Save the weights that wrote the reply, so that it can be replayed later."""
        home = self._screen.workbench.home
        self.run(
            lambda service, stop: save_step(home, picked.model, service.chat_model),
            f"Saving the weights of {one_line(picked.model)} …",
        )

    async def choose_token(self, picked: Exchange) -> list[int] | None:
        """Open the microscope; returns the tokens of a new branch, if another token was chosen."""
        if self._session.service is None:
            return None
        chosen = await self._screen.app.push_screen_wait(Microscope(self._session.service, picked))
        if chosen is None or not self.is_ready():
            return None
        if not self._session.same_run(picked):
            self._note(f"{picked.model} generated this reply: open it with ctrl+o, then choose the token again.", True)
            return None
        place, token = chosen
        return [*picked.tokens[:place], token]

    async def split(self, picked: Exchange) -> None:
        """Compare with another checkpoint on the same prompt and seed."""
        if self._session.service is None:
            return
        question = f"Compare {one_line(picked.model)} with which model?"
        other = await self._screen.app.push_screen_wait(ChooseModel(self._screen.workbench.home, question))
        if other:
            await self._screen.app.push_screen_wait(Split(self._session.service, picked, other))

    def timelapse(self, picked: Exchange | None, panel: SamplingPanel) -> None:
        """Show the text of every checkpoint for the prompt and the pinned prompts."""
        reference = picked.model if picked is not None and picked.model else self._session.reference
        if not reference or self._session.service is None:
            self.is_ready()
            return
        try:
            run = open_run(self._screen.workbench.home, reference)
            prompts = timelapse_prompts(run, picked)
        except UserError as error:
            self._note(str(error), True)
            return
        params = picked.params if picked is not None else panel.params
        self._screen.app.push_screen(TimeLapse(self._session.service, run, prompts, params))

    def toggle_pin(self, picked: Exchange) -> None:
        """Pin the prompt to its run for the time-lapse, or unpin it."""
        from llm.engine.timelapse import toggle_pin

        try:
            pinned = toggle_pin(open_run(self._screen.workbench.home, picked.model), picked.context)
        except UserError as error:
            self._note(str(error), True)
            return
        self._note("Prompt pinned: press t to see it at every checkpoint." if pinned else "Prompt unpinned.", False)

    def export(self) -> None:
        """Export the visible branch as Markdown, and all branches as JSONL."""
        try:
            markdown, jsonl = export(self._screen.workbench.home, self._session.conversation)
        except UserError as error:
            self._note(str(error), True)
            return
        self._note(f"Exported to {markdown}", False)
        self._screen.notify(f"{markdown}\n{jsonl}", title="Exported", timeout=10, markup=False)

    async def choose_conversation(self) -> Conversation | None:
        """Choose a past conversation, and read the marks on its replies."""
        home = self._screen.workbench.home
        file = await self._screen.app.push_screen_wait(PastConversations(home))
        if file is None or self._session.writing:
            return None
        try:
            conversation = load(file)
            conversation.marks = read_marks(home, conversation)
            return conversation
        except UserError as error:
            self._note(str(error), True)
            return None

    async def edit_system(self) -> None:
        """Ask for the system prompt of the next turns."""
        conversation = self._session.conversation
        question = "System prompt, the instructions before the conversation (empty: none):"
        text = await self._screen.app.push_screen_wait(AskText(question, value=conversation.system, optional=True))
        if text is not None and conversation is self._session.conversation:
            conversation.system = text.strip()
            self._note(
                "The system prompt applies from the next question on." if text.strip() else "No system prompt.", False
            )

    async def choose_params(self, panel: SamplingPanel) -> None:
        """Load or save a named set of sampling parameters."""
        dialog = SamplingPresetsDialog(self._screen.workbench.home, panel.params)
        chosen = await self._screen.app.push_screen_wait(dialog)
        if chosen is not None:
            panel.set_all(chosen)

    def is_ready(self) -> bool:
        """Whether a reply can start; says why not."""
        obstacle = self._session.obstacle
        if obstacle:
            self._note(obstacle, True)
        return not obstacle
