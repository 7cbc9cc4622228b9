"""The form to export a model: format, dtype and folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from llm.errors import UserError
from llm.files import expand_user
from llm.interop.formats import FORMATS, Format
from llm.run import CheckpointInfo, Run
from workbench.text import clean
from workbench.ui.dialogs import Form
from workbench.ui.lists import ChoiceList
from workbench.ui.notices import notify_error

if TYPE_CHECKING:
    from llm.interop.source import Source


@dataclass(frozen=True)
class ExportChoice:
    """What to write, and where."""

    source: Source
    format: Format
    dtype: str
    folder: Path


class ExportDialog(Form[ExportChoice]):
    """Asks for a format, a dtype and a new folder; returns None if canceled."""

    NAME = "Export model"
    GUIDE = (
        "Writes the checkpoint in a format of other programs. ✓ marks formats that can represent the model; "
        "select a format with ✗ to see why not. The folder must be new; nothing is uploaded."
    )
    DEFAULT_CSS = """
    ExportDialog { #export-dtypes { height: auto; max-height: 5; } #export-formats { height: auto; max-height: 5; } }
    """

    def __init__(self, home: Path, run: Run, info: CheckpointInfo) -> None:
        super().__init__()
        self.home, self.run_to_export, self.info = home, run, info
        self.source: Source | None = None
        self.problems: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            title = f"Export {self.run_to_export.name}@{self.info.step}"
            yield Static(Content(clean(title)), classes="dialog-question")
            yield ChoiceList(id="export-formats")
            yield ChoiceList(id="export-dtypes")
            yield Input(id="export-folder")
            yield Static("Reading the checkpoint…", classes="dialog-problem", markup=False)
            yield Static(Content("Press Enter to export, Tab for the next field."), classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one("#export-formats").border_title = "format"
        self.query_one("#export-dtypes").border_title = "dtype"
        self.query_one("#export-folder").border_title = "new folder"
        self._read()

    @work(thread=True)
    def _read(self) -> None:
        from llm.interop.source import open_source

        try:
            source = open_source(self.run_to_export, self.info)
            problems = {name: format.problem(source.shape, source.tokenizer) for name, format in FORMATS.items()}
        except (UserError, OSError) as error:
            self.app.call_from_thread(self._fail, error)
            return
        self.app.call_from_thread(self._show, source, problems)

    def _fail(self, error: Exception) -> None:
        notify_error(self.app, error)
        self.dismiss(None)

    def _show(self, source: Source, problems: dict[str, str]) -> None:
        self.source, self.problems = source, problems
        listing = self.query_one("#export-formats", ChoiceList)
        for name, format in FORMATS.items():
            mark = "✗" if problems[name] else "✓"
            listing.add_option(Option(Content(f"{mark} {name}: {format.about}"), id=name))
        listing.highlighted = 0
        listing.focus()

    @property
    def format(self) -> Format:
        return list(FORMATS.values())[self.query_one("#export-formats", ChoiceList).highlighted or 0]

    @property
    def dtype(self) -> str:
        return self.format.dtypes[self.query_one("#export-dtypes", ChoiceList).highlighted or 0]

    @on(OptionList.OptionHighlighted, "#export-formats")
    def _format_changed(self) -> None:
        dtypes = self.query_one("#export-dtypes", ChoiceList)
        dtypes.clear_options()
        dtypes.add_options(Option(Content(dtype), id=dtype) for dtype in self.format.dtypes)
        dtypes.highlighted = 0

    @on(OptionList.OptionHighlighted, "#export-dtypes")
    def _dtype_changed(self) -> None:
        from llm.interop.source import default_folder

        if self.source is not None:
            folder = default_folder(self.home, self.source, self.format.name, self.dtype)
            self.query_one("#export-folder", Input).value = str(folder)
        self._check()

    @on(Input.Changed)
    def _check(self) -> None:
        problem = self.problems.get(self.format.name, "") or self._folder_problem()
        self.show_problem(problem)

    def _folder_problem(self) -> str:
        folder = self.query_one("#export-folder", Input).value.strip()
        if not folder:
            return "enter a path for the new folder"
        return "this folder exists already; choose another path" if expand_user(folder).exists() else ""

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _accept(self) -> None:
        if self.source is None or self.problems[self.format.name] or self._folder_problem():
            return  # the problem is already shown
        folder = expand_user(self.query_one("#export-folder", Input).value.strip())
        self.dismiss(ExportChoice(self.source, self.format, self.dtype, folder))
