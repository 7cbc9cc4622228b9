"""The prompt field: Enter sends, ctrl+j inserts a new line in every terminal, arrows recall earlier prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, overload

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea
from textual.widgets.text_area import Document, DocumentNavigator, EditResult, Location, WrappedDocument

from workbench.text import clean

HISTORY = 500


class PromptArea(TextArea):
    """A text field that grows with its text, up to a few lines."""

    DEFAULT_CSS = """
    PromptArea { height: auto; min-height: 3; max-height: 9; border: round $panel-lighten-2; padding: 0 1;
        &:focus { border: round $primary; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send"),
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", id="prompt.newline", key_display="^j"),
        Binding("up", "before", "Line up, or previous prompt", id="prompt.before", show=False),
        Binding("down", "after", "Line down, or next prompt", id="prompt.after", show=False),
    ]

    class Sent(Message):
        """The user pressed Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, soft_wrap=True, tab_behavior="focus", show_line_numbers=False, compact=False)
        self.highlight_cursor_line = False
        self.prompts: list[str] = []
        self._place = 0
        self._draft = ""  # the text typed before a prompt of the history was recalled
        self._unsent: str | None = None  # the text typed before an earlier prompt was edited

    async def _on_key(self, event: events.Key) -> None:
        """Handle Enter here and not as a priority binding, which would run before the letters typed ahead of it."""
        active = self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self and active.binding.id in ("prompt.send", "prompt.newline"):
            event.stop()
            event.prevent_default()
            await self.run_action(active.binding.action)
            return
        await super()._on_key(event)

    def action_send(self) -> None:
        """Send the text. It stays in the field until `accept`."""
        self.post_message(self.Sent(self.text))

    def remember(self, prompts: Sequence[str]) -> None:
        """Add older prompts before the history."""
        self.prompts[:0] = prompts[-HISTORY:]
        self._place += len(prompts[-HISTORY:])

    def show(self, text: str) -> None:
        """Replace the text, with the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def edit_earlier(self, text: str) -> None:
        """Edit an earlier prompt; `restore_draft` brings back the text typed before."""
        if self._unsent is None:
            self._unsent = self.text
        self.show(text)
        self.focus()

    def restore_draft(self) -> None:
        """Bring back the text typed before `edit_earlier`."""
        text, self._unsent = self._unsent or "", None
        self.show(text)

    def accept(self, text: str) -> None:
        """Add `text` to the history, and clear the field."""
        if text.strip() and (not self.prompts or self.prompts[-1] != text):
            self.prompts.append(text)
            del self.prompts[:-HISTORY]
        self._place, self._draft = len(self.prompts), ""
        if self.text == text:
            self.text = ""

    def action_newline(self) -> None:
        self.insert("\n")

    def action_before(self) -> None:
        """Move up a line; from the first line, recall the previous prompt."""
        if self.cursor_at_first_line and self._place > 0:
            if self._place == len(self.prompts):
                self._draft = self.text
            self._recall(self._place - 1)
        else:
            self.action_cursor_up()

    def action_after(self) -> None:
        """Move down a line; from the last line, recall the next prompt or the draft."""
        if self.cursor_at_last_line and self._place < len(self.prompts):
            self._recall(self._place + 1)
        else:
            self.action_cursor_down()

    def _recall(self, place: int) -> None:
        self._place = place
        self.show(self.prompts[place] if place < len(self.prompts) else self._draft)

    # The field holds the text as typed or pasted; only its display is cleaned.

    def replace(
        self, insert: str, start: Location, end: Location, *, maintain_selection_offset: bool = True
    ) -> EditResult:
        """Normalize line ends of typed and pasted text."""
        return super().replace(
            normalize_line_ends(insert), start, end, maintain_selection_offset=maintain_selection_offset
        )

    def load_text(self, text: str) -> None:
        super().load_text(normalize_line_ends(text))

    def _set_document(self, text: str, language: str | None) -> None:
        """Use a document with a clean display. Textual 8 has no other hook for one."""
        super()._set_document(text, language)
        self.document = CleanDocument(text)
        self.wrapped_document = WrappedDocument(self.document, tab_width=self.indent_width)
        self.navigator = DocumentNavigator(self.wrapped_document)
        self._rewrap_and_refresh_virtual_size()


class CleanDocument(Document):
    """A document whose lines are cleaned for drawing and measuring, character by character, but not changed."""

    @property
    def lines(self) -> list[str]:
        return [clean(line) for line in self._lines]

    @overload
    def __getitem__(self, line_index: int) -> str: ...

    @overload
    def __getitem__(self, line_index: slice) -> list[str]: ...

    def __getitem__(self, line_index: int | slice) -> str | list[str]:
        lines = self._lines[line_index]
        return clean(lines) if isinstance(lines, str) else [clean(line) for line in lines]


LINE_ENDS = str.maketrans({end: clean(end) for end in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"})
"""Characters that `str.splitlines` treats as line ends, and their replacements."""


def normalize_line_ends(text: str) -> str:
    """`text` with `\n` as the only line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(LINE_ENDS)
