"""Talking to one model: a conversation, a prompt under it, the knobs beside it, and replies that stream in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from llm.config import DecodeConfig
from llm.errors import UserError
from workbench.chat.conversation import Conversation, Exchange, Kind
from workbench.chat.conversation_view import ConversationView
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.model_line import ModelLine
from workbench.chat.models import is_in_training, usual_choice
from workbench.chat.pipeline_order import in_order
from workbench.chat.prompt import PromptArea
from workbench.chat.reply import Pace, ReplyBegan, ReplyEnded, ReplyGrew
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.service import ChatService, ModelOpened, ModelRefused
from workbench.chat.status_line import ChatStatus
from workbench.chat.transcripts import keep, recent_prompts
from workbench.formatting import format_count
from workbench.text import clean
from workbench.ui.screen import WorkbenchScreen

EMPTY = "No model yet: press 1, choose a preset, press Enter, and come back when it has made its first steps."
TEXT, TURNS = "text goes on", "questions and answers"
ASK_FOR = {TEXT: "the beginning of a text, which the model goes on with", TURNS: "a question"}

Escape = Literal["stop", "take back", "give up", "conversation", "prompt"]


class TalkScreen(WorkbenchScreen):
    """One model and one conversation. Every reply that is over is kept in the conversation's file."""

    DEFAULT_CSS = """
    TalkScreen {
        #chat-body { height: 1fr; }
        #chat-left { width: 1fr; }
        &.-narrow KnobPanel { display: none; }
        &.-narrow.with-knobs KnobPanel { display: block; }
        &.-beside KnobPanel { width: 48; }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.service: ChatService | None = None
        self.reference = ""
        self.model: ModelOpened | None = None
        self.conversation = Conversation()
        self.in_turns = False
        self.editing: Exchange | None = None  # the exchange whose prompt is being changed
        self.draft = ""  # what had been typed before that
        self.held: str | None = None  # a prompt that is sent once the model is open
        self.current: Exchange | None = None  # the one that is being written
        self.writing = 0  # the number of the reply that is being written; 0 for none

    def body(self) -> ComposeResult:
        yield ModelLine(id="chat-model")
        with Horizontal(id="chat-body"):
            with Vertical(id="chat-left"):
                yield ConversationView(id="chat-transcript")
                yield ChatStatus(id="chat-status")
                yield PromptArea(id="chat-prompt")
            yield SamplingPanel(DecodeConfig(), id="chat-knobs")

    def on_mount(self) -> None:
        self.service = ChatService(self.workbench.home, self.workbench.training, self.post_message)
        self.transcript.show(self.conversation)
        self.prompt.focus()
        self._bring_back_prompts()
        self.watch(self.app, "training_line", self._training_moved, init=False)
        if self.reference:
            self._open()

    def on_unmount(self) -> None:
        if self.service is not None:
            self.service.close()
        self._keep("cancelled")

    def on_screen_resume(self) -> None:
        """Without a model, take the likeliest one."""
        if self.reference:
            self._show_model()
            return
        self.reference = usual_choice(self.workbench.home, self.workbench.training.active)
        if self.reference:
            self._open()
        else:
            self._model_line.say(EMPTY)

    @work(thread=True, group="prompts")
    def _bring_back_prompts(self) -> None:
        """Those that were sent before the program was started."""
        self.app.call_from_thread(self._remember, recent_prompts(self.workbench.home))

    def _remember(self, prompts: list[str]) -> None:
        if self.is_attached:  # else the program ended meanwhile
            self.prompt.remember(prompts)

    @property
    def transcript(self) -> ConversationView:
        return self.query_one(ConversationView)

    @property
    def exchanges(self) -> list[Exchange]:
        """What is shown of the conversation."""
        return self.conversation.path()

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def panel(self) -> SamplingPanel:
        return self.query_one(SamplingPanel)

    @property
    def _model_line(self) -> ModelLine:
        return self.query_one(ModelLine)

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
        self._model_line.say(f"opening {self.reference} …")
        self.service.open(self.reference)

    @on(ModelOpened)
    def _opened(self, event: ModelOpened) -> None:
        if event.reference != self.reference:
            return
        self.model = event
        self.in_turns = self.in_turns and event.turns is not None
        self.panel.set_usual(event.decode)
        self.panel.show_order(in_order)
        self._show_model()
        self._model_line.meter(0, event.context)
        self.refresh_bindings()
        held, self.held = self.held, None
        if held is not None:
            self._send(held)

    @on(ModelRefused)
    def _refused(self, event: ModelRefused) -> None:
        if event.reference == self.reference:
            self.reference = ""
            self._model_line.say(event.problem)
            self._take_back()

    def _show_model(self) -> None:
        model = self.model
        if model is None:
            return
        live = model.reference.endswith("@live") and is_in_training(self.workbench.home, model.reference)
        view = TURNS if self.in_turns else TEXT
        self._model_line.show(
            model.name, "in training" if live else "", view, f"{format_count(model.parameters)} parameters"
        )
        self.prompt.placeholder = ASK_FOR[view]

    def _training_moved(self) -> None:
        """What trains here can be talked to from its first step on, and is called so until its last."""
        if not self.is_current:
            return
        active = self.workbench.training.active
        if not self.reference and active and self.workbench.training.live_model(active) is not None:
            self.open_reference(f"{active}@live")
        self._show_model()

    @work
    async def action_model(self) -> None:
        """Choose another model."""
        chosen = await self.app.push_screen_wait(ChooseModel(self.workbench.home))
        if chosen:
            self.open_reference(chosen)

    # --- asking

    @on(PromptArea.Sent)
    def _sent(self, event: PromptArea.Sent) -> None:
        if self.model is None and self.reference and self.held is None:
            self.prompt.accept(event.text)
            self.held = event.text
            self._note("sent when the model is there: esc takes it back")
            self.refresh_bindings()
        elif self._ready():
            self.prompt.accept(event.text)
            self._send(event.text)

    def _send(self, text: str) -> None:
        changed, self.editing = self.editing, None
        if changed is not None:
            self._bring_back_draft()
            self._begin(changed.kind, text, changed.parent)
        else:
            self._begin("turn" if self.in_turns else "text", text, self.conversation.leaf)

    def _bring_back_draft(self) -> None:
        """What was being typed when a prompt was to be edited."""
        self.prompt.text, self.draft = self.draft, ""
        self.prompt.move_cursor(self.prompt.document.end)

    def _take_back(self) -> None:
        """Put the prompt that waits for the model back into the field, before what was typed since."""
        if self.held is not None:
            self.prompt.text = "\n".join(text for text in (self.held, self.prompt.text) if text)
            self.prompt.move_cursor(self.prompt.document.end)
            self.held = None
            self._note("")
            self.refresh_bindings()

    def _ready(self) -> bool:
        if self.writing:
            self._note("still writing: esc stops it", warn=True)
        elif self.model is None and self.reference:
            self._note("the model is still being opened: once more in a moment", warn=True)
        elif self.model is None:
            self._note("no model is open: ctrl+o chooses one", warn=True)
        else:
            return True
        return False

    def _begin(
        self,
        kind: Kind,
        prompt: str,
        parent: int,
        *,
        file_text: str = "",
        like: Exchange | None = None,
        given: Sequence[int] = (),
    ) -> None:
        """Have a new exchange written after the exchange `parent`; `file_text`, `like` and `given` as in a Request."""
        assert self.service is not None and self.model is not None
        exchange = self.current = self.conversation.add(kind, prompt, parent)
        exchange.given = len(given)
        self.service.params = self.panel.params
        self.writing = self.service.ask(
            prompt,
            history=self.conversation.history(exchange),
            turns=self.model.turns if exchange.is_turn else None,
            file_text=file_text,
            like=like,
            goes_on=self.conversation.exchanges[parent] if kind == "on" else None,
            given=given,
        )
        self.transcript.locked = self.panel.patient = True
        self.transcript.begin(exchange)
        self._note("reading the prompt …")
        self.refresh_bindings()

    def action_view(self) -> None:
        """Between text that goes on, and questions with answers."""
        if self.model is None or self.writing:
            self._ready()
            return
        if self.model.turns is None:
            self._note("this model learnt plain text, without questions and answers", warn=True)
            return
        self.in_turns = not self.in_turns
        self._show_model()

    # --- the reply as it comes

    @on(ReplyBegan)
    def _began(self, event: ReplyBegan) -> None:
        current = self.current
        if event.reply != self.writing or current is None or self.model is None:
            return
        self.model.name = event.name
        self._show_model()
        current.model, current.sha256, current.live, current.device = event.name, event.sha256, event.live, event.device
        start = event.start
        current.file_text, current.context, current.begun = start.file_text, start.context, list(start.begun)
        current.params, current.dropped_turns = event.params, start.dropped_turns
        self.transcript.show_context(current)
        if event.warning:
            self.notify(clean(event.warning), severity="warning", markup=False)

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
        current.changes = event.changes
        self.transcript.write(text, "reply")
        self._meter(event.pace)
        self.query_one(ChatStatus).show_pace(event.pace, current.dropped_turns, event.problem)

    @on(ReplyEnded)
    def _ended(self, event: ReplyEnded) -> None:
        current = self.current
        if event.reply != self.writing or current is None:
            return
        current.others, current.problem, current.dropped = event.others, event.problem, event.pace.dropped
        self.transcript.write_end(current)
        self._meter(event.pace)
        more = "ctrl+g goes on" if current.kind != "turn" and event.reason == "length" else ""
        keep = "esc, then K keeps this step" if current.live and event.pace.tokens else ""
        self.query_one(ChatStatus).show_end(event.pace, current.dropped_turns, event.reason, more, keep)
        self._put_away(event.reason)

    def _put_away(self, reason: str) -> None:
        """The reply is over: keep it, and let another begin."""
        self.transcript.locked = self.panel.patient = False
        problem = self._keep(reason)
        if problem:
            self._note(problem, warn=True)
        self.refresh_bindings()

    def _keep(self, reason: str) -> str:
        """Write down the reply that is over, and why it is; what prevents it, in words."""
        current, self.current, self.writing = self.current, None, 0
        if current is None:
            return ""
        current.reason = reason
        try:
            keep(self.workbench.home, self.conversation, current)
        except UserError as error:
            return str(error)
        return ""

    def _meter(self, pace: Pace) -> None:
        if self.model is not None and pace.tokens:
            self._model_line.meter(pace.context_used, self.model.context, pace.dropped)

    def _note(self, text: str, warn: bool = False) -> None:
        self.query_one(ChatStatus).say(text, warn)

    # --- knobs and leaving

    @on(SamplingPanel.Changed)
    def _params_changed(self, event: SamplingPanel.Changed) -> None:
        if self.service is not None:
            self.service.params = event.params

    def action_knobs(self) -> None:
        """To the knobs, or back from them."""
        if self.panel.has_focus_within:
            self.remove_class("with-knobs")
            self.prompt.focus()
            return
        self.add_class("with-knobs")
        self.panel.query("Input").first().focus()

    @property
    def _escape(self) -> Escape:
        """What esc does now."""
        if self.writing or (self.service is not None and self.service.is_at_a_job):
            return "stop"
        if self.held is not None:
            return "take back"
        if self.editing is not None:
            return "give up"
        return "conversation" if isinstance(self.focused, PromptArea) else "prompt"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key does something now; what does not is not in the footer."""
        if action == "leave":
            return parameters == (self._escape,)
        return True

    def action_leave(self, way: Escape) -> None:
        """Stop the reply, or give up editing; else to the conversation, and back from there."""
        if way == "stop":
            self._stop()
        elif way == "take back":
            self._take_back()
        elif way == "give up":
            self.editing = None
            self._bring_back_draft()
            self._note("")
            self.refresh_bindings()
        elif way == "conversation":
            self.transcript.focus()
        else:
            self.remove_class("with-knobs")
            self.prompt.focus()

    def _stop(self) -> None:
        if self.service is not None:
            self.service.stop()
