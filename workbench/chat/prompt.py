"""Where a prompt is typed: Enter sends, ctrl+j begins a new line in every terminal, arrows bring back what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, overload

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea
from textual.widgets.text_area import Document, DocumentNavigator, EditResult, Location, WrappedDocument

from workbench.text import clean

REMEMBERED = 500


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
        Binding("up", "before", "Line up, or the prompt before", id="prompt.before", show=False),
        Binding("down", "after", "Line down, or the prompt after", id="prompt.after", show=False),
    ]

    class Sent(Message):
        """The person pressed Enter."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, soft_wrap=True, tab_behavior="focus", show_line_numbers=False, compact=False)
        self.highlight_cursor_line = False
        self.prompts: list[str] = []
        self._place = 0
        self._draft = ""

    async def _on_key(self, event: events.Key) -> None:
        """Keys in the order they were typed. A priority binding would be obeyed before the letters typed ahead of it
        have reached the field, and a fast typist's Enter would send an empty prompt."""
        active = self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self and active.binding.id in ("prompt.send", "prompt.newline"):
            event.stop()
            event.prevent_default()
            await self.run_action(active.binding.action)
            return
        await super()._on_key(event)

    def action_send(self) -> None:
        """Send what is typed. It stays in the field until `accept`: nothing typed is ever lost."""
        self.post_message(self.Sent(self.text))

    def remember(self, prompts: Sequence[str]) -> None:
        """Prompts that were sent earlier than all that are remembered."""
        self.prompts[:0] = prompts[-REMEMBERED:]
        self._place += len(prompts[-REMEMBERED:])

    def accept(self, text: str) -> None:
        """Remember `text` as sent, and empty the field for the next."""
        if text.strip() and (not self.prompts or self.prompts[-1] != text):
            self.prompts.append(text)
            del self.prompts[:-REMEMBERED]
        self._place, self._draft = len(self.prompts), ""
        if self.text == text:
            self.text = ""

    def action_newline(self) -> None:
        self.insert("\n")

    def action_before(self) -> None:
        """One line up; from the first line, the prompt that was sent before."""
        if self.cursor_at_first_line and self._place > 0:
            if self._place == len(self.prompts):
                self._draft = self.text
            self._recall(self._place - 1)
        else:
            self.action_cursor_up()

    def action_after(self) -> None:
        """One line down; from the last line, the prompt that was sent after, or what was being typed."""
        if self.cursor_at_last_line and self._place < len(self.prompts):
            self._recall(self._place + 1)
        else:
            self.action_cursor_down()

    def _recall(self, place: int) -> None:
        self._place = place
        self.text = self.prompts[place] if place < len(self.prompts) else self._draft
        self.move_cursor(self.document.end)

    # What is in the field is what was typed or pasted; what is drawn of it is cleaned.

    def replace(
        self, insert: str, start: Location, end: Location, *, maintain_selection_offset: bool = True
    ) -> EditResult:
        """All that is typed or pasted comes through here."""
        return super().replace(fitting(insert), start, end, maintain_selection_offset=maintain_selection_offset)

    def load_text(self, text: str) -> None:
        super().load_text(fitting(text))

    def _set_document(self, text: str, language: str | None) -> None:
        """Textual's own, with a document that can be looked at. Textual 8 has no other place for one."""
        super()._set_document(text, language)
        self.document = CleanDocument(text)
        self.wrapped_document = WrappedDocument(self.document, tab_width=self.indent_width)
        self.navigator = DocumentNavigator(self.wrapped_document)
        self._rewrap_and_refresh_virtual_size()


class CleanDocument(Document):
    """A text as it is, whose lines are cleaned where they are drawn and measured: character by character in place."""

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
"""What Python, and so a document, takes for an end of line, though nobody means one by it; and what stands for it."""


def fitting(text: str) -> str:
    """`text` with line ends of one kind."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(LINE_ENDS)
