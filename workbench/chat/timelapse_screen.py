"""The time-lapse: the text of every checkpoint of a run for the same prompts, along its loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from llm.config import DecodeConfig
from llm.run import Run
from workbench.charts.chart import Chart
from workbench.charts.chart_data import Mark, Series
from workbench.chat.service import ChatService, JobFailed
from workbench.chat.split import CurvesLoaded, FrameReady, TimeLapseEnded, run_timelapse
from workbench.chat.transcript_view import Transcript
from workbench.text import one_line
from workbench.ui.dialogs import Modal
from workbench.ui.key_line import KeyLine

if TYPE_CHECKING:
    from llm.engine.timelapse import Frame

CHECKPOINT, ENDS, PROMPT = Binding.Group("Checkpoint"), Binding.Group("First, last"), Binding.Group("Prompt")


class TimeLapse(Modal[None]):
    """The loss curve with the selected checkpoint, and its text below."""

    NAME = "Time-lapse"
    GUIDE = (
        "The text that every checkpoint of the run generates from the same prompt, with the same sampling parameters "
        "and seed. The prompts are the one selected in the chat and those pinned to the run (P in the chat)."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Previous checkpoint", id="lapse.before", priority=True, group=CHECKPOINT),
        Binding("right,l", "move(1)", "Next checkpoint", id="lapse.next", priority=True, group=CHECKPOINT),
        Binding("home", "move(-1000000)", "First checkpoint", id="lapse.first", priority=True, group=ENDS),
        Binding("end", "move(1000000)", "Last checkpoint", id="lapse.last", priority=True, group=ENDS),
        Binding("up,k", "prompt(-1)", "Previous prompt", id="lapse.prompt-before", priority=True, group=PROMPT),
        Binding("down,j", "prompt(1)", "Next prompt", id="lapse.prompt-next", priority=True, group=PROMPT),
        Binding("escape,q", "leave", "Close", id="lapse.close"),
    ]
    DEFAULT_CSS = """
    TimeLapse {
        #lapse { background: $background; }
        #lapse-chart { height: 40%; }
        #lapse-facts { height: 1; padding: 0 1; text-style: bold; }
    }
    """

    def __init__(self, service: ChatService, run: Run, prompts: Sequence[str], params: DecodeConfig) -> None:
        super().__init__()
        self.service, self.run_directory, self.prompts, self.params = service, run, list(prompts), params
        self.frames: list[list[Frame]] = [[] for _ in prompts]
        """Frames per prompt, oldest checkpoint first."""
        self.at, self.which = 0, 0
        self.ended = False
        self._arrived = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="lapse"):
            yield Chart("loss", id="lapse-chart", empty="Loading the curve", alone=True)
            yield Static("Generating with the first checkpoint …", id="lapse-facts", markup=False)
            yield Transcript(id="lapse-text")
        yield KeyLine()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the prompt keys if there is only one prompt."""
        return action != "prompt" or len(self.prompts) > 1

    def on_mount(self) -> None:
        self.query_one(Transcript).focus()
        run, prompts, params, post = self.run_directory, self.prompts, self.params, self.post_message
        self.service.do(lambda service, stop: run_timelapse(run, prompts, params, stop, post), post)

    def action_leave(self) -> None:
        self.service.stop()
        self.dismiss(None)

    @on(CurvesLoaded)
    def _curves(self, event: CurvesLoaded) -> None:
        checkpoints = self.run_directory.checkpoints()
        marks = [Mark(info.step, f"step {info.step}", "best" if info.best else "save") for info in checkpoints]
        series = [
            Series("train", event.steps, event.losses),
            Series("validation", event.validated, event.validation_losses, "accent", "points"),
        ]
        self.query_one(Chart).set_data(series, marks=marks)

    @on(FrameReady)
    def _frame_ready(self, event: FrameReady) -> None:
        """Frames arrive ordered by checkpoint, then by prompt."""
        frames = self.frames[self._arrived % len(self.prompts)]
        self._arrived += 1
        frames.append(event.frame)
        if len(frames) == 1 or self.at == len(frames) - 1:
            self._draw()
        else:
            self._say()

    @on(TimeLapseEnded)
    def _finished(self) -> None:
        self.ended = True
        self._say()

    @on(JobFailed)
    def _failed(self, event: JobFailed) -> None:
        self.query_one("#lapse-facts", Static).update(Content.styled(one_line(event.problem), "$error"))

    def action_move(self, by: int) -> None:
        self.at = max(0, min(len(self.frames[self.which]) - 1, self.at + by))
        self._draw()

    def action_prompt(self, by: int) -> None:
        self.which = (self.which + by) % len(self.prompts)
        self.at = max(0, min(len(self.frames[self.which]) - 1, self.at))
        self._draw()

    def _draw(self) -> None:
        frames = self.frames[self.which]
        if not frames:
            return
        frame = frames[self.at]
        text = self.query_one(Transcript)
        text.cut(0)
        text.write(frame.prompt, "prompt")
        text.write(frame.text, "reply")
        text.write(frame.problem, "error")
        text.scroll_home(animate=False)
        self.query_one(Chart).cursor = float(frame.step)
        self._say()

    def _say(self) -> None:
        frames = self.frames[self.which]
        if not frames:
            return
        frame = frames[self.at]
        loss = frame.metrics.get("validation_loss")
        facts = [
            f"{self.run_directory.name}@{frame.step}",
            f"checkpoint {self.at + 1} of {len(frames)}" + ("" if self.ended else " (more to come)"),
            f"validation loss {loss:.3f}" if loss is not None else "",
            f"prompt {self.which + 1} of {len(self.prompts)}" if len(self.prompts) > 1 else "",
        ]
        self.query_one("#lapse-facts", Static).update(Content(one_line(" · ".join(fact for fact in facts if fact))))
