"""The Chat screen: a conversation with a model, the prompt below it, and the sampling parameters at the side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical

from llm.config import DecodeConfig
from workbench.chat.conversation import Conversation, Exchange, Kind
from workbench.chat.conversation_view import ConversationView
from workbench.chat.keys import CHAT_KEYS, NEEDS_EXCHANGE, NEEDS_REPLY
from workbench.chat.model_choices import default_reference, is_in_training
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.model_line import ModelLine
from workbench.chat.pipeline_order import in_order
from workbench.chat.prompt import PromptArea
from workbench.chat.replay import Replayed, StepSaved
from workbench.chat.reply import Pace, ReplyBegan, ReplyEnded, ReplyGrew
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.service import ChatService, JobDone, JobFailed, ModelOpened, ModelRefused
from workbench.chat.session import ChatSession
from workbench.chat.status_line import ChatStatus
from workbench.chat.tools import ReplyTools
from workbench.chat.transcripts import recent_prompts
from workbench.formatting import plural
from workbench.text import clean, one_line
from workbench.ui.screen import WorkbenchScreen

NO_MODEL = "No model yet: press 1, choose a preset and press Enter. Come back after the first training steps."
PLACEHOLDERS = {"completion": "Text to complete", "chat": "A question"}
SEEDS = 1 << 63  # number of seeds

Escape = Literal["stop", "cancel send", "cancel edit", "conversation", "prompt"]


class ChatScreen(WorkbenchScreen):
    """Shows a `ChatSession`: passes prompts to it, and its events to the widgets."""

    GUIDE = (
        "Type a prompt and press Enter: the model completes your text. ctrl+t switches to questions and answers, for "
        "models trained on a corpus with a chat template. The same checkpoint, prompt, parameters and seed give the "
        "same text. Every conversation is saved: / or f3 opens the history."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "chat-prompt": "An empty prompt starts a new document; FILE:path reads the prompt from a file. ↑ and ↓ recall "
        "earlier prompts. esc moves to the conversation.",
        "chat-transcript": "p and n select an exchange, ← and → switch between its branches. Keys apply to the "
        "selected exchange, or to the last one.",
        "sampling-panel": "Changes apply from the next token on, also during a reply. The order of the logits "
        "processors is shown below; `order` changes it.",
    }
    BINDINGS: ClassVar[list[BindingType]] = CHAT_KEYS
    DEFAULT_CSS = """
    ChatScreen {
        #chat-body { height: 1fr; }
        #chat-left { width: 1fr; }
        &.-narrow SamplingPanel { display: none; }
        &.-narrow.with-sampling SamplingPanel { display: block; }
        &.-beside SamplingPanel { width: 48; }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.session = ChatSession()
        self.tools = ReplyTools(self, self.session, self._note)
        self.editing: Exchange | None = None  # the exchange whose prompt is being edited
        self.held: str | None = None  # a prompt to send once the model is open

    def body(self) -> ComposeResult:
        yield ModelLine(id="chat-model")
        with Horizontal(id="chat-body"):
            with Vertical(id="chat-left"):
                yield ConversationView(id="chat-transcript")
                yield ChatStatus(id="chat-status")
                yield PromptArea(id="chat-prompt")
            yield SamplingPanel(DecodeConfig(), id="sampling-panel")

    def on_mount(self) -> None:
        self.session.service = ChatService(self.workbench.home, self.workbench.training, self.post_message)
        self.transcript.show(self.session.conversation)
        self.prompt.focus()
        self._load_prompts()
        self.watch(self.app, "training_line", self._training_changed, init=False)
        if self.session.reference:
            self.open_reference(self.session.reference)

    def on_unmount(self) -> None:
        if self.session.service is not None:
            self.session.service.close()
        self.session.finish(self.workbench.home, "cancelled")

    def on_screen_resume(self) -> None:
        """Open a default model if there is none."""
        if self.session.reference:
            self._show_model()
            return
        reference = default_reference(self.workbench.home, self.workbench.training.active)
        if reference:
            self._open(reference)
        else:
            self._model_line.say(NO_MODEL)

    @work(thread=True, group="prompts")
    def _load_prompts(self) -> None:
        """Load the prompts of earlier conversations."""
        self.app.call_from_thread(self._add_prompts, recent_prompts(self.workbench.home))

    def _add_prompts(self, prompts: list[str]) -> None:
        if self.is_attached:  # false if the program ended meanwhile
            self.prompt.remember(prompts)

    @property
    def transcript(self) -> ConversationView:
        return self.query_one(ConversationView)

    @property
    def prompt(self) -> PromptArea:
        return self.query_one(PromptArea)

    @property
    def panel(self) -> SamplingPanel:
        return self.query_one(SamplingPanel)

    @property
    def _model_line(self) -> ModelLine:
        return self.query_one(ModelLine)

    @property
    def picked(self) -> Exchange | None:
        """The selected exchange, or the last one."""
        return self.transcript.picked if self.session.conversation.leaf else None

    @property
    def _selected(self) -> Exchange:
        """`picked` in an action that `check_action` allows only with an exchange."""
        picked = self.picked
        assert picked is not None
        return picked

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key has an effect now; the key line hides the others."""
        picked, writing = self.picked if action in NEEDS_EXCHANGE | NEEDS_REPLY else None, bool(self.session.writing)
        if action in NEEDS_EXCHANGE:
            return picked is not None and (not writing or action == "new")
        if action in NEEDS_REPLY:
            possible = {"go_on": not (picked and picked.is_turn), "keep": bool(picked and picked.live)}
            return picked is not None and bool(picked.tokens) and not writing and possible.get(action, True)
        if action in ("past", "timelapse"):
            return not writing
        return parameters == (self._escape,) if action == "leave" else True

    # --- the model

    def open_reference(self, reference: str) -> None:
        """Open `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`."""
        if self.session.service is None:
            self.session.reference = reference  # opened on mount
            return
        self._open(reference)
        self.prompt.focus()

    def _open(self, reference: str) -> None:
        self._model_line.say(f"Loading {reference} …")
        self.session.open(reference)

    @on(ModelOpened)
    def _opened(self, event: ModelOpened) -> None:
        if event.reference != self.session.reference:
            return
        self.session.use(event)
        self.panel.set_defaults(event.decode)
        self.panel.show_order(in_order)
        self._show_model()
        self._model_line.meter(0, event.context)
        self.refresh_bindings()
        held, self.held = self.held, None
        if held is not None:
            self._send(held)

    @on(ModelRefused)
    def _refused(self, event: ModelRefused) -> None:
        if event.reference == self.session.reference:
            self.session.reference = ""
            self._model_line.say(event.problem)
            self._cancel_send()

    def _show_model(self) -> None:
        model = self.session.model
        if model is not None:
            mode = "chat" if self.session.chat_mode else "completion"
            live = model.reference.endswith("@live") and is_in_training(self.workbench.home, model.reference)
            self._model_line.show(model.name, model.parameters, mode, in_training=live)
            self.prompt.placeholder = PLACEHOLDERS[mode]

    def _training_changed(self) -> None:
        """Open the run in training after its first step, and update its label."""
        if not self.is_current:
            return
        active = self.workbench.training.active
        if not self.session.reference and active and self.workbench.training.live_model(active) is not None:
            self.open_reference(f"{active}@live")
        self._show_model()

    @work
    async def action_model(self) -> None:
        """Choose another model."""
        chosen = await self.app.push_screen_wait(ChooseModel(self.workbench.home))
        if chosen:
            self.open_reference(chosen)

    def action_view(self) -> None:
        """Switch between completion and chat."""
        model = self.session.model
        if not self.tools.is_ready() or model is None:
            return
        if model.template is None:
            self._note("This model has no chat template: it was trained on plain text.", warn=True)
            return
        self.session.chat_mode = not self.session.chat_mode
        self._show_model()

    # --- sending a prompt

    @on(PromptArea.Sent)
    def _sent(self, event: PromptArea.Sent) -> None:
        if self.session.model is None and self.session.reference and self.held is None:
            self.prompt.accept(event.text)
            self.held = event.text
            self._note("Will be sent when the model is loaded; press esc to cancel.")
            self.refresh_bindings()
        elif self.tools.is_ready():
            self.prompt.accept(event.text)
            self._send(event.text)

    def _send(self, text: str) -> None:
        edited, self.editing = self.editing, None
        if edited is not None:
            self.prompt.restore_draft()
            self._begin(edited.kind, text, edited.parent)
        else:
            self._begin("turn" if self.session.chat_mode else "text", text, self.session.conversation.leaf)

    def _cancel_send(self) -> None:
        """Return the held prompt to the field, before the text typed since."""
        if self.held is not None:
            self.prompt.show("\n".join(text for text in (self.held, self.prompt.text) if text))
            self.held = None
            self._note("")
            self.refresh_bindings()

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
        """Start a new exchange after `parent` (see `ChatSession.ask`)."""
        params = self.panel.params
        exchange = self.session.ask(params, kind, prompt, parent, file_text=file_text, like=like, given=given)
        self.transcript.locked = self.panel.patient = True
        self.transcript.begin(exchange)
        self._note("Reading the prompt …")
        self.refresh_bindings()

    # --- the reply

    @on(ReplyBegan)
    def _began(self, event: ReplyBegan) -> None:
        current = self.session.exchange_of(event)
        if current is not None and self.session.model is not None:
            self.session.begin(current, event)
            self._show_model()
            self.transcript.show_context(current)
            if event.warning:
                self.notify(clean(event.warning), severity="warning", markup=False)

    @on(ReplyGrew)
    def _grew(self, event: ReplyGrew) -> None:
        current = self.session.exchange_of(event)
        if current is not None:
            text = current.extend(event.text, event.ids)
            current.changes = event.changes
            self.transcript.write(text, "reply")
            self._meter(event.pace)
            self.query_one(ChatStatus).show_pace(event.pace, current.dropped_turns, event.problem)

    @on(ReplyEnded)
    def _ended(self, event: ReplyEnded) -> None:
        current = self.session.exchange_of(event)
        if current is not None:
            current.others, current.problem, current.dropped = event.others, event.problem, event.pace.dropped
            self.transcript.write_end(current)
            self._meter(event.pace)
            more = "ctrl+g: continue" if current.kind != "turn" and event.reason == "length" else ""
            keep = "esc, then K: save these weights" if current.live and event.pace.tokens else ""
            self.query_one(ChatStatus).show_end(event.pace, current.dropped_turns, event.reason, more, keep)
            self._finish(event.reason)

    def _finish(self, reason: str) -> None:
        """Save the finished reply and unlock the widgets."""
        self.transcript.locked = self.panel.patient = False
        problem = self.session.finish(self.workbench.home, reason)
        if problem:
            self._note(problem, warn=True)
        self.refresh_bindings()

    def _meter(self, pace: Pace) -> None:
        if self.session.model is not None and pace.tokens:
            self._model_line.meter(pace.context_used, self.session.model.context, pace.dropped)

    def _note(self, text: str, warn: bool = False) -> None:
        self.query_one(ChatStatus).say(text, warn)

    # --- branches

    def action_regenerate(self) -> None:
        """Generate another reply to the selected prompt, with the next seed."""
        picked = self._selected
        if self.tools.is_ready():
            self.panel.set_value("seed", (self.panel.params.seed + 1) % SEEDS)
            like = picked if self.session.same_run(picked) else None
            given = picked.tokens[: picked.given] if like else ()
            self._begin(picked.kind, picked.prompt, picked.parent, file_text=picked.file_text, like=like, given=given)

    def action_go_on(self) -> None:
        """Continue the reply."""
        if self.tools.is_ready():
            self._begin("on", "", self._selected.number)

    def action_edit(self) -> None:
        """Edit the selected prompt; its new reply becomes a branch."""
        if self._selected.kind == "on":
            self._note("A continuation has no prompt; edit the previous one.", warn=True)
        elif self.tools.is_ready():
            self.editing = self._selected
            self.prompt.edit_earlier(self.editing.prompt)
            self._note("Editing: Enter sends it as a new branch, esc cancels.")
            self.refresh_bindings()

    def action_branch(self) -> None:
        """Start a branch after the selected exchange."""
        if self.tools.is_ready():
            self.session.conversation.leaf = self._selected.number
            self.transcript.pick(None)
            self.prompt.focus()
            self._note("Your next prompt starts a new branch here.")

    @on(ConversationView.Turned)
    def _turned(self) -> None:
        """Show facts about the selected exchange."""
        picked = self.picked
        if picked is None:
            return
        place, count = self.session.conversation.place(picked)
        facts = [
            picked.model or "no model",
            f"seed {picked.params.seed}",
            plural(len(picked.tokens), "token"),
            f"branch {place} of {count}" if count > 1 else "",
            f"{plural(picked.dropped_turns, 'oldest turn')} dropped" if picked.dropped_turns else "",
            f"{plural(picked.dropped, 'oldest token')} dropped" if picked.dropped else "",
        ]
        self._note(one_line(" · ".join(fact for fact in facts if fact)))
        self.refresh_bindings()

    # --- conversations

    def action_new(self) -> None:
        """Start a new conversation."""
        self._stop()
        self._finish("cancelled")
        self._show(Conversation())
        self._note("")
        self.prompt.focus()

    def _show(self, conversation: Conversation) -> None:
        self.editing = None
        self.session.conversation = conversation
        self.transcript.show(conversation)
        if self.session.model is not None:
            self._model_line.meter(0, self.session.model.context)
        self.refresh_bindings()

    @work
    async def action_past(self) -> None:
        """Open a past conversation."""
        conversation = await self.tools.choose_conversation()
        if conversation is not None:
            self._show(conversation)
            self.transcript.focus()
            self._turned()

    def action_copy_reply(self) -> None:
        """Copy the reply to the terminal's clipboard, exactly as generated."""
        self.app.copy_to_clipboard(self._selected.reply)
        self._note("Reply copied.")

    # --- tools

    def action_export(self) -> None:
        self.tools.export()

    def action_replay(self) -> None:
        self.tools.replay(self._selected)

    def action_keep(self) -> None:
        self.tools.save_step(self._selected)

    def action_pin_prompt(self) -> None:
        self.tools.toggle_pin(self._selected)

    def action_timelapse(self) -> None:
        self.tools.timelapse(self.picked, self.panel)

    @work
    async def action_split(self) -> None:
        await self.tools.split(self._selected)

    @work
    async def action_microscope(self) -> None:
        """Explain the tokens of the reply; choosing another token starts a branch with it."""
        picked = self._selected
        given = await self.tools.choose_token(picked)
        if given is not None:
            self._begin(picked.kind, picked.prompt, picked.parent, like=picked, given=given)

    @work
    async def action_knob_presets(self) -> None:
        await self.tools.choose_params(self.panel)

    @on(Replayed)
    def _replayed(self, event: Replayed) -> None:
        self._note(event.words, warn=not event.same)

    @on(StepSaved)
    def _step_saved(self, event: StepSaved) -> None:
        self._note(event.words)

    @on(JobFailed)
    def _job_failed(self, event: JobFailed) -> None:
        self._note(event.problem, warn=True)

    @on(JobDone)
    def _job_done(self) -> None:
        self.refresh_bindings()

    # --- sampling parameters, and esc

    @on(SamplingPanel.Changed)
    def _params_changed(self, event: SamplingPanel.Changed) -> None:
        if self.session.service is not None:
            self.session.service.params = event.params

    def action_knobs(self) -> None:
        """Move to the sampling parameters, or back."""
        if self.panel.has_focus_within:
            self._focus_prompt()
            return
        self.add_class("with-sampling")
        self.panel.query("Input").first().focus()

    def _focus_prompt(self) -> None:
        self.remove_class("with-sampling")
        self.prompt.focus()

    @property
    def _escape(self) -> Escape:
        """What esc does now."""
        service = self.session.service
        if self.session.writing or (service is not None and service.is_busy):
            return "stop"
        if self.held is not None:
            return "cancel send"
        if self.editing is not None:
            return "cancel edit"
        return "conversation" if isinstance(self.focused, PromptArea) else "prompt"

    def action_leave(self, way: Escape) -> None:
        """Stop or cancel what is in progress, else move between the prompt and the conversation."""
        if way == "stop":
            self._stop()
        elif way == "cancel send":
            self._cancel_send()
        elif way == "cancel edit":
            self.editing = None
            self.prompt.restore_draft()
            self._note("")
            self.refresh_bindings()
        elif way == "conversation":
            self.transcript.focus()
        else:
            self._focus_prompt()

    def _stop(self) -> None:
        if self.session.service is not None:
            self.session.service.stop()
