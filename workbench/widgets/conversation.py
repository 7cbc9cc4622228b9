"""The conversation as it is shown: the way through its branches, and the exchange that is picked out."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from workbench.services.conversation import Conversation, Exchange
from workbench.widgets.transcript import Transcript


class ConversationView(Transcript):
    """Shows a conversation. `picked` is the exchange that editing, branching and the microscope are about."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pick(-1)", "Exchange before", id="conversation.before", show=False),
        Binding("n", "pick(1)", "Next exchange", id="conversation.next", key_display="p n"),
        Binding("left,h", "turn(-1)", "Branch before", id="conversation.branch-before", key_display="←", show=False),
        Binding("right,l", "turn(1)", "Next branch", id="conversation.branch-next", key_display="← →"),
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

    def action_pick(self, by: int) -> None:
        path = self.conversation.path()
        if path and not self.locked:
            at = path.index(self.picked) if self._picked and self.picked in path else len(path)
            self.pick(path[min(len(path) - 1, max(0, at + by))])
            self.post_message(self.Turned())

    def action_turn(self, by: int) -> None:
        exchange = self.picked
        if exchange is not None and not self.locked and len(self.conversation.siblings(exchange)) > 1:
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
        else:
            self.write(exchange.prompt, style)

    def _write_reply(self, exchange: Exchange) -> None:
        self.write(exchange.reply, "reply")
        self.write_others(exchange)

    def write_others(self, exchange: Exchange) -> None:
        """The further samples of the last reply, below it."""
        for number, text in enumerate(exchange.others, 2):
            self.write(f"\n\nsample {number}\n", "label")
            self.write(text, "reply")
