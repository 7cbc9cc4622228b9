"""The microscope: the distribution of a token, and the effect of each logits processor on it."""

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
"""Tokens shown before and after the selected one."""
MIN_ROWS = 10
"""Rows of tokens in the smallest window."""
OTHER_ROWS = 12
"""Rows of the window that show something else."""
TOKEN, ENDS = Binding.Group("Token"), Binding.Group("First, last")


class Choices(DataTable[Text]):
    """The most likely tokens."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Use token", id="microscope.choose"),
        Binding("j", "cursor_down", "Down", id="list.down", show=False),
        Binding("k", "cursor_up", "Up", id="list.up", show=False),
    ]


class Microscope(Modal[tuple[int, int] | None]):
    """Shows one token of a reply. Returns (index, token) to branch with another token, or None."""

    NAME = "Microscope"
    GUIDE = (
        "The distribution of one token of the reply. The first column is the model's; each further column is the "
        "distribution after one more logits processor, and the last is the one the token was sampled from. A dash "
        "marks a removed token. Enter starts a branch with the selected token."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Previous token", id="microscope.before", priority=True, group=TOKEN),
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
        self.explained: Explained | None = None
        self._requested: int | None = None  # the index that is being computed

    def compose(self) -> ComposeResult:
        with Vertical(id="microscope"):
            yield Static(f"Loading {one_line(self.exchange.model)} …", id="microscope-head", markup=False)
            with VerticalScroll(id="microscope-text", can_focus=False):
                yield Static(id="microscope-tokens", markup=False)
            yield Choices(cursor_type="row", id="microscope-table")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(DataTable).focus()
        self._explain()

    def action_move(self, by: int) -> None:
        self.at = min(len(self.exchange.tokens) - 1, max(0, self.at + by))
        self._explain()

    def _explain(self) -> None:
        """Explain the current token; only one job is queued at a time."""
        if self._requested is not None:
            return
        exchange, at, top = self.exchange, self.at, max(MIN_ROWS, self.size.height - OTHER_ROWS)
        self._requested = at
        self.service.do(
            lambda service, stop: explain_token(
                exchange, at, service.model_for(exchange.model, exchange.sha256, stop, keep=True), top
            ),
            self.post_message,
        )

    @on(JobFailed)
    def _failed(self, event: JobFailed) -> None:
        self._requested = None
        self.query_one("#microscope-head", Static).update(Content.styled(one_line(event.problem), "$error"))

    @on(Explained)
    def _explained(self, event: Explained) -> None:
        self._requested = None
        if event.at != self.at:
            self._explain()
            return
        self.explained = event
        token = self.exchange.tokens[event.at]
        last = dict(event.stages[-1].top)[token]
        chosen = "chosen by you" if event.at < self.exchange.given else f"probability {percent(last)}"
        head = f"Token {event.at + 1} of {len(self.exchange.tokens)}: {event.names[token]} ({chosen})"
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

    def _show_table(self, event: Explained, sampled: int) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        table.clear(columns=True)
        table.add_columns(Text("token"), *(Text(stage.name.replace("_", " ")) for stage in event.stages))
        kept = [Text(f"{stage.kept:,}", "dim", justify="right") for stage in event.stages]
        bits = [Text(f"{max(0.0, stage.entropy_bits):.2f}", "dim", justify="right") for stage in event.stages]
        table.add_row(Text("tokens left", "dim"), *kept, key="left")
        table.add_row(Text("entropy (bits)", "dim"), *bits, key="bits")
        tops = [dict(stage.top) for stage in event.stages]
        ids = sorted(event.names, key=lambda token: (-tops[0].get(token, 0.0), token))
        for token in ids:
            name = Text(("▸ " if token == sampled else "  ") + one_line(event.names[token]))
            table.add_row(name, *(probability_cell(top.get(token)) for top in tops), key=str(token))
        table.move_cursor(row=2 + ids.index(sampled))

    @on(DataTable.RowSelected)
    def _choose(self, event: DataTable.RowSelected) -> None:
        if self.explained is not None and self.explained.at == self.at and event.row_key.value not in ("left", "bits"):
            self.dismiss((self.at, int(event.row_key.value or 0)))


def probability_cell(probability: float | None) -> Text:
    """A probability; a dash for a removed token; empty if unknown."""
    if probability is None:
        return Text("")
    return Text(percent(probability) if probability else "–", justify="right")


def percent(probability: float) -> str:
    """A probability in percent, with two decimals, or four if it is small."""
    if 0 < probability < 5e-7:
        return "<0.0001 %"
    return f"{100 * probability:.4f} %" if 0 < probability < 1e-4 else f"{100 * probability:.2f} %"
