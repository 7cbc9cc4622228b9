"""The microscope: the distribution that a token was drawn from, and what each transformation made of it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static

from workbench.chat.conversation import Exchange
from workbench.chat.microscope import Explained, explain_token
from workbench.chat.service import ChatService, JobFailed
from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

NEAR = 60
"""Tokens shown before the one that is looked at."""
FEWEST = 10
"""Rows of tokens that are asked for in the smallest window."""
OTHER_ROWS = 12
"""Of the window: what is around the rows of tokens."""
TOKEN, ENDS = Binding.Group("Token"), Binding.Group("First, last")


class Choices(DataTable[Text]):
    """The tokens there were to choose from."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Go on with it", id="microscope.choose"),
        Binding("j", "cursor_down", "Down", id="list.down", show=False),
        Binding("k", "cursor_up", "Up", id="list.up", show=False),
    ]


class Microscope(Modal[tuple[int, int] | None]):
    """One token of a reply at a time. Returns (place, token) to go on from with another token, or None."""

    NAME = "Microscope"
    GUIDE = (
        "What one token of the reply was drawn from: a column per transformation, in the order they were applied, from "
        "what the model said to what the token was drawn from. A dash is a token that is out of the question there. "
        "Enter on another token writes the reply again with it in this place, as a branch."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Token before", id="microscope.before", priority=True, group=TOKEN),
        Binding("right,l", "move(1)", "Next token", id="microscope.next", priority=True, group=TOKEN),
        Binding("home", "move(-1000000)", "First token", id="microscope.first", priority=True, group=ENDS),
        Binding("end", "move(1000000)", "Last token", id="microscope.last", priority=True, group=ENDS),
        Binding("escape,q", "dismiss(None)", "Close", id="microscope.close"),
    ]
    DEFAULT_CSS = """
    Microscope {
        #microscope { padding: 0 1; background: $background; }
        #microscope-text { height: auto; max-height: 5; margin: 1 0; }
        #microscope-head { height: 1; }
        DataTable { height: 1fr; background: $background; }
    }
    """

    def __init__(self, service: ChatService, exchange: Exchange) -> None:
        super().__init__()
        self.service, self.exchange = service, exchange
        self.at = 0
        self.seen: Explained | None = None
        self._asked: int | None = None  # the place that is being computed

    def compose(self) -> ComposeResult:
        with Vertical(id="microscope"):
            yield Static(f"looking with {one_line(self.exchange.model)} …", id="microscope-head", markup=False)
            with VerticalScroll(id="microscope-text", can_focus=False):
                yield Static(id="microscope-tokens", markup=False)
            yield Choices(cursor_type="row", id="microscope-table")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(DataTable).focus()
        self._look()

    def action_move(self, by: int) -> None:
        self.at = min(len(self.exchange.tokens) - 1, max(0, self.at + by))
        self._look()

    def _look(self) -> None:
        """Have the present token explained; one at a time, however fast the keys come."""
        if self._asked is not None:
            return
        exchange, at, top = self.exchange, self.at, max(FEWEST, self.size.height - OTHER_ROWS)
        self._asked = at
        self.service.do(
            lambda service, stop: explain_token(
                exchange, at, service.talker_for(exchange.model, exchange.sha256, stop, keep=True), top
            ),
            self.post_message,
        )

    @on(JobFailed)
    def _failed(self, event: JobFailed) -> None:
        self._asked = None
        self.query_one("#microscope-head", Static).update(Content.styled(one_line(event.problem), "$error"))

    @on(Explained)
    def _explained(self, event: Explained) -> None:
        self._asked = None
        if event.at != self.at:
            self._look()
            return
        self.seen = event
        token = self.exchange.tokens[event.at]
        last = dict(event.stages[-1].top)[token]
        chosen = "chosen by you" if event.at < self.exchange.given else f"drawn with {percent(last)}"
        head = f"token {event.at + 1} of {len(self.exchange.tokens)}: {event.names[token]} ({chosen})"
        self.query_one("#microscope-head", Static).update(Content.styled(one_line(head), "bold"))
        self._show_text(event)
        self._show_table(event, token)

    def _show_text(self, event: Explained) -> None:
        first = max(0, event.at - NEAR)
        parts: list[str | tuple[str, str]] = ["… "] if first else []
        for place in range(first, min(len(event.texts), event.at + NEAR)):
            text = event.texts[place].replace("\n", "↵")
            parts.append((text, "$text on $primary") if place == event.at else text)
        self.query_one("#microscope-tokens", Static).update(Content.assemble(*parts))

    def _show_table(self, event: Explained, drawn: int) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        table.clear(columns=True)
        table.add_columns(Text("token"), *(Text(stage.name.replace("_", " ")) for stage in event.stages))
        kept = [Text(f"{stage.kept:,}", "dim", justify="right") for stage in event.stages]
        bits = [Text(f"{max(0.0, stage.entropy_bits):.2f}", "dim", justify="right") for stage in event.stages]
        table.add_row(Text("tokens left", "dim"), *kept, key="left")
        table.add_row(Text("entropy, bits", "dim"), *bits, key="bits")
        tops = [dict(stage.top) for stage in event.stages]
        ids = sorted(event.names, key=lambda token: (-tops[0].get(token, 0.0), token))
        for token in ids:
            name = Text(("▸ " if token == drawn else "  ") + one_line(event.names[token]))
            table.add_row(name, *(cell_of(top.get(token)) for top in tops), key=str(token))
        table.move_cursor(row=2 + ids.index(drawn))

    @on(DataTable.RowSelected)
    def _go_on(self, event: DataTable.RowSelected) -> None:
        if self.seen is not None and self.seen.at == self.at and event.row_key.value not in ("left", "bits"):
            self.dismiss((self.at, int(event.row_key.value or 0)))


def cell_of(probability: float | None) -> Text:
    """A probability; a dash where the token is out of the question; nothing where it is not known."""
    if probability is None:
        return Text("")
    return Text(percent(probability) if probability else "–", justify="right")


def percent(probability: float) -> str:
    """A probability in per cent: two decimals, four where two would say next to nothing."""
    if 0 < probability < 5e-7:
        return "<0.0001 %"
    return f"{100 * probability:.4f} %" if 0 < probability < 1e-4 else f"{100 * probability:.2f} %"
