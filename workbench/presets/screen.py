"""The Presets screen: choose what to train, with its costs on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import OptionList, Static

from llm.config import Preset, RunConfig, check, list_presets, load_preset
from llm.config.sizes import MEDIUM
from llm.errors import ConfigError, UserError
from workbench.presets.preflight import expected_speed, measure_recent_runs
from workbench.presets.preflight_line import PreflightLine
from workbench.presets.prepared import DataState, find_data_state
from workbench.presets.preset_list import PresetList
from workbench.presets.sizes import ChosenSize, SelectedSizes, choose_by_speed, measure_with_torch, sized_preset
from workbench.presets.summary import preset_page
from workbench.text import clean
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.notices import attempt, notify_error
from workbench.ui.screen import WorkbenchScreen

if TYPE_CHECKING:  # imported when needed, so that the first screen opens fast
    from workbench.data.corpora import Entry
    from workbench.presets.edit_screen import EditResult

CHECK_DELAY_SECONDS = 0.3


class PresetsScreen(WorkbenchScreen):
    """A list of presets on the left, a page about the selected one on the right."""

    GUIDE = (
        "Choose what to train. Enter trains the selected preset; e edits its fields first; Q adds it to the queue. "
        "f shrinks it to fit this machine and a time limit, and shows the changes first; p runs a few steps and "
        "measures memory and speed; z selects another size, if the preset has several; w shows what it would need on "
        "many GPUs."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "preset-list": "The presets by group, your own last; * marks edited ones. Enter trains the selected one.",
        "preset-page": "The sizes and costs of the selected preset on this machine. Tab goes back to the list.",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "Edit", id="presets.edit"),
        Binding("Q,shift+enter", "enqueue", "Enqueue", id="presets.queue", key_display="Q"),
        Binding("u", "undo", "Discard edits", id="presets.undo"),
        Binding("f", "fit", "Fit", id="presets.fit"),
        Binding("p", "preflight", "Preflight", id="presets.preflight"),
        Binding("z", "size", "Size", id="presets.size", show=False),
        Binding("w", "needs", "On GPUs", id="presets.needs", show=False),
        Binding("escape", "cancel_preflight", "Cancel", id="presets.cancel-preflight"),
    ]

    @dataclass
    class DataFound(Message):
        """The state of the data of `config` is known."""

        config: RunConfig
        state: DataState

    @dataclass
    class SizeFound(Message):
        """The size of `preset` for this machine is known. `proceed` continues the action that waits for it, if
        `selected` is still the selected preset."""

        preset: str
        size: ChosenSize
        proceed: Callable[[], object]
        selected: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.sizes = SelectedSizes()
        self.is_measuring = False
        self.preflight = PreflightLine(id="preflight-line")
        self.presets: dict[str, Preset] = {}
        self.edited: dict[str, RunConfig] = {}
        self.data: dict[RunConfig, DataState] = {}
        self.current = ""
        self._check_timer: Timer | None = None

    def body(self) -> ComposeResult:
        with Horizontal(id="presets-body"):
            yield PresetList(id="preset-list")
            with VerticalScroll(id="preset-page", can_focus=True):
                yield Static(id="preset-meaning", markup=False)
                yield Static(id="preset-notes", markup=False)
        yield self.preflight

    def on_mount(self) -> None:
        self.workbench.training.on_begin = self.preflight.cancel_for
        self._reload()
        self.query_one(PresetList).focus()

    def on_resize(self) -> None:
        if self.current:
            self.call_after_refresh(self._show)

    def on_screen_resume(self) -> None:
        self._check_data_again()

    # --- the list

    def _reload(self, selected: str = "") -> None:
        """Read the presets again and select one."""
        presets = list_presets(self.workbench.home)
        self.presets = {preset.name: preset for preset in presets}
        self.query_one(PresetList).show_presets(presets, self.edited, selected)

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id is not None:
            self.current = event.option.id
            self.query_one("#preset-page").scroll_home(animate=False)
            self.call_after_refresh(self._show)  # paint the list first

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.action_start()

    # --- the page

    def config(self) -> RunConfig | None:
        """The selected preset with its edits; None, with the reason on the page, if it cannot be read."""
        if self.current in self.edited:
            return self.edited[self.current]
        try:
            return self.base_config()
        except UserError as error:
            self.query_one("#preset-meaning", Static).update(
                Content.assemble((clean(self.current), "bold"), "\n\n", (clean(str(error)), "$text-error"))
            )
            return None

    def base_config(self) -> RunConfig:
        """The selected preset without edits. Raises UserError."""
        return load_preset(self.current, self.workbench.home, size=self.sizes.size_of(self.current) or MEDIUM)

    def _valid_config(self) -> RunConfig | None:
        """The selected preset with its edits; None, with a notification, if it cannot be trained."""
        config = self.config()
        if config is not None and (problems := check(config)):
            notify_error(self.app, ConfigError(problems))
            return None
        return config

    def _show(self) -> None:
        config = self.config()
        notes = self.presets[self.current].notes
        about = Content.assemble(("About it", "bold"), "\n", clean(notes)) if notes else ""
        self.query_one("#preset-notes", Static).update(about)
        if config is None:
            return
        base = self.base_config()
        state = self.data.get(config)
        width = self.query_one("#preset-meaning").content_region.width
        speed = expected_speed(self.workbench.home, config)
        page = preset_page(self.current, config, base, state, width, speed, self._size_text())
        self.query_one("#preset-meaning", Static).update(page)
        if state is None and self._check_timer is None:
            self._check_timer = self.set_timer(CHECK_DELAY_SECONDS, self._check_data)

    def _check_data_again(self) -> None:
        """Forget the state of the data: a run or a preflight may have prepared it."""
        self.data.clear()
        if self.current:
            self._show()

    def _check_data(self) -> None:
        """Check whether the data is prepared. Delayed, because that imports numpy and the tokenizers."""
        self._check_timer = None
        config = self.config()
        if config is not None and config not in self.data:
            self._find_data(config)

    @work(thread=True, group="find data")
    def _find_data(self, config: RunConfig) -> None:
        measure_recent_runs(self.workbench.home)
        self.post_message(self.DataFound(config, find_data_state(config, self.workbench.home)))

    def on_presets_screen_data_found(self, message: DataFound) -> None:
        self.data[message.config] = message.state
        if self.config() == message.config:
            self._show()

    # --- editing

    def action_edit(self) -> None:
        """Edit the fields of the selected preset."""
        from workbench.presets.edit_screen import EditScreen

        config = self.config()
        if config is not None:
            screen = EditScreen(self.workbench.home, self.current, self.base_config(), config)
            self.app.push_screen(screen, self._after_edit)

    def _after_edit(self, result: EditResult | None) -> None:
        if result is None:
            return
        if result.saved_as:
            self.edited.pop(self.current, None)
            self._reload(result.saved_as)
            self.notify(f"Saved as preset {result.saved_as}.", markup=False)
        else:
            self.edited[self.current] = result.config
            if result.config == self.base_config():
                del self.edited[self.current]
            self._reload(self.current)
        if result.start:
            self.action_start()

    def action_undo(self) -> None:
        """Discard the edits of the selected preset."""
        if self.edited.pop(self.current, None) is not None:
            self._reload(self.current)

    def use_corpus(self, entry: Entry) -> None:
        """Use a corpus of the Data screen in the selected preset."""
        from workbench.data.corpora import config_with

        config = self.config()
        if config is None:
            return
        try:
            self.edited[self.current] = config_with(entry, config)
        except UserError as error:
            notify_error(self.app, error)
            return
        self._reload(self.current)
        self.notify(clean(f"{self.current} now uses {entry.corpus}. Press Enter to train."), markup=False)

    # --- sizes

    def action_size(self) -> None:
        """Select the next size of the preset. After the last one, the measured speed chooses the size."""
        preset = self.presets[self.current]
        if len(preset.sizes) == 1:
            self.notify(clean(f"{self.current} has one size."), markup=False)
        elif self.current in self.edited:
            self.notify("Discard the edits first (u): another size has other fields.", markup=False)
        else:
            self.sizes.select_next(self.current, preset.sizes)
            self._show()

    def _size_text(self) -> str:
        preset = self.presets[self.current]
        is_plain = self.current not in self.edited and len(preset.sizes) > 1
        return self.sizes.describe(self.current) if is_plain else ""

    def _run_size(self) -> str:
        """The size that a new run of the selected preset records; "" for none."""
        config = self.config()
        if config is None or (self.current in self.edited and not config.tune.base):
            return ""
        return self.sizes.size_of(sized_preset(self.current, self.workbench.home, config) or self.current)

    def _with_size(self, proceed: Callable[[], object]) -> None:
        """Call `proceed` when the size is known. Measures the speed of this machine first if the size depends on it."""
        config, home, training = self.config(), self.workbench.home, self.workbench.training
        try:
            preset = sized_preset(self.current, home, config) if config is not None else ""
        except UserError as error:
            notify_error(self.app, error)
            return
        is_known = not preset or self.sizes.size_of(preset) or (self.current in self.edited and preset == self.current)
        if config is None or is_known or training.active or training.elsewhere():  # a training distorts the speed
            proceed()
            return
        if self.is_measuring:
            return
        self.is_measuring = True
        train, selected = config.train, self.current

        def measure() -> None:
            size = choose_by_speed(preset, home, train, measure_with_torch)
            self.post_message(self.SizeFound(preset, size, proceed, selected))

        self.notify("Measuring the speed of this machine…", markup=False)
        # Not a Textual worker: the threads of its pool stay alive, and with them the OpenMP threads that torch starts.
        threading.Thread(target=measure, name="measure speed", daemon=True).start()

    def on_presets_screen_size_found(self, message: SizeFound) -> None:
        self.is_measuring = False
        self.sizes.measured[message.preset] = message.size
        self._show()
        self.notify(clean(f"{message.size.reason[0].upper()}{message.size.reason[1:]}."), markup=False)
        if self.current == message.selected:
            message.proceed()

    # --- fitting

    def action_fit(self) -> None:
        """Shrink the selected preset to fit this machine."""
        from workbench.presets.fit_dialog import FitDialog

        config = self._valid_config()
        if config is None:
            return
        speed = expected_speed(self.workbench.home, config)
        self.app.push_screen(FitDialog(self.current, config, speed), self._apply_fit)

    def action_needs(self) -> None:
        """Show what the selected preset would need on many GPUs."""
        from workbench.presets.needs_dialog import NeedsDialog

        config = self._valid_config()
        if config is not None:
            self.app.push_screen(NeedsDialog(self.current, config))

    def _apply_fit(self, config: RunConfig | None) -> None:
        if config is not None:
            self.edited[self.current] = config
            self._reload(self.current)

    # --- preflight

    def action_preflight(self) -> None:
        """Run a few steps of the selected preset in a separate process, to measure memory and speed."""
        config, training = self._valid_config(), self.workbench.training
        if config is None or self.preflight.job is not None:
            return
        if active := training.active or training.elsewhere():
            text = f"{active} is training, which would distort the measurement; stop it first."
            self.notify(clean(text), markup=False)
            return
        self.preflight.start(config, self.current, self.workbench.home)
        self.refresh_bindings()

    def action_cancel_preflight(self) -> None:
        self.preflight.cancel()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """`Cancel` is active only while a preflight runs."""
        return action != "cancel_preflight" or self.preflight.job is not None

    def on_preflight_line_ended(self) -> None:
        self.refresh_bindings()
        self._check_data_again()

    # --- starting

    def action_start(self) -> None:
        """Train the selected preset. Asks first if another run is training here."""
        active = self.workbench.training.active
        if self._valid_config() is None:
            return
        if active is None:
            self._with_size(lambda: self._start("alone"))
        else:
            answers = [
                Answer("", "Cancel"),
                Answer("background", "Train in the background too (both will be slower)"),
            ]
            self.app.push_screen(Ask(f"{active} is already training.", answers), self._start)

    def action_enqueue(self) -> None:
        """Add a run of the selected preset to the queue. It starts at once if nothing is training."""
        if self._valid_config() is not None:
            self._with_size(lambda: attempt(self.app, self._enqueue))

    def _enqueue(self) -> None:
        if (config := self.config()) is not None:
            run = self.workbench.training.create(config, self.current, self._run_size())
            self.workbench.enqueue(run)

    def _start(self, answer: str | None) -> None:
        config = self.config()
        if not answer or config is None:
            return
        other = self.workbench.training.elsewhere()
        try:
            run = self.workbench.training.start(config, self.current, self._run_size())
        except (UserError, OSError) as error:
            notify_error(self.app, error)
            return
        if other and answer == "alone":
            self.notify(clean(f"{other} is also training, in another process: both will be slower."), markup=False)
        if stage := self.workbench.training.stages.waits_for(run.name):
            self.notify(clean(f"{run.name} trains first; {stage} starts from it when it is complete."), markup=False)
        self.workbench.open_train(run.name)
