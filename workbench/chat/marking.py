"""Marking replies from the Chat screen: good, bad or corrected, and undo."""

from __future__ import annotations

from collections.abc import Callable

from llm.errors import UserError
from workbench.chat.conversation import Exchange, Mark, Verdict
from workbench.chat.conversation_view import ConversationView
from workbench.chat.marks import good_file, write_mark
from workbench.chat.prompt import PromptArea
from workbench.chat.session import ChatSession
from workbench.ui.screen import WorkbenchScreen


class Marker:
    """Marks replies of the conversation shown. `correcting` is the exchange whose reply is in the prompt field.

    `note` shows a line of text; its second argument marks a warning.
    """

    def __init__(self, screen: WorkbenchScreen, session: ChatSession, note: Callable[[str, bool], object]) -> None:
        self._screen, self._session, self._note = screen, session, note
        self.correcting: Exchange | None = None
        self._changes: list[tuple[Exchange, Mark | None]] = []  # marks before each change, of this conversation

    @property
    def can_undo(self) -> bool:
        return bool(self._changes)

    def reset(self) -> None:
        """Cancel the correction and clear the undo history, for another conversation."""
        self.correcting = None
        self._changes.clear()

    def mark(self, picked: Exchange, verdict: Verdict, answer: str = "") -> None:
        """Mark a reply, and save the mark."""
        before = self._session.conversation.marks.get(picked.number)
        mark = Mark(verdict, answer)
        if mark != before and self._save(picked, mark):
            self._changes.append((picked, before))
            verb = "Corrected" if verdict == "corrected" else f"Marked {verdict}"
            self._note(f"{verb}; saved in {good_file(self._screen.workbench.home).parent}. u: undo", False)

    def undo(self) -> None:
        """Undo the last change of a mark."""
        picked, before = self._changes[-1]
        if self._save(picked, before):
            self._changes.pop()
            self._note(f"Marked {before.verdict} again." if before else "Mark removed.", False)

    def correct(self, picked: Exchange) -> None:
        """Put the reply, or its correction, into the prompt field."""
        mark = self._session.conversation.marks.get(picked.number)
        self.correcting = picked
        self._screen.query_one(PromptArea).edit_earlier((mark.answer if mark else "") or picked.reply.strip())
        self._note("Correct the reply: Enter saves it, esc cancels.", False)
        self._screen.refresh_bindings()

    def finish_correction(self, text: str) -> None:
        """Save the text of the prompt field as the correction."""
        picked = self.correcting
        if picked is None:
            return
        if not text.strip():
            self._note("A correction cannot be empty; press esc to cancel.", True)
            return
        self._close()
        if text.strip() == picked.reply.strip():
            self.mark(picked, "good")
        else:
            self.mark(picked, "corrected", text.strip())

    def cancel_correction(self) -> None:
        """Leave the mark unchanged."""
        self._close()
        self._note("", False)

    def _close(self) -> None:
        self.correcting = None
        self._screen.query_one(PromptArea).restore_draft()
        self._screen.query_one(ConversationView).focus()
        self._screen.refresh_bindings()

    def _save(self, picked: Exchange, mark: Mark | None) -> bool:
        """Save a mark and show it; whether it could be saved."""
        conversation = self._session.conversation
        try:
            write_mark(self._screen.workbench.home, conversation, picked, mark)
        except UserError as error:
            self._note(str(error), True)
            return False
        if mark is None:
            conversation.marks.pop(picked.number, None)
        else:
            conversation.marks[picked.number] = mark
        self._screen.query_one(ConversationView).redraw()
        self._screen.refresh_bindings()
        return True
