"""Choosing what to train: the presets, and what each would mean on this machine."""

from __future__ import annotations

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
from textual.widgets.option_list import Option

from llm.config import Preset, RunConfig, check, list_presets, load_preset
from llm.errors import ConfigError, UserError
from llm.run import Run
from workbench.presets.preflight import expected_speed, measure_recent_runs
from workbench.presets.preflight_screen import PreflightScreen
from workbench.presets.prepared import DataState, find_data_state
from workbench.presets.summary import preset_page
from workbench.text import clean
from workbench.ui.dialogs import Answer, Ask
from workbench.ui.lists import BESIDE, ChoiceList

if TYPE_CHECKING:  # loaded when they are needed: the first screen is not to wait for them
    from workbench.data.corpora import Entry
    from workbench.presets.edit_screen import EditResult

LOOK_AFTER_SECONDS = 0.3


class PresetList(ChoiceList):
    """The list; choosing an entry trains it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Train", id="presets.start", key_display="⏎"),
    ]


class PresetsScreen(PreflightScreen):
    """A list of presets on the left; on the right, what the marked one means."""

    GUIDE = (
        "Choose what to train. Enter starts the marked preset at once; e opens every field of it for editing first; Q "
        "puts it in line behind the training that goes on. "
        "f makes the marked preset small enough for this machine and your patience, and shows first what would change; "
        "p runs a few real steps of it and measures memory and speed. Nothing else is made before you press Enter."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "preset-list": "The presets by group, your own last; * marks what you have edited. Enter trains it.",
        "preset-page": "What the marked preset would mean on this machine. Tab goes back to the list.",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "Edit", id="presets.edit"),
        Binding("Q,shift+enter", "enqueue", "Queue", id="presets.queue", key_display="Q"),
        Binding("u", "undo", "Undo edits", id="presets.undo"),
        Binding("f", "fit", "Fit", id="presets.fit"),
        Binding("p", "preflight", "Preflight", id="presets.preflight"),
        Binding("escape", "cancel_preflight", "Cancel", id="presets.cancel-preflight"),
    ]

    @dataclass
    class DataFound(Message):
        """Somebody looked whether the data of `config` are here."""

        config: RunConfig
        state: DataState

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.presets: dict[str, Preset] = {}
        self.edited: dict[str, RunConfig] = {}
        self.data: dict[RunConfig, DataState] = {}
        self.current = ""
        self._look_later: Timer | None = None

    def body(self) -> ComposeResult:
        with Horizontal(id="presets-body"):
            yield PresetList(id="preset-list")
            with VerticalScroll(id="preset-page", can_focus=True):
                yield Static(id="preset-meaning", markup=False)
                yield Static(id="preset-notes", markup=False)
        yield Static(id="preflight-line", markup=False)

    def on_mount(self) -> None:
        self._fill()
        self.query_one(OptionList).focus()

    def on_resize(self) -> None:
        if self.current:
            self.call_after_refresh(self._show)

    def on_screen_resume(self) -> None:
        self.look_again()

    def look_again(self) -> None:
        self.data.clear()  # a run, or a preflight, may have prepared data meanwhile
        if self.current:
            self._show()

    # --- the list

    def _fill(self, mark: str = "") -> None:
        """Read the presets anew and mark one: `mark`, else the first that can be used."""
        presets = list_presets(self.workbench.home)
        self.presets = {preset.name: preset for preset in presets}
        options: list[Option] = []
        group = ""
        for preset in presets:
            if preset.group != group:
                group = preset.group
                options.append(Option(Content.styled(clean(group), "bold $text-accent"), disabled=True))
            options.append(Option(self._entry(preset), id=preset.name))
        listing = self.query_one(OptionList)
        listing.set_options(options)
        wanted = mark or next((preset.name for preset in presets if not preset.problem), "")
        if wanted:
            listing.highlighted = listing.get_option_index(wanted)

    def _entry(self, preset: Preset) -> Content:
        name = f"{preset.name} *" if preset.name in self.edited else preset.name
        if preset.problem:
            return Content.assemble((clean(name), "bold"), "\n", ("cannot be read", "$text-error"))
        return Content.assemble((clean(name), "bold"), "\n", (clean(preset.purpose), BESIDE))

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id is not None:
            self.current = event.option.id
            self.query_one("#preset-page").scroll_home(animate=False)
            self.call_after_refresh(self._show)  # the list is painted first

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.action_start()

    # --- what the marked preset means

    def config(self) -> RunConfig | None:
        """The marked preset as edited; None (and the reason on the page) where it cannot be read."""
        if self.current in self.edited:
            return self.edited[self.current]
        try:
            return load_preset(self.current, self.workbench.home)
        except UserError as error:
            self.query_one("#preset-meaning", Static).update(
                Content.assemble((clean(self.current), "bold"), "\n\n", (clean(str(error)), "$text-error"))
            )
            return None

    def _show(self) -> None:
        config = self.config()
        notes = self.presets[self.current].notes
        about = Content.assemble(("About it", "bold"), "\n", clean(notes)) if notes else ""
        self.query_one("#preset-notes", Static).update(about)
        if config is None:
            return
        base = load_preset(self.current, self.workbench.home)
        state = self.data.get(config)
        width = self.query_one("#preset-meaning").content_region.width
        speed = expected_speed(self.workbench.home, config)
        page = preset_page(self.current, config, base, state, width, speed)
        self.query_one("#preset-meaning", Static).update(page)
        if state is None and self._look_later is None:
            self._look_later = self.set_timer(LOOK_AFTER_SECONDS, self._look)

    def _look(self) -> None:
        """Look for the data of what is marked now; not earlier, since that loads numpy and the tokenizers."""
        self._look_later = None
        config = self.config()
        if config is not None and config not in self.data:
            self._look_for_data(config)

    @work(thread=True, group="look for data")
    def _look_for_data(self, config: RunConfig) -> None:
        measure_recent_runs(self.workbench.home)
        self.post_message(self.DataFound(config, find_data_state(config, self.workbench.home)))

    def on_presets_screen_data_found(self, message: DataFound) -> None:
        self.data[message.config] = message.state
        if self.config() == message.config:
            self._show()

    # --- editing

    def action_edit(self) -> None:
        """Open every field of the marked preset."""
        from workbench.presets.edit_screen import EditScreen

        config = self.config()
        if config is not None:
            base = load_preset(self.current, self.workbench.home)
            self.app.push_screen(EditScreen(self.workbench.home, self.current, base, config), self._after_edit)

    def _after_edit(self, result: EditResult | None) -> None:
        if result is None:
            return
        if result.saved_as:
            self.edited.pop(self.current, None)
            self._fill(result.saved_as)
            self.notify(f"saved as preset {result.saved_as}", markup=False)
        else:
            self.edited[self.current] = result.config
            if result.config == load_preset(self.current, self.workbench.home):
                del self.edited[self.current]
            self._fill(self.current)
        if result.start:
            self.action_start()

    def action_undo(self) -> None:
        """Forget what was edited in the marked preset."""
        if self.edited.pop(self.current, None) is not None:
            self._fill(self.current)

    def use_corpus(self, entry: Entry) -> None:
        """Let the marked preset learn from a corpus of the Data screen."""
        from workbench.data.corpora import config_of

        config = self.config()
        if config is None:
            return
        try:
            self.edited[self.current] = config_of(entry, config)
        except UserError as error:
            self.notify(clean(str(error)), severity="error", timeout=15, markup=False)
            return
        self._fill(self.current)
        self.notify(clean(f"{self.current} now learns from {entry.corpus}; Enter trains it"), markup=False)

    # --- fitting

    def action_fit(self) -> None:
        """Offer what to change so that the marked preset fits this machine."""
        from workbench.presets.fit_dialog import FitDialog

        config = self.config()
        if config is None:
            return
        problems = check(config)
        if problems:
            self.notify(clean("\n".join(str(problem) for problem in problems)), severity="error", markup=False)
            return
        speed = expected_speed(self.workbench.home, config)
        self.app.push_screen(FitDialog(self.current, config, speed), self._fitted)

    def _fitted(self, config: RunConfig | None) -> None:
        if config is not None:
            self.edited[self.current] = config
            self._fill(self.current)

    # --- starting

    def action_start(self) -> None:
        """Train the marked preset; asks first if something trains here already."""
        config = self.config()
        if config is None:
            return
        problems = check(config)
        active = self.workbench.training.active
        if problems:
            self.notify(clean("\n".join(str(problem) for problem in problems)), severity="error", markup=False)
        elif active is None:
            self._start("alone")
        else:
            answers = [
                Answer("", "No, leave it"),
                Answer("beside", "Train this one beside it, in a process of its own (both will be slower)"),
            ]
            self.app.push_screen(Ask(f"{active} is training already.", answers), self._start)

    def action_enqueue(self) -> None:
        """Make a run of the marked preset and put it in line; it begins at once if nothing trains."""
        config = self.config()
        if config is None:
            return
        home = self.workbench.home
        try:
            if problems := check(config):
                raise ConfigError(problems)
            self.workbench.enqueue(Run.create_numbered(home, self.current, config))
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", timeout=15, markup=False)

    def _start(self, answer: str | None) -> None:
        config = self.config()
        if not answer or config is None:
            return
        other = self.workbench.training.elsewhere()
        try:
            run = self.workbench.training.start(config, self.current)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", timeout=15, markup=False)
            return
        if other and answer == "alone":
            self.notify(clean(f"{other} trains in another process: both will be slower"), markup=False)
        self.workbench.open_train(run.name)
