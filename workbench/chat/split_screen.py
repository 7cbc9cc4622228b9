"""The split view: the replies of two checkpoints to one prompt and seed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from workbench.chat.conversation import Exchange
from workbench.chat.service import ChatService, JobFailed
from workbench.chat.split import SideStarted, SideUpdated, SplitDone, split
from workbench.chat.transcript_view import Transcript
from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

KL_STYLES = ((2.0, "far-3"), (0.5, "far-2"), (0.1, "far-1"))
"""(nats of KL, style) of marked tokens, largest first."""
TOKEN = Binding.Group("Token")


class Split(Modal[None]):
    """Two texts: the first different token is underlined, and a token's background shows its KL divergence."""

    NAME = "Split"
    GUIDE = (
        "The replies of two checkpoints to the same prompt, with the same sampling parameters and seed. The first "
        "different token is underlined. The background of a token shows the KL divergence, in nats, between the two "
        "models' predictions of it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Previous token", id="split.before", priority=True, group=TOKEN),
        Binding("right,l", "move(1)", "Next token", id="split.next", priority=True, group=TOKEN),
        Binding("d", "difference", "First difference", id="split.difference"),
        Binding("escape,q", "leave", "Close", id="split.close"),
    ]
    DEFAULT_CSS = """
    Split {
        #split { padding: 0 1; background: $background; }
        .split-side { width: 1fr; }
        .split-name { height: 1; padding: 0 1; text-style: bold; }
        .split-token { height: 2; padding: 0 1; color: $text-muted; }
        #split-right { border-left: solid $panel-lighten-2; }
        #split-facts { height: 1; padding: 0 1; background: $panel; }
    }
    """

    def __init__(self, service: ChatService, exchange: Exchange, other: str) -> None:
        super().__init__()
        self.service, self.exchange, self.other = service, exchange, other
        self.names = [exchange.model, other]
        self.done: SplitDone | None = None
        self.at: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="split"):
            with Horizontal():
                for side, name in enumerate(self.names):
                    with Vertical(classes="split-side", id="split-right" if side else "split-left"):
                        yield Static(one_line(name), classes="split-name", id=f"split-name-{side}", markup=False)
                        yield Transcript(id=f"split-text-{side}")
                        yield Static(classes="split-token", id=f"split-token-{side}", markup=False)
            yield Static("Loading both models …", id="split-facts", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self._texts[0].focus()
        for text in self._texts:
            text.write(self.exchange.context, "prompt")
        exchange, other, post = self.exchange, self.other, self.post_message
        self.service.do(lambda service, stop: split(exchange, other, service, stop, post), post)

    def action_leave(self) -> None:
        self.service.stop()
        self.dismiss(None)

    @property
    def _texts(self) -> list[Transcript]:
        return [self.query_one(f"#split-text-{side}", Transcript) for side in (0, 1)]

    @on(SideStarted)
    def _side_started(self, event: SideStarted) -> None:
        self.names[event.side] = event.name
        self._texts[event.side].write(event.given, "prompt")
        self.query_one(f"#split-name-{event.side}", Static).update(Content(one_line(event.name)))

    @on(SideUpdated)
    def _side_updated(self, event: SideUpdated) -> None:
        self._texts[event.side].write(event.text)
        self._say(f"{self.names[event.side]} is generating …")

    @on(JobFailed)
    def _failed(self, event: JobFailed) -> None:
        self._say(event.problem)

    @on(SplitDone)
    def _finished(self, event: SplitDone) -> None:
        self.done = event
        self._draw()

    # --- both replies

    def action_move(self, by: int) -> None:
        """Select another token, in both texts."""
        if self.done is not None:
            longest = max(len(side.tokens) for side in self.done.comparison.sides)
            self.at = min(longest - 1, max(0, by + (self.at if self.at is not None else -1)))
            self._draw()

    def action_difference(self) -> None:
        if self.done is not None and self.done.comparison.first_token is not None:
            self.at = self.done.comparison.first_token
            self._draw()

    def _draw(self) -> None:
        assert self.done is not None
        comparison = self.done.comparison
        for text, side in zip(self._texts, comparison.sides, strict=True):
            text.cut(len(comparison.prompt))
            place = len(text.text)
            for token, piece in enumerate(side.texts):
                place = len(text.text) if token == self.at else place
                text.write(piece, self._style(token, side.divergence, comparison.first_token))
            text.write(side.text[sum(map(len, side.texts)) :])
            text.show_place(place)
        for number in range(len(comparison.sides)):
            line = self.query_one(f"#split-token-{number}", Static)
            line.update(Content(one_line(self._token_facts(number)) if self.at is not None else ""))
        self._say(self._summary())

    def _style(self, number: int, divergence: tuple[float, ...] | None, first: int | None) -> str:
        if number == self.at:
            return "chosen"
        if number == first:
            return "differs"
        kl = divergence[number] if divergence is not None else 0.0
        return next((style for limit, style in KL_STYLES if kl >= limit), "reply")

    def _summary(self) -> str:
        assert self.done is not None
        comparison = self.done.comparison
        if comparison.first_token is not None:
            difference = f"first difference at token {comparison.first_token + 1}"
        elif comparison.first_character is not None:
            difference = f"first difference at character {comparison.first_character + 1} (different tokenizers, no KL)"
        else:
            difference = "identical texts"
        means = [side.mean_divergence for side in comparison.sides]
        shown = " and ".join(f"{mean:.2f}" for mean in means if mean is not None)
        return difference + (f" · mean KL {shown} nats · marked above 0.1" if shown else "")

    def _token_facts(self, number: int) -> str:
        """Log-probability and KL divergence of the selected token of one side."""
        assert self.done is not None and self.at is not None
        side = self.done.comparison.sides[number]
        if self.at >= len(side.tokens):
            return "ended"
        kl = f" · KL {side.divergence[self.at]:.3f} nats" if side.divergence is not None else ""
        logprob = side.logprobs[self.at]
        return f"token {self.at + 1}: {side.texts[self.at]!r} · log-probability {logprob:.2f}{kl}"

    def _say(self, text: str) -> None:
        self.query_one("#split-facts", Static).update(Content(one_line(text)))
