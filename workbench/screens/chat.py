"""Talking to a model: it writes on from a prompt, or answers questions where its corpus had any."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from llm.config import DecodeConfig
from workbench.screens.base import WorkbenchScreen
from workbench.screens.choose_model import ChooseModel
from workbench.services.chat import ChatService, ModelOpened, ModelRefused, ReplyBegan, ReplyEnded, ReplyGrew
from workbench.services.talker import usual_choice
from workbench.text import clean, one_line
from workbench.widgets.axes import compact
from workbench.widgets.knobs import KnobPanel
from workbench.widgets.prompt import PromptArea
from workbench.widgets.transcript import Transcript

REASONS = {
    "stop": "ended by itself",
    "length": "as long as max tokens allows: ctrl+g goes on",
    "cancelled": "stopped",
    "failed": "failed",
}
EMPTY = "No model yet: press 1, choose a preset, press Enter, and come back when it has made its first steps."


@dataclass
class Exchange:
    """A prompt and what the model wrote. `written` is where in the transcript the reply begins, `is_turn` whether it
    answers a question."""

    prompt: str
    written: int
    is_turn: bool
    reply: str = ""


class ChatScreen(WorkbenchScreen):
    """A transcript, a prompt under it, and the knobs beside it."""

    GUIDE = (
        "Type and press Enter: the model writes on from your text. ctrl+t changes to questions and answers, for models "
        "trained on a corpus that has them. The knobs hold from the next token on, also while it writes. The same "
        "checkpoint, prompt, knobs and seed give the same text again. An empty prompt is the start of a document; "
        "FILE:path reads one from a file."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Stop", id="chat.stop", key_display="esc"),
        Binding("ctrl+o", "model", "Model", id="chat.model", key_display="^o"),
        Binding("ctrl+r", "regenerate", "Again", id="chat.regenerate", key_display="^r"),
        Binding("ctrl+g", "go_on", "Go on", id="chat.go-on", key_display="^g"),
        Binding("ctrl+t", "view", "Turns/text", id="chat.view", key_display="^t"),
        Binding("ctrl+n", "new", "New", id="chat.new", key_display="^n"),
        Binding("f2", "knobs", "Knobs", id="chat.knobs"),
        Binding("y", "copy_reply", "Copy reply", id="chat.copy", show=False),
    ]
    DEFAULT_CSS = """
    ChatScreen {
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
        self.exchanges: list[Exchange] = []
        self.writing = 0  # the number of the reply that is being written; 0 for none

    def body(self) -> ComposeResult:
        yield Static(id="chat-model", markup=False)
        with Horizontal(id="chat-body"):
            with Vertical(id="chat-left"):
                yield Transcript(id="chat-transcript")
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
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

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
        self._begin(event.text)

    def _ready(self) -> bool:
        if self.writing:
            self._note("still writing: esc stops it", warn=True)
        elif self.model is None:
            self._note("no model is open: ctrl+o chooses one", warn=True)
        else:
            return True
        return False

    def _begin(self, prompt: str) -> None:
        if self.transcript.text:
            self.transcript.write("\n\n", "note")
        if self.in_turns:
            self.transcript.write("you    ", "label")
            self.transcript.write(prompt + "\n", "prompt")
            self.transcript.write("model  ", "label")
        else:
            self.transcript.write(prompt, "prompt")
        self.exchanges.append(Exchange(prompt, len(self.transcript.text), self.in_turns))
        self._ask(prompt)
        self.transcript.scroll_end(animate=False)

    def _ask(self, prompt: str) -> None:
        """Have the last exchange written (on)."""
        assert self.service is not None and self.model is not None
        self.service.knobs = self.panel.knobs
        *earlier, last = self.exchanges
        turns = self.model.turns if last.is_turn else None
        conversation = takewhile(lambda one: last.is_turn and one.is_turn, reversed(earlier))
        history = [(one.prompt, one.reply.strip()) for one in conversation][::-1]
        self.writing = self.service.ask(prompt, history=history, turns=turns)
        self._note("reading the prompt …")

    def action_regenerate(self) -> None:
        """Another reply to the last prompt, with the next seed."""
        if not self.exchanges or not self._ready():
            return
        last = self.exchanges[-1]
        self.transcript.cut(last.written)
        last.reply = ""
        self.panel.set_value("seed", self.panel.knobs.seed + 1)
        self._ask(last.prompt)

    def action_go_on(self) -> None:
        """Let the model write on where it stopped."""
        if not self.exchanges or not self._ready():
            return
        if self.exchanges[-1].is_turn:
            self._note("an answer cannot be gone on with; ask something else", warn=True)
            return
        last = self.exchanges[-1]
        self._ask(last.prompt + last.reply)

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

    def action_new(self) -> None:
        """An empty page; what was said before is forgotten."""
        self._stop()
        self.writing = 0
        self.exchanges.clear()
        self.transcript.cut(0)
        self._note("")

    # --- the reply as it comes

    @on(ReplyBegan)
    def _began(self, event: ReplyBegan) -> None:
        if event.reply == self.writing:
            self._show_model(event.name)
            if event.dropped_turns:
                self._note(f"the oldest {event.dropped_turns} turns had no room in the context", warn=True)

    @on(ReplyGrew)
    def _grew(self, event: ReplyGrew) -> None:
        if event.reply != self.writing:
            return
        last = self.exchanges[-1]
        text = event.text
        if last.is_turn and not last.reply:
            text = text.lstrip()
        last.reply += text
        self.transcript.write(text, "reply")
        self._note(self._speed(event))

    @on(ReplyEnded)
    def _ended(self, event: ReplyEnded) -> None:
        if event.reply != self.writing:
            return
        self.writing = 0
        if event.problem:
            self.transcript.write(f"\n{event.problem}", "error")
        for number, text in enumerate(event.others, 2):
            self.transcript.write(f"\n\nsample {number}\n", "label")
            self.transcript.write(text, "reply")
        speed = self._speed(event) + " · " if event.tokens else ""
        self._note(f"{speed}{REASONS.get(event.reason, event.reason)}")

    def _speed(self, event: ReplyGrew | ReplyEnded) -> str:
        context = self.model.context if self.model else 0
        parts = [
            f"{event.tokens} tokens",
            f"{event.tokens_per_second:.0f} tokens/s" if event.tokens_per_second else "",
            f"first after {event.first * 1000:.0f} ms",
            f"context {event.context_used}/{context}",
            f"{event.dropped} oldest dropped" if event.dropped else "",
        ]
        return " · ".join(part for part in parts if part)

    def _note(self, text: str, warn: bool = False) -> None:
        style = "$warning" if warn else ""
        self.query_one("#chat-status", Static).update(Content.styled(clean(text), style))

    # --- knobs, leaving, copying

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
        """Stop the reply; else back to the prompt, and from there to the transcript."""
        if self.writing:
            self._stop()
        elif self.prompt.has_focus:
            self.transcript.focus()
        else:
            self.remove_class("with-knobs")
            self.prompt.focus()

    def _stop(self) -> None:
        if self.service is not None:
            self.service.stop()

    def action_copy_reply(self) -> None:
        """Put the last reply on the clipboard of the terminal, exactly as the model wrote it."""
        if self.exchanges:
            self.app.copy_to_clipboard(self.exchanges[-1].reply)
            self._note("the reply is on the clipboard")
