"""The Data screen: corpora, their tokens, and a tokenizer preview for any text."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from llm.config import RunConfig
from llm.data.text.urls import is_url
from llm.errors import UserError
from workbench.data.corpora import (
    Contents,
    Entry,
    add_corpus,
    caution,
    config_with,
    download_corpus,
    list_corpora,
    path_problem,
    read_contents,
    remove_corpus,
)
from workbench.data.corpus_page import corpus_page
from workbench.data.dialogs import CHOSEN, AskField, PrepareDialog
from workbench.data.fields import FieldNeeded
from workbench.data.job_line import JobLine
from workbench.data.pasted import pasted_path
from workbench.data.token_preview import TokenPreview
from workbench.text import clean, one_line
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.lists import DETAIL, ChoiceList, with_headings
from workbench.ui.notices import attempt, notify_error
from workbench.ui.screen import WorkbenchScreen

GROUPS = {"built-in": "built in", "added": "yours", "named": "named datasets", "prepared": "prepared data"}
INSPECT_DELAY_SECONDS = 0.2


class CorpusList(ChoiceList):
    """The list of corpora."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Prepare", id="data.prepare", key_display="⏎"),
    ]


class DataScreen(WorkbenchScreen):
    """The list of corpora on the left; on the right, the selected corpus and the tokenizer preview."""

    GUIDE = (
        "Corpora to train on. Enter prepares the selected text (trains a tokenizer and tokenizes the text) or "
        "downloads a dataset; u uses it in the selected preset. a adds a file, a folder, a glob or a web address. "
        "t tokenizes any text with the tokenizer of the last selected prepared data; i shows token ids."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "corpus-list": "All corpora; ↓ marks those that must be downloaded first.",
        "corpus-page": "The beginning of the selected text, or its tokens. The arrow keys scroll.",
        "try-text": "Type any text to see its tokens below. F2 shows their ids, Esc goes back to the list.",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "add", "Add", id="data.add"),
        Binding("u", "use", "Use", id="data.use"),
        Binding("t", "try", "Tokenize", id="data.try"),
        Binding("i,f2", "ids", "Ids", id="data.ids"),
        Binding("d", "forget", "Remove", id="data.forget"),
        Binding("x", "cancel", "Cancel", id="data.cancel"),
        Binding("escape", "back", "Back to list", id="data.back", show=False),
    ]

    @dataclass
    class Listed(Message):
        """The corpora have been listed; `mark` is the key of the entry to select."""

        entries: list[Entry]
        problem: str
        mark: str

    @dataclass
    class ContentsRead(Message):
        """The contents of an entry have been read."""

        entry: Entry
        contents: Contents

    @dataclass
    class FieldRequested(Message):
        """The user must choose which field of the rows in `path` contains the text."""

        path: str
        needed: FieldNeeded

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.entries: dict[str, Entry] = {}
        self.contents: dict[str, Contents] = {}
        self.current = ""
        self._list_lock = threading.Lock()
        self.with_ids = False
        self.jobs = JobLine(id="job-line")
        self._inspect_timer: Timer | None = None

    def body(self) -> ComposeResult:
        with Horizontal(id="data-body"):
            yield CorpusList(id="corpus-list")
            with Vertical(id="corpus-side"):
                with VerticalScroll(id="corpus-page", can_focus=True):
                    yield Static(id="corpus-about", markup=False)
                yield TokenPreview(id="trial")
        yield self.jobs

    def on_mount(self) -> None:
        self.listing.focus()

    def on_screen_resume(self) -> None:
        self.reload()

    @property
    def listing(self) -> CorpusList:
        return self.query_one(CorpusList)

    @property
    def entry(self) -> Entry | None:
        """The selected corpus."""
        return self.entries.get(self.current)

    # --- the list

    @work(thread=True, group="list corpora")
    def reload(self, mark: str = "") -> None:
        """List the corpora again, and select `mark`, or the same entry as before."""
        with self._list_lock:  # or an older list could arrive after a newer one
            try:
                self.post_message(self.Listed(list_corpora(self.workbench.home), "", mark))
            except (UserError, OSError) as error:
                self.post_message(self.Listed([], str(error), mark))

    def on_data_screen_listed(self, message: Listed) -> None:
        if message.problem:
            notify_error(self.app, message.problem)
            return
        before = list(self.entries.values())
        if message.entries != before:
            self.contents.clear()
            self.entries = {entry.key: entry for entry in message.entries}
            self._fill(message.mark or self.current)
        elif message.mark in self.entries:  # an earlier list contains it already
            self.listing.highlighted = self.listing.get_option_index(message.mark)

    def _fill(self, mark: str) -> None:
        options = [(GROUPS[entry.kind], Option(self._label(entry), id=entry.key)) for entry in self.entries.values()]
        self.listing.set_options(with_headings(options))
        selected = mark if mark in self.entries else next(iter(self.entries), "")
        if selected:
            self.listing.highlighted = self.listing.get_option_index(selected)

    def _label(self, entry: Entry) -> Content:
        name = entry.name[:8] if entry.kind == "prepared" else entry.name
        about = entry.problem or entry.about
        style = "$text-error" if entry.problem else DETAIL
        mark = "" if entry.here else "↓ "
        return Content.assemble((mark + one_line(name), "bold"), "\n", (one_line(about), style))

    @on(OptionList.OptionHighlighted, "#corpus-list")
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id is None:
            return
        self.current = event.option.id
        self.query_one("#corpus-page").scroll_home(animate=False)
        self._show()
        self.refresh_bindings()
        if self.current not in self.contents and self._inspect_timer is None:
            self._inspect_timer = self.set_timer(INSPECT_DELAY_SECONDS, self._inspect)

    def _inspect(self) -> None:
        self._inspect_timer = None
        if self.entry is not None and self.entry.key not in self.contents:
            self._read_contents(self.entry)

    @work(thread=True, group="read corpora")
    def _read_contents(self, entry: Entry) -> None:
        self.post_message(self.ContentsRead(entry, read_contents(entry, self.workbench.home)))

    def on_data_screen_contents_read(self, message: ContentsRead) -> None:
        key = message.entry.key
        if self.entries.get(key) != message.entry:  # the list changed meanwhile, as when its file is deleted
            return
        self.contents[key] = message.contents
        if key == self.current:
            self._show()
            if message.contents.inspection is not None:
                tokenizer = message.contents.inspection.dataset.tokenizer
                self.query_one(TokenPreview).use(tokenizer, f"{tokenizer.kind} of {self.current.partition(' ')[2][:8]}")

    def _show(self) -> None:
        if self.entry is not None:
            contents = self.contents.get(self.current)
            width = self.query_one("#corpus-page").scrollable_content_region.width
            page = corpus_page(self.entry, contents, width, with_ids=self.with_ids, monochrome=self.app.no_color)
            self.query_one("#corpus-about", Static).update(page)

    # --- tokenizer preview

    def action_try(self) -> None:
        """Type a text and see its tokens."""
        self.query_one(TokenPreview).edit()

    def action_back(self) -> None:
        self.listing.focus()

    def action_ids(self) -> None:
        """Show or hide token ids."""
        self.with_ids = not self.with_ids
        self._show()
        self.query_one(TokenPreview).show_ids(self.with_ids)

    # --- adding and removing

    def action_add(self) -> None:
        """Add a text to the list."""
        question = "Add a file, a folder, a glob such as ~/notes/**/*.md, JSON, CSV or Parquet files, or a web address:"
        self.app.push_screen(AskText(question, problem_of=path_problem), self._add)

    def _add(self, text: str | None) -> None:
        path = pasted_path(text or "")
        if is_url(path):
            self._download_address(path)
        elif path:
            self._add_path(path)

    def _download_address(self, address: str) -> None:
        home = self.workbench.home
        self.jobs.start(f"Downloading {address}", lambda: download_corpus(home, address))

    @work(thread=True, group="add a corpus")
    def _add_path(self, path: str, text_field: str = "") -> None:
        try:
            entry = add_corpus(self.workbench.home, path, text_field)
        except FieldNeeded as needed:
            self.post_message(self.FieldRequested(path, needed))
            return
        except (UserError, OSError) as error:
            notify_error(self.app, error)
            return
        if entry.text_field != "text":
            self.app.notify(clean(f"Using the text in the field {entry.text_field}."), markup=False)
        self.reload(entry.key)

    def on_data_screen_field_requested(self, message: FieldRequested) -> None:
        """Ask which field contains the text."""
        if not message.needed.fields:
            notify_error(self.app, message.needed)
            return

        def add(answer: str | None) -> None:
            if answer:
                self._add_path(message.path, answer.removeprefix(CHOSEN))

        self.app.push_screen(AskField(message.needed), add)

    def action_forget(self) -> None:
        """Remove a text from the list. Files of the user stay; a downloaded copy is deleted after a confirmation."""
        entry = self.entry
        if entry is None:
            return
        if is_url(entry.corpus) and entry.here:
            question = (
                f"Remove {entry.name} and delete the downloaded copy ({entry.about})? It can be downloaded again."
            )
            answers = [Answer("", "Keep"), Answer("yes", "Remove and delete")]
            self.app.push_screen(Ask(clean(question), answers), lambda yes: self._remove(entry) if yes else None)
        else:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        attempt(self.app, lambda: remove_corpus(self.workbench.home, entry.corpus))
        self.reload()

    # --- preparing and downloading

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that apply to the selected entry."""
        entry = self.entry
        if action == "forget":
            return entry is not None and entry.kind == "added"
        if action == "use":
            return entry is not None and bool(entry.corpus) and entry.here and not entry.problem
        if action == "cancel":
            return self.jobs.is_running
        return True

    @on(OptionList.OptionSelected, "#corpus-list")
    def _selected(self) -> None:
        entry = self.entry
        if entry is None or entry.kind == "prepared":
            self.query_one("#corpus-page").focus()
        elif self.jobs.report_running():
            return
        elif entry.here and entry.corpus:
            self._ask_to_prepare(entry)
        elif not entry.here:
            question = f"Download {entry.name}? {entry.about[:1].upper()}{entry.about[1:]}. {caution(entry)}".strip()
            answers = [Answer("", "Cancel"), Answer("yes", "Download")]
            self.app.push_screen(Ask(clean(question), answers), self._download)

    def _ask_to_prepare(self, entry: Entry) -> None:
        try:
            config = config_with(entry, RunConfig())
        except UserError as error:  # a path that cannot be one, in an edited list
            notify_error(self.app, error)
            return
        self.app.push_screen(PrepareDialog(config), self._prepare)

    def _prepare(self, config: RunConfig | None) -> None:
        if config is not None:
            from llm.data.tokens.prepare import prepare

            home = self.workbench.home
            self.jobs.start(f"Preparing {config.data.corpus}", lambda: prepare(config, home))

    def _download(self, answer: str | None) -> None:
        if answer and self.entry is not None and self.entry.kind == "added":
            self._download_address(self.entry.corpus)
        elif answer and self.entry is not None:
            from llm.data.text.datasets import find_dataset
            from llm.data.text.download import download

            dataset, home = find_dataset(self.entry.name), self.workbench.home
            self.jobs.start(f"Downloading {dataset.name}", lambda: download(dataset, home))

    def action_cancel(self) -> None:
        """Cancel preparing or downloading."""
        self.jobs.cancel()

    def on_job_line_ended(self, message: JobLine.Ended) -> None:
        self.reload(entry_key(message.result) or self.current)
        if isinstance(message.result, FieldNeeded):
            self.on_data_screen_field_requested(self.FieldRequested(message.result.path, message.result))

    # --- using it in a preset

    def action_use(self) -> None:
        """Use the selected corpus in the selected preset."""
        if self.entry is not None:
            self.workbench.open_presets(self.entry)


def entry_key(result: Any) -> str:
    """The key of the entry that a job created: prepared data, or an added text."""
    if isinstance(result, Entry):
        return result.key
    path = getattr(result, "path", None)
    return f"prepared {path.name}" if path else ""
