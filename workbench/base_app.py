"""The app without training: themes, settings and keys, screenshots and exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.terminal_theme import TerminalTheme
from textual import work
from textual._context import active_message_pump
from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.geometry import Region
from textual.theme import Theme
from textual.timer import Timer

from llm.errors import UserError
from workbench.text import clean
from workbench.ui.closing import is_aftermath
from workbench.ui.faults import FaultLog, cause_of, is_up
from workbench.ui.pasting import TerminalDriver
from workbench.ui.settings import Settings, load_settings, save_settings
from workbench.ui.textual_fixes import apply_fixes
from workbench.ui.themes import DEFAULT, FOR_SIXTEEN_COLORS, THEMES, named_colors

if TYPE_CHECKING:
    from workbench.charts.chart import Chart

REPAINT_AFTER_SECONDS = 0.05


class BaseApp(App[int]):
    """An app on a home folder, with the theme and the keys of its settings."""

    def __init__(self, home: Path) -> None:
        apply_fixes()
        super().__init__(driver_class=TerminalDriver)
        self.home = home
        for name in self.available_themes.keys() - {theme.name for theme in THEMES}:
            self.unregister_theme(name)
        for theme in THEMES:
            self.register_theme(theme)
        self.settings = Settings()
        self.settings_problem = ""
        self._reported_clashes: set[str] = set()
        self.survives_errors = False
        """Whether an error in a handler is logged and shown instead of ending the app; to be used in the block of
        `workbench.ui.faults.errors_contained`."""
        self._faults = FaultLog()
        self._repaint_later: Timer | None = None
        try:
            self.settings = load_settings(home)
        except UserError as error:
            self.settings_problem = str(error)
        self.theme = self.settings.theme
        self.set_keymap(dict(self.settings.keys))

    def _handle_exception(self, error: Exception) -> None:
        """Textual calls this for an error in a handler, a timer, a worker or while drawing, and would end the app."""
        if is_aftermath(cause_of(error), active_message_pump.get(None)):
            return
        if not self.survives_errors:
            super()._handle_exception(error)
        elif self._exit:
            self._faults.write(error)  # what fails while everything is taken down is no reason to fail
        elif is_up(self):
            if self._faults.write(error):
                name = type(cause_of(error)).__name__
                text = f"Something went wrong here ({name}). The workbench continues; see workbench.log."
                self.show_error(text)
        else:  # without Textual's own report, which takes up to a minute to draw where the terminal is narrow
            self._faults.write(error)
            self._return_code = 1
            self._close_messages_no_wait()

    def show_error(self, text: str, *, title: str = "") -> None:
        """Show an error long enough to read it."""
        self.notify(clean(text), title=title, severity="error", timeout=15, markup=False)

    def report_lost_terminal(self, on_lost: Callable[[], object], is_lost: Callable[[], bool]) -> None:
        """Have the driver call `on_lost` when the terminal is gone, and ask `is_lost` before it writes."""
        if isinstance(self._driver, TerminalDriver):
            self._driver.on_lost, self._driver.is_lost = on_lost, is_lost

    @property
    def ansi_theme(self) -> TerminalTheme:
        """The named colors of texts: those of the theme, unless it leaves them to the terminal."""
        return super().ansi_theme if self.current_theme.ansi else named_colors(self.theme)

    def on_resize(self) -> None:
        """Repaint everything once the size is stable: a terminal that shrank and grew back has lost its content, but
        not its size."""
        if self._repaint_later is not None:
            self._repaint_later.stop()
        self._repaint_later = self.set_timer(REPAINT_AFTER_SECONDS, self.refresh)

    def repaint_windows_between(self) -> None:
        """Repaint the windows below the top one; call it now and then. Textual repaints only what is behind the top
        window."""
        for window in self.screen_stack[1:-1]:
            window.refresh()

    def apply_settings(self) -> None:
        """Call it once mounted. Reports a problem with the file, and saves a theme chosen in the palette."""
        self.theme = self._usable_theme(self.settings.theme)
        self.theme_changed_signal.subscribe(self, self._theme_changed)
        if self.settings_problem:
            self.show_error(self.settings_problem)
        if self.settings.keys:
            self._check_key_ids()

    @work(thread=True, group="key ids")
    def _check_key_ids(self) -> None:
        """Report an id in the settings file that no binding has."""
        from workbench.ui.key_map import unknown_id

        if problem := unknown_id(self.settings.keys):
            self.show_error(problem)

    def action_settings(self) -> None:
        """Open the settings."""
        from workbench.ui.settings_screen import SettingsScreen

        self.push_screen(SettingsScreen())

    def change_settings(self, settings: Settings) -> None:
        """Apply settings and save them."""
        self._save_settings(settings)
        self.set_keymap(dict(settings.keys))
        self.theme = self._usable_theme(settings.theme)

    def _usable_theme(self, theme: str) -> str:
        """The theme to use where `theme` is set: on a terminal of sixteen colors its own in place of our usual one, of
        which it would show nearly every curve in white."""
        few = not self.is_headless and self.console.color_system == "standard"
        return FOR_SIXTEEN_COLORS if few and theme == DEFAULT else theme

    def _theme_changed(self, _: Theme) -> None:
        """Save the current theme, which may be newer than that of the message."""
        if self.theme != self._usable_theme(self.settings.theme):
            self._save_settings(replace(self.settings, theme=self.theme))

    def _save_settings(self, settings: Settings) -> None:
        self.settings = settings
        try:
            save_settings(self.home, settings)
        except OSError as error:
            self.show_error(f"the settings cannot be saved: {error}")

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: DOMNode) -> None:
        """Report once a key that the settings file gives to two actions."""
        for binding in clashed_bindings:
            if binding.id not in self.settings.keys and binding.action not in self._reported_clashes:
                self._reported_clashes.add(binding.action)
                name = binding.description or binding.action
                text = f"{name} has no key: settings.toml gives {binding.key} to another action"
                self.notify(clean(text), severity="warning", markup=False)

    def action_save_picture(self) -> None:
        """Save a screenshot as SVG."""
        from workbench.charts.export import picture_of_strips, strips_of, write_export

        strips = strips_of(self.screen)
        name = self.screen.id or type(self.screen).__name__.lower()
        title = self.TITLE or ""
        self._export(lambda: write_export(self.home, name, ".svg", picture_of_strips(strips, title)))

    def on_chart_export_requested(self, message: Chart.ExportRequested) -> None:
        """Write the curves of a chart as CSV, or its picture."""
        from workbench.charts.export import picture_of_strips, table, write_export

        chart, kind = message.chart, message.kind
        stem = f"{message.subject}-{chart.name_for_files}".strip("-")
        if kind == "csv":
            data, unit, smoothing = chart.data.copy(), chart.x_unit, chart.smoothing
            self._export(lambda: write_export(self.home, stem, ".csv", table(data, unit, smoothing)))
        else:
            strips = chart.render_lines(Region(0, 0, *chart.outer_size))
            self._export(lambda: write_export(self.home, stem, ".svg", picture_of_strips(strips, stem)))

    @work(thread=True, group="export")
    def _export(self, write: Callable[[], Path]) -> None:
        """Write a file in a thread, and show its path."""
        try:
            self.notify(clean(f"saved {write()}"), markup=False)
        except OSError as error:
            self.show_error(f"the file could not be saved: {error}")
