"""The command palette: every key that works now, every place, and what belongs to the whole workbench."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

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
from textual.events import Mount
from textual.screen import Screen
from textual.widgets import LoadingIndicator

from llm.run import list_runs
from workbench.text import clean
from workbench.ui.closing import ClosesOnce
from workbench.ui.dialogs import Waiting
from workbench.ui.keys import EVERYWHERE, working_keys
from workbench.ui.lists import SafeList

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

PLACES = {
    "presets": "Choose what to train",
    "train": "Watch and steer a run",
    "runs": "All runs and their checkpoints",
    "chat": "Talk to a model",
    "data": "Corpora and tokenizers",
}


class PaletteList(CommandList, SafeList, can_focus=False):
    """The list of commands, in a terminal of any size."""


class Palette(CommandPalette, ClosesOnce[None]):
    """Textual's palette, which closes once however fast the keys come."""

    def compose(self) -> ComposeResult:
        """As Textual has it, with that list."""
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


class Everything(Provider):
    """What can be done from here, what belongs to this screen first; the curves of any run, once its name is typed."""

    async def startup(self) -> None:
        self.runs = [run.name for run in list_runs(self.workbench.home)]

    @property
    def workbench(self) -> WorkbenchApp:
        return cast("WorkbenchApp", self.app)

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
        yield from place_commands(self.workbench)
        yield from self.app.get_system_commands(self.screen)

    def run_commands(self) -> Iterator[SystemCommand]:
        for name in self.runs:
            yield SystemCommand(f"Curves of {clean(name)}", "Open the run", partial(open_run, self.workbench, name))


def screen_commands(screen: Screen[Any]) -> Iterator[SystemCommand]:
    """The keys of the screen and of what has the focus, each with the key that does the same."""
    for working in sorted(working_keys(screen), key=lambda working: working.moves):
        if working.place != EVERYWHERE and working.is_own:
            run = partial(screen.app.run_action, working.action, working.node)
            yield SystemCommand(working.text, f"{working.keys}: {working.place.lower()}", run)


def place_commands(app: WorkbenchApp) -> Iterator[SystemCommand]:
    """Everywhere one can go."""
    for mode, about in PLACES.items():
        yield SystemCommand(f"Go to {mode.capitalize()}", about, partial(go_to, app, mode))
    for name, about, screen in (
        ("Queue", "The runs that wait for their turn", "QueueScreen"),
        ("Trash", "Deleted runs, until it is emptied", "TrashScreen"),
        ("Prepared data", "Tokenised text, and which runs use it", "CachedDataScreen"),
    ):
        yield SystemCommand(f"Go to {name}", about, partial(open_list, app, screen))


async def go_to(app: WorkbenchApp, mode: str) -> None:
    """Bring a screen to the front, out of whatever is open over the one that is there."""
    while len(app.screen_stack) > 1 and not isinstance(app.screen, Waiting):
        if leave := getattr(app.screen, "action_leave", None):
            leave()
        else:
            app.screen.dismiss(None)
    await app.action_show(mode)


async def open_run(app: WorkbenchApp, name: str) -> None:
    """Show the curves of a run."""
    await go_to(app, "train")
    app.open_train(name)


async def open_list(app: WorkbenchApp, name: str) -> None:
    """Open one of the lists that are seldom needed."""
    from workbench.runs import storage_screen as store

    await app.push_screen(getattr(store, name)())
