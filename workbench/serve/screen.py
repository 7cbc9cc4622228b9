"""The window of the server: what is served, where, and how to ask it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from workbench.chat.model_choices import default_reference
from workbench.formatting import plural
from workbench.text import clean
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

REFRESH_SECONDS = 0.5

COMPLETION_EXAMPLE = ("completions", '"prompt": "Once"')
CHAT_EXAMPLE = ("chat/completions", '"messages": [{"role": "user", "content": "What is 2 plus 3?"}]')
"""The end of the address, and the prompt as JSON."""


class ServeScreen(Modal[None]):
    """Shows the server of the workbench; starts and stops it."""

    NAME = "Serve"
    GUIDE = (
        "Programs that speak the OpenAI API can use the served model at this address. Only this machine can reach it. "
        "A run in training answers every request with its newest weights. The server stops with the workbench; "
        "llm-workbench serve runs a separate one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start_or_stop", "Start/stop", id="serve.start"),
        Binding("y", "copy", "Copy address", id="serve.copy"),
        Binding("escape,q", "dismiss", "Back", id="serve.back", key_display="esc"),
    ]
    DEFAULT_CSS = """
    ServeScreen { background: $background;
        Vertical { height: 1fr; padding: 1 2; }
        #serve-state { height: auto; }
    }
    """

    def __init__(self, reference: str = "") -> None:
        """Serve `reference` at once, if given."""
        super().__init__()
        self._reference = reference

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(id="serve-state", markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        serving = self.workbench.serving
        if self._reference and self._reference != serving.reference:
            serving.start(self._reference)
        self._reference = self._reference or serving.reference
        self.set_interval(REFRESH_SECONDS, self._show)
        self._show()

    def _show(self) -> None:
        self.query_one("#serve-state", Static).update(Content(clean("\n".join(self._lines()))))

    def _lines(self) -> list[str]:
        serving = self.workbench.serving
        if serving.problem:
            return [serving.problem]
        if not serving.reference:
            return ["No model is served. Press s to serve " + (self._default() or "a run, once one is trained") + "."]
        server = serving.server
        if server is None:
            return [f"Loading {serving.reference}…"]
        path, prompt = CHAT_EXAMPLE if server.has_chat_template else COMPLETION_EXAMPLE
        which = "the model in training, with its newest weights" if server.is_live else "a checkpoint"
        return [
            f"Serving {server.model}: {which}.",
            "",
            f"Address    {server.url}",
            f"Model      {server.model}",
            "API key    none needed",
            f"Requests   {plural(server.open_requests, 'request')} open",
            "",
            f"curl {server.url}/{path} -H 'content-type: application/json' \\",
            f'  -d \'{{"model": "{server.model}", {prompt}}}\'',
        ]

    def _default(self) -> str:
        """What `s` serves."""
        return self._reference or default_reference(self.workbench.home, self.workbench.training.active)

    def action_start_or_stop(self) -> None:
        """Stop the server, or start it again."""
        serving = self.workbench.serving
        if serving.reference:
            self._reference = serving.reference
            serving.stop()
        elif reference := self._default():
            serving.start(reference)
        self._show()

    def action_copy(self) -> None:
        """Copy the address to the clipboard."""
        if (server := self.workbench.serving.server) is not None:
            self.app.copy_to_clipboard(server.url)
            self.notify(f"copied {server.url}", markup=False)
