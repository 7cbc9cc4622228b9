"""The Chat screen: talking to a model, and what can be done with what it said."""

from __future__ import annotations

from typing import ClassVar

from textual import on, work
from textual.binding import BindingType

from llm.errors import UserError
from workbench.chat.conversation import Conversation, Exchange
from workbench.chat.conversation_view import ConversationView
from workbench.chat.keys import CHAT_KEYS, OF_A_REPLY, OF_AN_EXCHANGE
from workbench.chat.microscope_screen import Microscope
from workbench.chat.model_dialog import ChooseModel
from workbench.chat.models import run_name
from workbench.chat.replay import Replayed, StepKept, keep_step, replay
from workbench.chat.sampling_presets_dialog import SamplingPresetsDialog
from workbench.chat.service import JobFailed, JobOver, Work
from workbench.chat.split import lapse_prompts, run_of
from workbench.chat.split_screen import Split
from workbench.chat.talk_screen import TalkScreen
from workbench.chat.timelapse_screen import TimeLapse
from workbench.chat.transcripts import export, load
from workbench.chat.transcripts_dialog import PastConversations
from workbench.formatting import plural
from workbench.text import one_line

SEEDS = 1 << 63  # how many there are


class ChatScreen(TalkScreen):
    """Branches, past conversations, replays and exports."""

    GUIDE = (
        "Type and press Enter: the model writes on from your text. ctrl+t changes to questions and answers, for models "
        "trained on a corpus that has them. The same checkpoint, prompt, knobs and seed give the same text again. "
        "Nothing said is ever lost: / or f3 finds past conversations."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "chat-prompt": "An empty prompt is the start of a document; FILE:path reads one from a file. ↑ and ↓ bring "
        "back what was sent before. esc goes to the conversation.",
        "chat-transcript": "p and n pick out an exchange, ← and → turn to its other branches. What the keys do is done "
        "with the exchange picked out, or with the last one.",
        "chat-knobs": "What is typed holds from the next token on, also while the model writes. Below is the order in "
        "which the knobs work on the logits; `order` changes it.",
    }
    BINDINGS: ClassVar[list[BindingType]] = CHAT_KEYS

    @property
    def picked(self) -> Exchange | None:
        """The exchange picked out, or the last one."""
        return self.transcript.picked if self.conversation.leaf else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        picked = self.picked if action in OF_AN_EXCHANGE | OF_A_REPLY else None
        if action in OF_AN_EXCHANGE:
            return picked is not None and (not self.writing or action == "new")
        if action in OF_A_REPLY:
            possible = {"go_on": not (picked and picked.is_turn), "keep": bool(picked and picked.live)}
            return picked is not None and bool(picked.tokens) and not self.writing and possible.get(action, True)
        if action in ("past", "timelapse"):
            return not self.writing
        return super().check_action(action, parameters)

    # --- branches

    def action_regenerate(self) -> None:
        """Another reply to the prompt picked out, or to the last, with the next seed."""
        picked = self.picked
        if picked is None or not self._ready():
            return
        self.panel.set_value("seed", (self.panel.params.seed + 1) % SEEDS)
        like = picked if self._is_open(picked) else None
        given = picked.tokens[: picked.given] if like else ()
        self._begin(picked.kind, picked.prompt, picked.parent, file_text=picked.file_text, like=like, given=given)

    def _is_open(self, picked: Exchange) -> bool:
        """Whether the open model is of the run that wrote an exchange: only then do tokens mean the same."""
        return self.model is not None and bool(picked.model) and run_name(picked.model) == run_name(self.model.name)

    def action_go_on(self) -> None:
        """Let the model write on where it stopped."""
        picked = self.picked
        if picked is not None and self._ready():
            self._begin("on", "", picked.number)

    def action_edit(self) -> None:
        """Change the prompt of the exchange picked out; the reply to the new one becomes a branch beside it."""
        picked = self.picked
        if picked is None or not self._ready():
            return
        if picked.kind == "on":
            self._note("this has no prompt of its own; edit the one before it", warn=True)
            return
        if self.editing is None:
            self.draft = self.prompt.text
        self.editing = picked
        self.prompt.text = picked.prompt
        self.prompt.move_cursor(self.prompt.document.end)
        self.prompt.focus()
        self._note("editing: Enter sends it as a branch of its own, esc leaves it as it was")
        self.refresh_bindings()

    def action_branch(self) -> None:
        """Leave out what follows the exchange picked out, and go on from there."""
        picked = self.picked
        if picked is not None and self._ready():
            self.conversation.leaf = picked.number
            self.transcript.pick(None)
            self.prompt.focus()
            self._note("what you send now goes on from here, as a branch of its own")

    @on(ConversationView.Turned)
    def _turned(self) -> None:
        """Say of the exchange picked out what is not in its text."""
        picked = self.picked
        if picked is None:
            return
        place, count = self.conversation.place(picked)
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
        """An empty page; what was said before can be found with f3."""
        self._stop()
        self._put_away("cancelled")
        self._show(Conversation())
        self._note("")
        self.prompt.focus()

    def _show(self, conversation: Conversation) -> None:
        self.editing = None
        self.conversation = conversation
        self.transcript.show(conversation)
        if self.model is not None:
            self._model_line.meter(0, self.model.context)
        self.refresh_bindings()

    @work
    async def action_past(self) -> None:
        """Find a past conversation, and go on with it."""
        file = await self.app.push_screen_wait(PastConversations(self.workbench.home))
        if file is None or self.writing:
            return
        try:
            conversation = load(file)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        self._show(conversation)
        self.transcript.focus()
        self._turned()

    def action_export(self) -> None:
        """Write the conversation as Markdown, and with all its branches as JSONL."""
        try:
            markdown, jsonl = export(self.workbench.home, self.conversation)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        self._note(f"written: {markdown}")
        self.notify(f"{markdown}\n{jsonl}", title="Exported", timeout=10, markup=False)

    def action_copy_reply(self) -> None:
        """Put the reply on the clipboard of the terminal, exactly as the model wrote it."""
        picked = self.picked
        if picked is not None:
            self.app.copy_to_clipboard(picked.reply)
            self._note("the reply is on the clipboard")

    @work
    async def action_knob_presets(self) -> None:
        """Take a named set of knobs, or keep the present one under a name."""
        chosen = await self.app.push_screen_wait(SamplingPresetsDialog(self.workbench.home, self.panel.params))
        if chosen is not None:
            self.panel.set_all(chosen)

    # --- the same again

    def action_replay(self) -> None:
        """Write the reply again with the checkpoint, knobs and seed it was written with, and compare."""
        picked = self.picked
        if picked is not None:
            self._note(f"replaying with {one_line(picked.model)} …")
            self._do(lambda service, stop: replay(picked, service.talker_for(picked.model, picked.sha256, stop), stop))

    @work
    async def action_microscope(self) -> None:
        """Look at what each token of the reply was drawn from; go on from another token."""
        picked, service = self.picked, self.service
        if picked is None or service is None:
            return
        chosen = await self.app.push_screen_wait(Microscope(service, picked))
        if chosen is None or not self._ready():
            return
        if not self._is_open(picked):
            self._note(f"{picked.model} wrote this: open it with ctrl+o, then choose the token again", warn=True)
            return
        place, token = chosen
        given = [*picked.tokens[:place], token]
        self._begin(picked.kind, picked.prompt, picked.parent, like=picked, given=given)

    @work
    async def action_split(self) -> None:
        """Let another checkpoint write on from the same prompt with the same seed, side by side."""
        picked, service = self.picked, self.service
        if picked is None or service is None:
            return
        question = f"Compare {one_line(picked.model)} with which model?"
        other = await self.app.push_screen_wait(ChooseModel(self.workbench.home, question))
        if other:
            await self.app.push_screen_wait(Split(service, picked, other))

    def action_timelapse(self) -> None:
        """See what every checkpoint of the run makes of this prompt, and of the pinned ones."""
        picked = self.picked
        reference = picked.model if picked is not None and picked.model else self.reference
        if not reference or self.service is None:
            self._ready()
            return
        try:
            run = run_of(self.workbench.home, reference)
            prompts = lapse_prompts(run, picked)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        params = picked.params if picked is not None else self.panel.params
        self.app.push_screen(TimeLapse(self.service, run, prompts, params))

    def action_pin_prompt(self) -> None:
        """Pin the prompt to its run, for every time-lapse of it; or unpin it."""
        picked = self.picked
        if picked is None:
            return
        from llm.engine.timelapse import toggle_pin

        try:
            pinned = toggle_pin(run_of(self.workbench.home, picked.model), picked.context)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        self._note("the prompt is pinned: t shows it at every checkpoint" if pinned else "the prompt is unpinned")

    def action_keep(self) -> None:
        """Keep the weights of a model in training that wrote the reply, so that it can be replayed at any time."""
        picked = self.picked
        if picked is not None:
            home = self.workbench.home
            self._note(f"keeping {one_line(picked.model)} …")
            self._do(lambda service, stop: keep_step(home, picked.model, service.talker))

    def _do(self, work: Work) -> None:
        """Have something done where the model is; its message comes back, or JobFailed."""
        if self.service is not None:
            self.service.do(work)
            self.refresh_bindings()

    @on(Replayed)
    def _replayed(self, event: Replayed) -> None:
        self._note(event.words, warn=not event.same)

    @on(StepKept)
    def _kept(self, event: StepKept) -> None:
        self._note(event.words)

    @on(JobFailed)
    def _job_failed(self, event: JobFailed) -> None:
        self._note(event.problem, warn=True)

    @on(JobOver)
    def _job_over(self) -> None:
        self.refresh_bindings()
