"""Where a prompt is typed: Enter sends, ctrl+j begins a new line in every terminal, arrows bring back what was sent."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

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

    async def _on_paste(self, event: events.Paste) -> None:
        """Control characters come in as their pictures: nothing in the field may be obeyed by the terminal."""
        event.prevent_default()
        event.stop()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.insert("".join(visible(character) for character in text))


def visible(character: str) -> str:
    """The character, or the picture of a control; line breaks and tabs stay."""
    code = ord(character)
    if code >= 0xA0 or 0x20 <= code < 0x7F or character in "\n\t":
        return character
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
