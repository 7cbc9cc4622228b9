"""Opens models on the Chat screen and shows which one is open."""

from __future__ import annotations

from collections.abc import Callable

from workbench.chat.model_choices import default_reference, is_in_training
from workbench.chat.model_line import ModelLine
from workbench.chat.pipeline_order import processors_in_order
from workbench.chat.prompt import PromptArea
from workbench.chat.sampling_panel import SamplingPanel
from workbench.chat.service import ModelOpened
from workbench.chat.session import ChatSession
from workbench.ui.screen import WorkbenchScreen

NO_MODEL = "No model yet: press 1, choose a preset and press Enter. Come back after the first training steps."
PLACEHOLDERS = {"completion": "Text to complete", "chat": "Ask a question (f12: system prompt)"}


class ModelSwitch:
    """Opens models for a session. `note` shows a line of text; its second argument marks a warning."""

    def __init__(self, screen: WorkbenchScreen, session: ChatSession, note: Callable[[str, bool], object]) -> None:
        self._screen, self._session, self._note = screen, session, note

    @property
    def _line(self) -> ModelLine:
        return self._screen.query_one(ModelLine)

    def open(self, reference: str) -> None:
        """Open `RUN`, `RUN@best`, `RUN@STEP` or `RUN@live`."""
        self._line.say(f"Loading {reference} …")
        self._session.open(reference)

    def open_default(self) -> None:
        """Open the model in training or the newest one, unless a model is open already."""
        workbench = self._screen.workbench
        if self._session.reference:
            self.show()
        elif reference := default_reference(workbench.home, workbench.training.active):
            self.open(reference)
        else:
            self._line.say(NO_MODEL)

    def use(self, event: ModelOpened) -> None:
        """Use the model that was opened."""
        self._session.use(event)
        panel = self._screen.query_one(SamplingPanel)
        panel.set_defaults(event.decode)
        panel.show_order(processors_in_order)
        self.show()
        self.empty_meter()
        self._screen.refresh_bindings()
        for warning in event.warnings:
            self._note(warning, True)

    def refuse(self, problem: str) -> None:
        """The model cannot be opened."""
        self._session.reference = ""
        self._line.say(problem)

    def show(self) -> None:
        """Show the open model."""
        model = self._session.model
        if model is not None:
            mode = "chat" if self._session.chat_mode else "completion"
            live = model.reference.endswith("@live") and is_in_training(self._screen.workbench.home, model.reference)
            self._line.show(model.name, model.parameters, mode, in_training=live)
            self._screen.query_one(PromptArea).placeholder = PLACEHOLDERS[mode]

    def empty_meter(self) -> None:
        """Show an empty context."""
        if self._session.model is not None:
            self._line.meter(0, self._session.model.context)

    def toggle_mode(self) -> None:
        """Switch between completion and chat."""
        if self._session.model is not None and self._session.model.template is None:
            self._note("This model has no chat template: it was trained on plain text.", True)
            return
        self._session.chat_mode = not self._session.chat_mode
        self.show()
