"""Sending prompts: one waits until a model is open, and an earlier one can be edited and sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.chat.conversation import Exchange, Kind
from workbench.chat.conversation_view import ConversationView
from workbench.chat.prompt import PromptArea
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.session import ChatSession
from workbench.ui.screen import WorkbenchScreen

SEEDS = 1 << 63  # number of seeds


class Sender:
    """Starts exchanges. `note` shows a line of text; its second argument marks a warning.

    `editing` is the exchange whose prompt is being edited, `held` a prompt to send once the model is open.
    """

    def __init__(self, screen: WorkbenchScreen, session: ChatSession, note: Callable[[str, bool], object]) -> None:
        self._screen, self._session, self._note = screen, session, note
        self.editing: Exchange | None = None
        self.held: str | None = None

    @property
    def _prompt(self) -> PromptArea:
        return self._screen.query_one(PromptArea)

    @property
    def _panel(self) -> SamplingPanel:
        return self._screen.query_one(SamplingPanel)

    def hold(self, text: str) -> None:
        """Send a prompt as soon as the model is open."""
        self._prompt.accept(text)
        self.held = text
        self._note("Will be sent when the model is loaded; press esc to cancel.", False)
        self._screen.refresh_bindings()

    def send_held(self) -> None:
        """Send the held prompt, if there is one."""
        held, self.held = self.held, None
        if held is not None:
            self._send(held)

    def cancel_held(self) -> None:
        """Return the held prompt to the field, before the text typed since."""
        if self.held is not None:
            self._prompt.show("\n".join(text for text in (self.held, self._prompt.text) if text))
            self.held = None
            self._note("", False)
            self._screen.refresh_bindings()

    def send(self, text: str) -> None:
        """Send a prompt, or the edited one."""
        self._prompt.accept(text)
        self._send(text)

    def _send(self, text: str) -> None:
        edited, self.editing = self.editing, None
        if edited is not None:
            self._prompt.restore_draft()
            self.begin(edited.kind, text, edited.parent)
        else:
            self.begin("turn" if self._session.chat_mode else "text", text, self._session.conversation.leaf)

    def begin(
        self,
        kind: Kind,
        prompt: str,
        parent: int,
        *,
        file_text: str = "",
        like: Exchange | None = None,
        given: Sequence[int] = (),
    ) -> None:
        """Start a new exchange after `parent` (see `ChatSession.ask`)."""
        params = self._panel.params
        exchange = self._session.ask(params, kind, prompt, parent, file_text=file_text, like=like, given=given)
        transcript = self._screen.query_one(ConversationView)
        transcript.locked = self._panel.debounced = True
        transcript.begin(exchange)
        self._note("Reading the prompt …", False)
        self._screen.refresh_bindings()

    def regenerate(self, picked: Exchange) -> None:
        """Generate another reply to a prompt, with the next seed."""
        self._panel.set_value("seed", (self._panel.params.seed + 1) % SEEDS)
        like = picked if self._session.same_run(picked) else None
        given = picked.tokens[: picked.given] if like else ()
        self.begin(picked.kind, picked.prompt, picked.parent, file_text=picked.file_text, like=like, given=given)

    def edit(self, picked: Exchange) -> None:
        """Edit an earlier prompt; its new reply becomes a branch."""
        if picked.kind == "on":
            self._note("A continuation has no prompt; edit the previous one.", True)
            return
        self.editing = picked
        self._prompt.edit_earlier(picked.prompt)
        self._note("Editing: Enter sends it as a new branch, esc cancels.", False)
        self._screen.refresh_bindings()

    def cancel_edit(self) -> None:
        """Leave the prompt unchanged."""
        self.editing = None
        self._prompt.restore_draft()
        self._note("", False)
        self._screen.refresh_bindings()
