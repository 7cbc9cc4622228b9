"""The command palette: the keys that work now, the screens, and the commands of the whole workbench."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from textual.app import ComposeResult, SystemCommand
from textual.command import (
    CommandInput,
    CommandList,
    CommandPalette,
    DiscoveryHit,
    Hit,
    Hits,
    Provider,
    SearchIcon,
)
from textual.containers import Horizontal, Vertical
from textual.errors import NoWidget
from textual.events import Click, Mount
from textual.screen import Screen
from textual.widgets import LoadingIndicator

from llm.run import list_runs
from workbench.text import clean
from workbench.ui.closing import ClosesOnce
from workbench.ui.dialogs import Modal, Waiting
from workbench.ui.host import Destination, Host, host_of
from workbench.ui.keys import EVERYWHERE, WorkingKey, working_keys
from workbench.ui.lists import SafeList


class PaletteList(CommandList, SafeList, can_focus=False):
    """The list of commands, safe in a terminal of any size."""


class Palette(CommandPalette, ClosesOnce[None]):
    """Textual's palette, which closes only once, also when Escape is pressed twice."""

    def compose(self) -> ComposeResult:
        """As in Textual, with `PaletteList`."""
        with Vertical(id="--container"):
            with Horizontal(id="--input"):
                yield SearchIcon()
                yield CommandInput(placeholder=self._placeholder, select_on_focus=False)
            with Vertical(id="--results"):
                yield PaletteList()
                yield LoadingIndicator()

    def on_mount(self, event: Mount) -> None:
        """Textual looks for the commands of the second screen from the top, which must be the one below."""
        if not self.is_active:
            event.prevent_default()

    def on_click(self, event: Click) -> None:
        """Textual asks what is at the place of the click, which raises where nothing is after a resize."""
        try:
            self.get_widget_at(event.screen_x, event.screen_y)
        except NoWidget:
            event.prevent_default()


class Everything(Provider):
    """All commands, those of this screen first; the curves of a run are found by its name."""

    async def startup(self) -> None:
        self.runs = [run.name for run in list_runs(self.host.home)]

    @property
    def host(self) -> Host:
        return host_of(self.screen)

    async def discover(self) -> Hits:
        for name, about, run, _ in self.commands():
            yield DiscoveryHit(name, run, help=about)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, about, run, _ in (*self.commands(), *self.run_commands()):
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, matcher.highlight(name), run, help=about)

    def commands(self) -> Iterator[SystemCommand]:
        yield from screen_commands(self.screen)
        for screen in self.host.screens:
            yield SystemCommand(f"Go to {screen.name}", screen.help, partial(go_to, self.screen, screen.id))
        for window in self.host.windows:
            yield SystemCommand(f"Go to {window.name}", window.help, partial(open_window, self.screen, window))
        yield from self.app.get_system_commands(self.screen)

    def run_commands(self) -> Iterator[SystemCommand]:
        for name in self.runs:
            yield SystemCommand(f"Curves of {clean(name)}", "Open the run", partial(open_run, self.screen, name))


def screen_commands(screen: Screen[Any]) -> Iterator[SystemCommand]:
    """The actions of the screen and of the focused widget, each with its key."""
    for working in sorted(working_keys(screen), key=lambda working: working.moves):
        if working.place != EVERYWHERE and working.is_own:
            run = partial(run_if_open, screen, working)
            yield SystemCommand(working.text, f"{working.keys}: {working.place.lower()}", run)


async def run_if_open(screen: Screen[Any], working: WorkingKey) -> None:
    """Run the action of a key, unless its widget or window has been closed: Textual runs a command only after the
    palette, and keys that were typed with it may close what was below."""
    if working.node.is_attached:
        await screen.app.run_action(working.action, working.node)


async def go_to(screen: Screen[Any], mode: str) -> None:
    """Switch to a main screen; the windows over the current one close."""
    app = screen.app
    while len(app.screen_stack) > 1 and not isinstance(app.screen, Waiting):
        if isinstance(app.screen, Modal):
            app.screen.action_leave()
        else:
            app.screen.dismiss(None)
    await host_of(screen).action_show(mode)


async def open_run(screen: Screen[Any], name: str) -> None:
    """Show the curves of a run."""
    await go_to(screen, "train")
    host_of(screen).open_train(name)


async def open_window(screen: Screen[Any], window: Destination) -> None:
    """Open one of the windows in the table of the app."""
    await screen.app.push_screen(window.create())
