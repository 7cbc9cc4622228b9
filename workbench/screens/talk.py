"""Talking to one model: a conversation, a prompt under it, the knobs beside it, and replies that stream in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.screens.base import WorkbenchScreen
from workbench.screens.choose_model import ChooseModel
from workbench.services.chat import ChatService, ModelOpened, ModelRefused, ReplyBegan, ReplyEnded, ReplyGrew
from workbench.services.conversation import Conversation, Exchange, Kind
from workbench.services.talker import usual_choice
from workbench.services.transcripts import keep
from workbench.text import clean, one_line
from workbench.widgets.axes import compact
from workbench.widgets.conversation import ConversationView
from workbench.widgets.knobs import KnobPanel
from workbench.widgets.prompt import PromptArea

REASONS = {
    "stop": "ended by itself",
    "length": "as long as max tokens allows: ctrl+g goes on",
    "cancelled": "stopped",
    "failed": "failed",
}
EMPTY = "No model yet: press 1, choose a preset, press Enter, and come back when it has made its first steps."


class TalkScreen(WorkbenchScreen):
    """One model and one conversation. Every reply that is over is kept in the conversation's file."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Stop", id="chat.stop", key_display="esc"),
        Binding("ctrl+o", "model", "Model", id="chat.model", key_display="^o"),
        Binding("ctrl+t", "view", "Turns/text", id="chat.view", key_display="^t"),
        Binding("f2", "knobs", "Knobs", id="chat.knobs"),
    ]
    DEFAULT_CSS = """
    TalkScreen {
        #chat-model { height: 1; padding: 0 1; background: $panel; }
        #chat-status { height: 1; padding: 0 1; color: $text-muted; }
        #chat-body { height: 1fr; }
        #chat-left { width: 1fr; }
        &.-narrow KnobPanel { display: none; }
        &.-narrow.with-knobs KnobPanel { display: block; }
        &.-wide.without-knobs KnobPanel { display: none; }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.service: ChatService | None = None
        self.reference = ""
        self.model: ModelOpened | None = None
        self.in_turns = False
        self.editing: Exchange | None = None  # the exchange whose prompt is being changed
        self.current: Exchange | None = None  # the one that is being written
        self.writing = 0  # the number of the reply that is being written; 0 for none

    def body(self) -> ComposeResult:
        yield Static(id="chat-model", markup=False)
        with Horizontal(id="chat-body"):
            with Vertical(id="chat-left"):
                yield ConversationView(id="chat-transcript")
                yield Static(id="chat-status", markup=False)
                yield PromptArea(id="chat-prompt")
            yield KnobPanel(DecodeConfig(), id="chat-knobs")

    def on_mount(self) -> None:
        self.service = ChatService(self.workbench.home, self.workbench.training, self.post_message)
        self.prompt.focus()
        if self.reference:
            self._open()

    def on_unmount(self) -> None:
        if self.service is not None:
            self.service.close()

    def on_screen_resume(self) -> None:
        """Without a model, take the likeliest one."""
        if self.reference:
            return
        self.reference = usual_choice(self.workbench.home, self.workbench.training.active)
        if self.reference:
            self._open()
        else:
            self._say_model(EMPTY)

    @property
    def transcript(self) -> ConversationView:
        return self.query_one(ConversationView)

    @property
    def conversation(self) -> Conversation:
        return self.transcript.conversation

    @property
    def exchanges(self) -> list[Exchange]:
        """What is shown of the conversation."""
        return self.conversation.path()

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def panel(self) -> KnobPanel:
        return self.query_one(KnobPanel)

    # --- which model

    def open_reference(self, reference: str) -> None:
        """Talk to `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`."""
        self.reference = reference
        if self.service is not None:
            self._open()
            self.prompt.focus()

    def _open(self) -> None:
        assert self.service is not None
        self.model = None
        self._say_model(f"opening {self.reference} …")
        self.service.open(self.reference)

    @on(ModelOpened)
    def _opened(self, event: ModelOpened) -> None:
        if event.reference != self.reference:
            return
        self.model = event
        self.in_turns = self.in_turns and event.turns is not None
        self.panel.set_usual(event.decode)
        self._show_model(event.name)

    @on(ModelRefused)
    def _refused(self, event: ModelRefused) -> None:
        if event.reference == self.reference:
            self.reference = ""
            self._say_model(event.problem)

    def _show_model(self, name: str) -> None:
        model = self.model
        if model is None:
            return
        live = "  in training now" if model.reference.endswith("@live") else ""
        view = "questions and answers" if self.in_turns else "text goes on"
        facts = f"{compact(model.parameters)} parameters, context {model.context:,}{live}"
        self.query_one("#chat-model", Static).update(
            Content.assemble((one_line(name), "bold"), f"  {facts}  ", (view, "dim"))
        )

    def _say_model(self, text: str) -> None:
        self.query_one("#chat-model", Static).update(Content(one_line(text)))

    @work
    async def action_model(self) -> None:
        """Choose another model."""
        chosen = await self.app.push_screen_wait(ChooseModel(self.workbench.home))
        if chosen:
            self.open_reference(chosen)

    # --- asking

    @on(PromptArea.Sent)
    def _sent(self, event: PromptArea.Sent) -> None:
        if not self._ready():
            return
        self.prompt.accept(event.text)
        changed, self.editing = self.editing, None
        if changed is not None:
            self._begin(changed.kind, event.text, changed.parent)
        else:
            self._begin("turn" if self.in_turns else "text", event.text, self.conversation.leaf)

    def _ready(self) -> bool:
        if self.writing:
            self._note("still writing: esc stops it", warn=True)
        elif self.model is None:
            self._note("no model is open: ctrl+o chooses one", warn=True)
        else:
            return True
        return False

    def _begin(
        self, kind: Kind, prompt: str, parent: int, *, context: str | None = None, given: Sequence[int] = ()
    ) -> None:
        """Have a new exchange written after the exchange `parent`; `context` and `given` as in a Request."""
        assert self.service is not None and self.model is not None
        exchange = self.current = self.conversation.add(kind, prompt, parent)
        exchange.given = len(given)
        self.service.knobs = self.panel.knobs
        if kind == "on" and context is None:
            context = self.conversation.text_before(exchange)
        self.writing = self.service.ask(
            prompt,
            history=self.conversation.history(exchange),
            turns=self.model.turns if exchange.is_turn else None,
            context=context,
            given=given,
        )
        self.transcript.locked = True
        self.transcript.begin(exchange)
        self._note("reading the prompt …")

    def action_view(self) -> None:
        """Between text that goes on, and questions with answers."""
        if self.model is None or self.writing:
            self._ready()
            return
        if self.model.turns is None:
            self._note("this model learnt plain text, without questions and answers", warn=True)
            return
        self.in_turns = not self.in_turns
        self._show_model(self.model.name)

    # --- the reply as it comes

    @on(ReplyBegan)
    def _began(self, event: ReplyBegan) -> None:
        current = self.current
        if event.reply != self.writing or current is None:
            return
        self._show_model(event.name)
        current.model, current.sha256, current.live, current.device = event.name, event.sha256, event.live, event.device
        current.context, current.knobs, current.dropped_turns = event.context, event.knobs, event.dropped_turns

    @on(ReplyGrew)
    def _grew(self, event: ReplyGrew) -> None:
        current = self.current
        if event.reply != self.writing or current is None:
            return
        text = event.text
        if current.is_turn and not current.reply:
            text = text.lstrip()
        current.reply += text
        current.tokens += event.ids
        self.transcript.write(text, "reply")
        self._note(self._speed(event))

    @on(ReplyEnded)
    def _ended(self, event: ReplyEnded) -> None:
        current = self.current
        if event.reply != self.writing or current is None:
            return
        current.others, current.changes = event.others, event.changes
        if event.problem:
            self.transcript.write(f"\n{event.problem}", "error")
        self.transcript.write_others(current)
        speed = self._speed(event) + " · " if event.tokens else ""
        live = " · esc, then K keeps this step" if current.live else ""
        self._note(f"{speed}{REASONS.get(event.reason, event.reason)}{live}")
        self._put_away(event.reason)

    def _put_away(self, reason: str) -> None:
        """The reply is over: keep it."""
        current, self.current, self.writing = self.current, None, 0
        self.transcript.locked = False
        if current is None:
            return
        current.reason = reason
        try:
            keep(self.workbench.home, self.conversation, current)
        except UserError as error:
            self._note(str(error), warn=True)

    def _speed(self, event: ReplyGrew | ReplyEnded) -> str:
        context = self.model.context if self.model else 0
        turns = self.current.dropped_turns if self.current else 0
        parts = [
            f"{event.tokens} tokens",
            f"{event.tokens_per_second:.0f} tokens/s" if event.tokens_per_second else "",
            f"first after {event.first * 1000:.0f} ms",
            f"context {event.context_used}/{context}",
            f"{event.dropped} oldest dropped" if event.dropped else "",
            f"the oldest {turns} turns dropped" if turns else "",
        ]
        return " · ".join(part for part in parts if part)

    def _note(self, text: str, warn: bool = False) -> None:
        style = "$warning" if warn else ""
        self.query_one("#chat-status", Static).update(Content.styled(clean(text), style))

    # --- knobs and leaving

    @on(KnobPanel.Changed)
    def _knobs_changed(self, event: KnobPanel.Changed) -> None:
        if self.service is not None:
            self.service.knobs = event.knobs

    def action_knobs(self) -> None:
        """To the knobs, or back from them."""
        if self.panel.has_focus_within:
            self.remove_class("with-knobs")
            self.prompt.focus()
            return
        self.add_class("with-knobs")
        self.panel.query("Input").first().focus()

    def action_leave(self) -> None:
        """Stop the reply, or give up editing; else back to the prompt, and from there to the transcript."""
        if self.writing or (self.service is not None and self.service.is_at_a_job):
            self._stop()
        elif self.editing is not None:
            self.editing = None
            self.prompt.text = ""
            self._note("")
        elif self.prompt.has_focus:
            self.transcript.focus()
        else:
            self.remove_class("with-knobs")
            self.prompt.focus()

    def _stop(self) -> None:
        if self.service is not None:
            self.service.stop()
