"""The Chat screen: a conversation with a model, the prompt below it, and the sampling parameters at the side."""

from __future__ import annotations

from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical

from llm.config import DecodeConfig
from workbench.chat.conversation import Conversation, Exchange, Verdict
from workbench.chat.conversation_view import ConversationView
from workbench.chat.escape import Escape, Exit, Way
from workbench.chat.keys import CHAT_KEYS, is_possible
from workbench.chat.marking import Marker
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.model_line import ModelLine
from workbench.chat.model_switch import ModelSwitch
from workbench.chat.prompt import PromptArea
from workbench.chat.replay import Replayed, StepSaved
from workbench.chat.reply import ReplyEnded, ReplyStarted, ReplyUpdated
from workbench.chat.reply_display import ReplyDisplay, facts_of
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.sending import Sender
from workbench.chat.service import ChatService, JobDone, JobFailed, ModelOpened, ModelOpenFailed
from workbench.chat.session import ChatSession
from workbench.chat.status_line import ChatStatus
from workbench.chat.tools import ReplyTools
from workbench.chat.transcripts import recent_prompts
from workbench.chat.tuning import Tuner
from workbench.ui.screen import WorkbenchScreen


class ChatScreen(WorkbenchScreen):
    """Shows a `ChatSession`: passes prompts to it, and its events to the widgets."""

    GUIDE = (
        "Type a prompt and press Enter: the model completes your text. ctrl+t switches to chat mode, for models "
        "trained with a chat template. The same checkpoint, prompt, parameters and seed give the same text. Every "
        "conversation is saved: / or f3 opens the history."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "chat-prompt": "An empty prompt starts a new document; FILE:path reads the prompt from a file. ↑ and ↓ recall "
        "earlier prompts. esc moves to the conversation.",
        "chat-transcript": "p and n select an exchange, ← and → switch between its branches. Keys apply to the "
        "selected exchange, or to the last one. + marks its reply good and - bad, c corrects it, u undoes a mark. "
        "Marks are saved in the folder conversations of the home; T fine-tunes the model on the good replies.",
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
        &.-columns SamplingPanel { width: 48; }
    }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.session = ChatSession()
        self.tools = ReplyTools(self, self.session, self._note)
        self.models = ModelSwitch(self, self.session, self._note)
        self.reply_display = ReplyDisplay(self, self.session)
        self.sender = Sender(self, self.session, self._note)
        self.tuner = Tuner(self, self.session, self._note)
        self.marker = Marker(self, self.session, self._note)
        self.escape = Escape(
            Exit("stop", lambda: self.session.is_busy, self.session.stop),
            Exit("cancel correction", lambda: self.marker.correcting is not None, self.marker.cancel_correction),
            Exit("cancel send", lambda: self.sender.held is not None, self.sender.cancel_held),
            Exit("cancel edit", lambda: self.sender.editing is not None, self.sender.cancel_edit),
            Exit("conversation", lambda: isinstance(self.focused, PromptArea), lambda: self.transcript.focus()),
            Exit("prompt", lambda: True, self._focus_prompt),
        )

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
        self.models.open_default()

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
        writing = bool(self.session.writing)
        match action:
            case "past" | "timelapse" | "tune":
                return not writing
            case "leave":
                return parameters == (self.escape.way,)
            case "system":
                return self.session.chat_mode and not writing
            case "undo":
                return self.marker.can_undo and not writing
        return is_possible(action, self.picked, writing)

    # --- the model

    def open_reference(self, reference: str) -> None:
        """Open `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`."""
        if self.session.service is None:
            self.session.reference = reference  # opened on mount
            return
        self.models.open(reference)
        self.prompt.focus()

    @on(ModelOpened)
    def _opened(self, event: ModelOpened) -> None:
        if event.reference != self.session.reference:
            return
        self.models.use(event)
        self.sender.send_held()

    @on(ModelOpenFailed)
    def _open_failed(self, event: ModelOpenFailed) -> None:
        if event.reference == self.session.reference:
            self.models.refuse(event.problem)
            self.sender.cancel_held()

    def _training_changed(self) -> None:
        """Open the run in training after its first step, and update its label."""
        if not self.is_current:
            return
        active = self.workbench.training.active
        if not self.session.reference and active and self.workbench.training.live_model(active) is not None:
            self.open_reference(f"{active}@live")
        self.models.show()

    @work
    async def action_model(self) -> None:
        """Choose another model."""
        chosen = await self.app.push_screen_wait(ChooseModel(self.workbench.home))
        if chosen:
            self.open_reference(chosen)

    def action_view(self) -> None:
        """Switch between completion and chat."""
        if self.tools.is_ready():
            self.models.toggle_mode()

    @work
    async def action_system(self) -> None:
        """Edit the system prompt of the conversation."""
        await self.tools.edit_system()

    # --- sending a prompt

    @on(PromptArea.Sent)
    def _sent(self, event: PromptArea.Sent) -> None:
        if self.marker.correcting is not None:
            self.marker.finish_correction(event.text)
        elif self.session.model is None and self.session.reference and self.sender.held is None:
            self.sender.hold(event.text)
        elif self.tools.is_ready():
            self.sender.send(event.text)

    # --- the reply

    @on(ReplyStarted)
    def _reply_started(self, event: ReplyStarted) -> None:
        self.reply_display.begin(event)
        self.models.show()

    @on(ReplyUpdated)
    def _reply_updated(self, event: ReplyUpdated) -> None:
        self.reply_display.grow(event)

    @on(ReplyEnded)
    def _reply_ended(self, event: ReplyEnded) -> None:
        if self.reply_display.end(event):
            self._finish(event.reason)

    def _finish(self, reason: str) -> None:
        """Save the finished reply and unlock the widgets."""
        self.transcript.locked = self.panel.debounced = False
        problem = self.session.finish(self.workbench.home, reason)
        if problem:
            self._note(problem, warn=True)
        self.refresh_bindings()

    def _note(self, text: str, warn: bool = False) -> None:
        self.query_one(ChatStatus).say(text, warn)

    # --- branches

    def action_regenerate(self) -> None:
        """Generate another reply to the selected prompt, with the next seed."""
        if self.tools.is_ready():
            self.sender.regenerate(self._selected)

    def action_continue_reply(self) -> None:
        """Continue the reply."""
        if self.tools.is_ready():
            self.sender.begin("on", "", self._selected.number)

    def action_edit(self) -> None:
        """Edit the selected prompt; its new reply becomes a branch."""
        if self.tools.is_ready():
            self.sender.edit(self._selected)

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
        if self.picked is not None:
            self._note(facts_of(self.session.conversation, self.picked))
            self.refresh_bindings()

    # --- marks

    def action_mark(self, verdict: Verdict) -> None:
        """Mark the reply good or bad."""
        self.marker.mark(self._selected, verdict)

    def action_correct(self) -> None:
        """Edit the reply into what it should have been."""
        self.marker.correct(self._selected)

    def action_undo(self) -> None:
        """Undo the last mark."""
        self.marker.undo()

    @work
    async def action_tune(self) -> None:
        """Fine-tune the model on the replies marked good, and chat with it while it trains."""
        reference = await self.tuner.fine_tune()
        if reference:
            self.models.open(reference)

    # --- conversations

    def action_new(self) -> None:
        """Start a new conversation."""
        self.session.stop()
        self._finish("cancelled")
        self._show(Conversation())
        self._note("")
        self.prompt.focus()

    def _show(self, conversation: Conversation) -> None:
        self.sender.editing = None
        self.marker.reset()
        self.session.conversation = conversation
        self.transcript.show(conversation)
        self.models.empty_meter()
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
            self.sender.begin(picked.kind, picked.prompt, picked.parent, like=picked, given=given)

    @work
    async def action_knob_presets(self) -> None:
        await self.tools.choose_params(self.panel)

    @on(Replayed)
    def _replayed(self, event: Replayed) -> None:
        self._note(event.text, warn=not event.same)

    @on(StepSaved)
    def _step_saved(self, event: StepSaved) -> None:
        self._note(event.text)

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

    def action_leave(self, way: Way) -> None:
        """Stop or cancel what is in progress, else move between the prompt and the conversation."""
        self.escape.leave()
