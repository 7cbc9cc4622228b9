"""A preflight of the marked preset: begun, followed, cancelled, and given up for a training."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from llm.config import RunConfig, check
from llm.events import Progress
from workbench.formatting import format_count, format_size
from workbench.presets.preflight import Measurement, PreflightJob, save_measurements
from workbench.text import clean
from workbench.ui.screen import WorkbenchScreen


class PreflightScreen(WorkbenchScreen):
    """What `p` does. `PresetsScreen` has the keys and the line that tells of it, and says which preset is meant."""

    @dataclass
    class Says(Message):
        """How far the preflight is."""

        progress: Progress

    @dataclass
    class Ended(Message):
        """The preflight is over; `problem` is "" where it went well."""

        result: Measurement | None
        problem: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.preflight: PreflightJob | None = None
        self.current = ""
        """The name of the marked preset."""

    def config(self) -> RunConfig | None:
        """The marked preset as edited; None where it cannot be read."""
        raise NotImplementedError

    def look_again(self) -> None:
        raise NotImplementedError

    def on_mount(self) -> None:
        self.query_one("#preflight-line").display = False
        self.workbench.training.on_begin = self.give_way

    def on_unmount(self) -> None:
        if self.preflight is not None:
            self.preflight.cancel()

    def action_preflight(self) -> None:
        """Run a few real steps of the marked preset, in a process of its own."""
        config = self.config()
        if config is None or self.preflight is not None:
            return
        problems = check(config)
        training = self.workbench.training
        if problems:
            self.notify(clean("\n".join(str(problem) for problem in problems)), severity="error", markup=False)
        elif training.active is not None:
            words = f"{training.active} is training, and both would be measured; stop it first"
            self.notify(clean(words), markup=False)
        elif other := training.elsewhere():
            words = f"{other} is training in another process, and both would be measured; stop it first"
            self.notify(clean(words), markup=False)
        else:
            self.preflight = PreflightJob(
                config,
                self.current,
                self.workbench.home,
                lambda progress: self.post_message(self.Says(progress)),
                lambda result, problem: self.post_message(self.Ended(result, problem)),
            )
            self._say(f"Preflight of {self.current}: starting (esc cancels)")
            self.refresh_bindings()

    def action_cancel_preflight(self) -> None:
        if self.preflight is not None:
            self.preflight.cancel()

    def give_way(self, name: str) -> None:
        """The training of `name` begins: what is measured beside it would be true of neither."""
        if self.preflight is not None and not self.preflight.cancelled:
            self.preflight.cancel()
            words = f"the preflight of {self.preflight.name} was ended, since {name} trains now"
            self.app.notify(clean(words), markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Cancelling only while there is something to cancel."""
        return action != "cancel_preflight" or self.preflight is not None

    def on_preflight_screen_says(self, message: Says) -> None:
        from workbench.train.narration import preparation

        if self.preflight is not None:
            self._say(f"Preflight of {self.preflight.name}: {preparation(message.progress)} (esc cancels)")

    def on_preflight_screen_ended(self, message: Ended) -> None:
        job, self.preflight = self.preflight, None
        self._say("")
        self.refresh_bindings()
        if job is not None and not job.cancelled:  # else it came to its end at the moment it was cancelled
            self._tell(job.name, message)
        self.look_again()  # preparing may have made the data, too

    def _tell(self, name: str, end: Ended) -> None:
        """Keep what was found, or say why nothing was."""
        if end.result is not None:
            save_measurements(self.workbench.home, end.result)
            self.notify(clean(f"preflight of {name}: {measured_words(end.result)}"), timeout=10, markup=False)
        else:
            self.notify(clean(end.problem), severity="error", timeout=15, markup=False)

    def _say(self, text: str) -> None:
        """Show the preflight's line, or no line."""
        line = self.query_one("#preflight-line", Static)
        line.display = bool(text)
        line.update(Content(clean(text)))


def measured_words(found: Measurement) -> str:
    """What a preflight found, in one line."""
    speed = f"{format_count(found.tokens_per_second, digits=3)} tokens/s on {found.device} in {found.precision}"
    training = format_size(found.training_bytes)
    return f"{speed}, {format_size(found.peak_bytes)} of memory at most ({training} of it for training)"
