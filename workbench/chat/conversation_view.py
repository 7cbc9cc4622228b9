"""The view of a conversation: its visible branch and the selected exchange."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.transcript_view import Transcript

TAIL = 1500
"""Characters shown of a prompt file."""
MARKS = {"good": "✓ good", "bad": "✗ bad", "corrected": "✎ corrected:"}
PICK, TURN = Binding.Group("Select"), Binding.Group("Branch")


class ConversationView(Transcript):
    """Shows a conversation. `picked` is the selected exchange, to which keys apply."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pick(-1)", "Previous exchange", id="conversation.before", group=PICK),
        Binding("n", "pick(1)", "Next exchange", id="conversation.next", group=PICK),
        Binding("left", "turn(-1)", "Previous branch", id="conversation.branch-before", group=TURN),
        Binding("right", "turn(1)", "Next branch", id="conversation.branch-next", group=TURN),
        Binding("o", "others", "Other replies", id="conversation.others"),
        Binding("h", "turn(-1)", "Previous branch", id="conversation.branch-before", show=False),
        Binding("l", "turn(1)", "Next branch", id="conversation.branch-next", show=False),
    ]

    class Turned(Message):
        """Another branch or exchange was selected."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.conversation = Conversation()
        self.locked = False
        """During a reply, the branch cannot change."""
        self._shows_others = False  # those of the best of n
        self._picked = 0  # number of the selected exchange, 0 for the last
        self._begins: dict[int, int] = {}  # offset of each exchange in the text

    @property
    def picked(self) -> Exchange | None:
        """The selected exchange, by default the last; None in an empty conversation."""
        path = self.conversation.path()
        return next((one for one in path if one.number == self._picked), path[-1] if path else None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether there is an exchange to select, another branch, or another reply of the best of n."""
        if action == "pick":
            return bool(self.conversation.leaf) and not self.locked
        if action == "turn":
            return self.picked is not None and not self.locked and len(self.conversation.siblings(self.picked)) > 1
        if action == "others":
            return any(is_best_of(one) for one in self.conversation.path()) and not self.locked
        return True

    def show(self, conversation: Conversation) -> None:
        """Show another conversation."""
        self.conversation = conversation
        self.pick(None)

    def pick(self, exchange: Exchange | None) -> None:
        """Select an exchange, or none, and redraw."""
        self._picked = exchange.number if exchange is not None else 0
        self.cut(0)
        self._begins.clear()
        for one in self.conversation.path():
            self._write_prompt(one)
            self._write_reply(one)
        if self._picked in self._begins:
            self.show_place(self._begins[self._picked])
        else:
            self.scroll_end(animate=False)

    def redraw(self) -> None:
        """Draw the conversation again, with the same exchange selected."""
        self.pick(self.conversation.exchanges.get(self._picked))

    def begin(self, exchange: Exchange) -> None:
        """Show a new exchange at the end; its reply follows with `write`. It replaces its siblings."""
        if self._picked or len(self.conversation.siblings(exchange)) > 1:
            self.pick(None)
        else:
            self._write_prompt(exchange)
            self.scroll_end(animate=False)

    def show_context(self, exchange: Exchange) -> None:
        """Show the text of a prompt file once it was read."""
        if exchange.kind == "text" and exchange.context != exchange.prompt:
            self.pick(None)

    def action_pick(self, by: int) -> None:
        path = self.conversation.path()
        at = path.index(self.picked) if self._picked and self.picked in path else len(path)
        self.pick(path[min(len(path) - 1, max(0, at + by))])
        self.post_message(self.Turned())

    def action_turn(self, by: int) -> None:
        exchange = self.picked
        if exchange is not None:
            self.pick(self.conversation.sibling(exchange, by))
            self.post_message(self.Turned())

    def action_others(self) -> None:
        """Show or hide the other replies of the best of n."""
        self._shows_others = not self._shows_others
        self.redraw()

    def _write_prompt(self, exchange: Exchange) -> None:
        place, count = self.conversation.position(exchange)
        if exchange.kind != "on" and self.text:
            self.write("\n\n", "note")
        self._begins[exchange.number] = len(self.text)
        if exchange.number == self._picked:
            self.write("▸ ", "label")
        if count > 1:
            self.write(f"{place}/{count} ", "label")
        style = "chosen" if exchange.number == self._picked else "prompt"
        if exchange.is_turn:
            self._write_system(exchange)
            self.write("you    ", "label")
            self.write(exchange.prompt + "\n", style)
            self.write("model  ", "label")
        elif exchange.kind == "text" and exchange.context not in ("", exchange.prompt):
            self.write(f"{exchange.prompt}\n", "label")
            self.write("… " if len(exchange.context) > TAIL else "", "note")
            self.write(exchange.context[-TAIL:], style)
        else:
            self.write(exchange.prompt, style)

    def _write_reply(self, exchange: Exchange) -> None:
        self.write(exchange.reply, "reply")
        self.write_end(exchange)

    def write_end(self, exchange: Exchange) -> None:
        """Show what follows a finished reply: its error, its mark and further samples."""
        self.write(f"\n{exchange.problem}" if exchange.problem else "", "error")
        mark = self.conversation.marks.get(exchange.number)
        if mark is not None:
            self.write(f"\n{MARKS[mark.verdict]}", "label")
            self.write(f" {mark.answer}" if mark.answer else "", "reply")
        is_best = is_best_of(exchange)
        if is_best and not self._shows_others:
            self.write(f"\nthe best of {1 + len(exchange.others)} (esc, then o: show the others)", "note")
            return
        for number, text in enumerate(exchange.others, 2):
            self.write(f"\n\n{'reply' if is_best else 'sample'} {number}\n", "label")
            self.write(text, "reply")

    def _write_system(self, exchange: Exchange) -> None:
        """Show the system prompt of a turn where it differs from that before."""
        before = self.conversation.exchanges.get(exchange.parent)
        if exchange.system != (before.system if before is not None else ""):
            self.write("system ", "label")
            self.write(f"{exchange.system or '(none)'}\n", "note")


def is_best_of(exchange: Exchange) -> bool:
    """Whether a reply is the best of several, and the others are its further samples, in order."""
    return exchange.params.best_of > 1 and bool(exchange.others)
