"""The conversation as it is shown: the way through its branches, and the exchange that is picked out."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.transcript_view import Transcript

TAIL = 1500
"""Characters shown of a text that was read from a file."""
PICK, TURN = Binding.Group("Pick"), Binding.Group("Branch")


class ConversationView(Transcript):
    """Shows a conversation. `picked` is the exchange that editing, branching and the microscope are about."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pick(-1)", "Exchange before", id="conversation.before", group=PICK),
        Binding("n", "pick(1)", "Next exchange", id="conversation.next", group=PICK),
        Binding("left", "turn(-1)", "Branch before", id="conversation.branch-before", group=TURN),
        Binding("right", "turn(1)", "Next branch", id="conversation.branch-next", group=TURN),
        Binding("h", "turn(-1)", "Branch before", id="conversation.branch-before", show=False),
        Binding("l", "turn(1)", "Next branch", id="conversation.branch-next", show=False),
    ]

    class Turned(Message):
        """Another branch, or another exchange, was chosen."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.conversation = Conversation()
        self.locked = False
        """While a reply is being written the branch stays."""
        self._picked = 0  # the number of the exchange picked out, 0 for the last
        self._begins: dict[int, int] = {}  # where in the text each exchange begins

    @property
    def picked(self) -> Exchange | None:
        """The exchange picked out; the last, when none was; None in an empty conversation."""
        path = self.conversation.path()
        return next((one for one in path if one.number == self._picked), path[-1] if path else None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether there is something to pick out, or another branch to turn to."""
        if action == "pick":
            return bool(self.conversation.leaf) and not self.locked
        if action == "turn":
            return self.picked is not None and not self.locked and len(self.conversation.siblings(self.picked)) > 1
        return True

    def show(self, conversation: Conversation) -> None:
        """Another conversation."""
        self.conversation = conversation
        self.pick(None)

    def pick(self, exchange: Exchange | None) -> None:
        """Pick out one exchange, or none; draws everything anew."""
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

    def begin(self, exchange: Exchange) -> None:
        """A new exchange at the end; its reply follows by `write`. With siblings, the others give way to it."""
        if self._picked or len(self.conversation.siblings(exchange)) > 1:
            self.pick(None)
        else:
            self._write_prompt(exchange)
            self.scroll_end(animate=False)

    def show_context(self, exchange: Exchange) -> None:
        """The text that a prompt stands for has been read: show it, where it is another."""
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

    def _write_prompt(self, exchange: Exchange) -> None:
        place, count = self.conversation.place(exchange)
        if exchange.kind != "on" and self.text:
            self.write("\n\n", "note")
        self._begins[exchange.number] = len(self.text)
        if exchange.number == self._picked:
            self.write("▸ ", "label")
        if count > 1:
            self.write(f"{place}/{count} ", "label")
        style = "chosen" if exchange.number == self._picked else "prompt"
        if exchange.is_turn:
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
        """What comes below a reply that is over: further samples, and what went wrong."""
        self.write(f"\n{exchange.problem}" if exchange.problem else "", "error")
        for number, text in enumerate(exchange.others, 2):
            self.write(f"\n\nsample {number}\n", "label")
            self.write(text, "reply")
