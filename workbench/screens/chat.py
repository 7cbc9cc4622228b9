"""The Chat screen: talking to a model, and what can be done with what it said."""

from __future__ import annotations

from typing import ClassVar

from textual import on, work
from textual.binding import Binding, BindingType

from llm.errors import UserError
from workbench.screens.choose_model import ChooseModel
from workbench.screens.knob_presets import KnobPresets
from workbench.screens.microscope import Microscope
from workbench.screens.past import PastConversations
from workbench.screens.split import Split
from workbench.screens.talk import TalkScreen
from workbench.screens.timelapse import TimeLapse
from workbench.services.chat import JobFailed
from workbench.services.conversation import Conversation, Exchange
from workbench.services.replay import Replayed, StepKept, keep_step, replay
from workbench.services.split import lapse_prompts, run_of
from workbench.services.transcripts import export, load
from workbench.text import one_line
from workbench.widgets.conversation import ConversationView


class ChatScreen(TalkScreen):
    """Branches, past conversations, replays and exports."""

    GUIDE = (
        "Type and press Enter: the model writes on from your text. ctrl+t changes to questions and answers, for models "
        "trained on a corpus that has them. The knobs hold from the next token on, also while it writes. The same "
        "checkpoint, prompt, knobs and seed give the same text again. An empty prompt is the start of a document; "
        "FILE:path reads one from a file. esc goes to the conversation: there p and n pick out an exchange, ← and → "
        "turn to its other branches, e edits its prompt, b goes on from it, R replays it, m opens the "
        "microscope on its tokens, s sets another checkpoint beside it, t shows its prompt at every checkpoint. "
        "Nothing said is ever lost: / or f3 finds past conversations."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "regenerate", "Again", id="chat.regenerate", key_display="^r"),
        Binding("ctrl+g", "go_on", "Go on", id="chat.go-on", key_display="^g"),
        Binding("ctrl+n", "new", "New", id="chat.new", key_display="^n"),
        Binding("f3,slash", "past", "Past", id="chat.past", key_display="f3"),
        Binding("y", "copy_reply", "Copy reply", id="chat.copy", show=False),
        Binding("e", "edit", "Edit the prompt", id="chat.edit", show=False),
        Binding("b", "branch", "Go on from here", id="chat.branch", show=False),
        Binding("R", "replay", "Replay the reply", id="chat.replay", show=False),
        Binding("K", "keep", "Keep the live step", id="chat.keep", show=False),
        Binding("f4,m", "microscope", "Microscope", id="chat.microscope", key_display="f4", show=False),
        Binding("f5,s", "split", "Split: two checkpoints", id="chat.split", key_display="f5", show=False),
        Binding("t", "timelapse", "Time-lapse of the run", id="chat.timelapse", show=False),
        # A text field has uses of its own for these two keys.
        Binding("f6", "timelapse", "Time-lapse of the run", id="chat.timelapse-key", show=False, priority=True),
        Binding("f7", "export", "Export as Markdown and JSONL", id="chat.export-key", show=False, priority=True),
        Binding("P", "pin_prompt", "Pin the prompt", id="chat.pin-prompt", show=False),
        Binding("f8", "knob_presets", "Knob presets", id="chat.knob-presets", show=False),
        Binding("x", "export", "Export as Markdown and JSONL", id="chat.export", show=False),
    ]

    # --- branches

    def action_regenerate(self) -> None:
        """Another reply to the prompt picked out, or to the last, with the next seed."""
        picked = self.transcript.picked
        if picked is None or not self._ready():
            return
        self.panel.set_value("seed", self.panel.knobs.seed + 1)
        given = picked.tokens[: picked.given]
        self._begin(picked.kind, picked.prompt, picked.parent, context=picked.context if given else None, given=given)

    def action_go_on(self) -> None:
        """Let the model write on where it stopped."""
        picked = self.transcript.picked
        if picked is None or not self._ready():
            return
        if picked.is_turn:
            self._note("an answer cannot be gone on with; ask something else", warn=True)
            return
        self._begin("on", "", picked.number)

    def action_edit(self) -> None:
        """Change the prompt of the exchange picked out; the reply to the new one becomes a branch beside it."""
        picked = self.transcript.picked
        if picked is None or not self._ready():
            return
        if picked.kind == "on":
            self._note("this has no prompt of its own; edit the one before it", warn=True)
            return
        self.editing = picked
        self.prompt.text = picked.prompt
        self.prompt.move_cursor(self.prompt.document.end)
        self.prompt.focus()
        self._note("editing: Enter sends it as a branch of its own, esc leaves it as it was")

    def action_branch(self) -> None:
        """Leave out what follows the exchange picked out, and go on from there."""
        picked = self.transcript.picked
        if picked is not None and self._ready():
            self.conversation.leaf = picked.number
            self.transcript.pick(None)
            self.prompt.focus()
            self._note("what you send now goes on from here, as a branch of its own")

    @on(ConversationView.Turned)
    def _turned(self) -> None:
        picked = self.transcript.picked
        if picked is not None:
            place, count = self.conversation.place(picked)
            branches = f" · branch {place} of {count}" if count > 1 else ""
            seed = f"seed {picked.knobs.seed}"
            self._note(f"{one_line(picked.model)} · {seed} · {len(picked.tokens)} tokens{branches}")

    # --- conversations

    def action_new(self) -> None:
        """An empty page; what was said before can be found with f3."""
        self._stop()
        self._put_away("cancelled")
        self._show(Conversation())
        self._note("")

    def _show(self, conversation: Conversation) -> None:
        self.editing = None
        self.transcript.show(conversation)

    @work
    async def action_past(self) -> None:
        """Find a past conversation, and go on with it."""
        if self.writing:
            self._ready()
            return
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
        if not self.exchanges or self.writing:
            self._note("there is nothing to export yet", warn=True)
            return
        try:
            markdown, jsonl = export(self.workbench.home, self.conversation)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        self._note(f"written: {markdown}")
        self.notify(f"{markdown}\n{jsonl}", title="Exported", timeout=10, markup=False)

    def action_copy_reply(self) -> None:
        """Put the reply on the clipboard of the terminal, exactly as the model wrote it."""
        picked = self.transcript.picked
        if picked is not None:
            self.app.copy_to_clipboard(picked.reply)
            self._note("the reply is on the clipboard")

    @work
    async def action_knob_presets(self) -> None:
        """Take a named set of knobs, or keep the present one under a name."""
        chosen = await self.app.push_screen_wait(KnobPresets(self.workbench.home, self.panel.knobs))
        if chosen is not None:
            self.panel.set_all(chosen)

    # --- the same again

    def action_replay(self) -> None:
        """Write the reply again with the checkpoint, knobs and seed it was written with, and compare."""
        picked = self._finished()
        if picked is None:
            return
        assert self.service is not None
        self._note(f"replaying with {one_line(picked.model)} …")
        self.service.do(
            lambda service, stop: replay(picked, service.talker_for(picked.model, picked.sha256, stop), stop)
        )

    @work
    async def action_microscope(self) -> None:
        """Look at what each token of the reply was drawn from; go on from another token."""
        picked = self._finished()
        if picked is None:
            return
        assert self.service is not None
        chosen = await self.app.push_screen_wait(Microscope(self.service, picked))
        if chosen is not None and self._ready():
            place, token = chosen
            given = [*picked.tokens[:place], token]
            self._begin(picked.kind, picked.prompt, picked.parent, context=picked.context, given=given)

    @work
    async def action_split(self) -> None:
        """Let another checkpoint write on from the same prompt with the same seed, side by side."""
        picked = self._finished()
        if picked is None:
            return
        assert self.service is not None
        other = await self.app.push_screen_wait(ChooseModel(self.workbench.home, "Compare it with which model?"))
        if other:
            await self.app.push_screen_wait(Split(self.service, picked, other))

    def action_timelapse(self) -> None:
        """See what every checkpoint of the run makes of this prompt, and of the pinned ones."""
        picked = self.transcript.picked
        reference = picked.model if picked is not None and picked.model else self.reference
        if self.writing or not reference or self.service is None:
            self._ready()
            return
        try:
            run = run_of(self.workbench.home, reference)
            prompts = lapse_prompts(run, picked)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        knobs = picked.knobs if picked is not None else self.panel.knobs
        self.app.push_screen(TimeLapse(self.service, run, prompts, knobs))

    def action_pin_prompt(self) -> None:
        """Pin the prompt to its run, for every time-lapse of it; or unpin it."""
        picked = self._finished()
        if picked is None:
            return
        from llm.timelapse import pin_prompt

        try:
            pinned = pin_prompt(run_of(self.workbench.home, picked.model), picked.context)
        except UserError as error:
            self._note(str(error), warn=True)
            return
        self._note("the prompt is pinned: t shows it at every checkpoint" if pinned else "the prompt is unpinned")

    def action_keep(self) -> None:
        """Have the run in training save and pin the step that wrote the reply."""
        picked = self._finished()
        if picked is None:
            return
        assert self.service is not None
        home = self.workbench.home
        self._note(f"keeping {one_line(picked.model)} …")
        self.service.do(lambda service, stop: keep_step(home, picked.model, stop))

    def _finished(self) -> Exchange | None:
        """The exchange picked out, if a model wrote it and none writes now."""
        picked = self.transcript.picked
        if self.writing:
            self._ready()
        elif picked is None or not picked.tokens:
            self._note("there is no reply yet", warn=True)
        else:
            return picked
        return None

    @on(Replayed)
    def _replayed(self, event: Replayed) -> None:
        self._note(event.words, warn=not event.same)

    @on(StepKept)
    def _kept(self, event: StepKept) -> None:
        self._note(event.words)

    @on(JobFailed)
    def _job_failed(self, event: JobFailed) -> None:
        self._note(event.problem, warn=True)
