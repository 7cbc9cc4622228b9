"""Corpora and tokenizers: what there is to learn from, what it becomes, and any text as tokens."""

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
from llm.data.text.urls import is_address
from llm.errors import UserError
from workbench.data.corpora import (
    Entry,
    Looked,
    add_corpus,
    caution,
    config_of,
    download_corpus,
    forget_corpus,
    list_corpora,
    look_into,
    path_problem,
    preview,
)
from workbench.data.corpus_page import corpus_page
from workbench.data.field_dialog import CHOSEN, AskField
from workbench.data.fields import FieldNeeded
from workbench.data.jobs import DataJob, Work
from workbench.data.pasted import pasted_path
from workbench.data.prepare_dialog import PrepareDialog
from workbench.data.token_preview import TokenTrial
from workbench.formatting import format_duration
from workbench.text import clean, one_line
from workbench.train.narration import preparation
from workbench.train.panels import bar
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.lists import BESIDE, ChoiceList
from workbench.ui.screen import WorkbenchScreen

GROUPS = {"embedded": "comes along", "added": "yours", "named": "data sets by name", "prepared": "prepared tokens"}
LOOK_AFTER_SECONDS = 0.2
JOB_SECONDS = 0.25
KEPT = {"downloading": "; what has come is kept, and the next try goes on from there"}


class CorpusList(ChoiceList):
    """The list of corpora."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Prepare", id="data.prepare", key_display="⏎"),
    ]


class DataScreen(WorkbenchScreen):
    """The list of corpora on the left; on the right, what the marked one holds, and any text as tokens."""

    GUIDE = (
        "What there is to learn from. Enter prepares the marked text (trains a tokenizer and writes token files) or "
        "downloads a data set; u takes it to the presets. a adds a file, a folder, a glob or a web address. t types a "
        "text and shows its tokens, those of the prepared data marked last; i shows their ids."
    )
    GUIDES: ClassVar[dict[str, str]] = {
        "corpus-list": "All that can be learnt from; ↓ marks what has to be downloaded first.",
        "corpus-page": "What the marked text holds, or what its tokens are. The arrows scroll.",
        "try-text": "Any text, and below it the tokens it becomes. F2 shows their ids, Esc goes back to the list.",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "add", "Add", id="data.add"),
        Binding("u", "use", "Use", id="data.use"),
        Binding("t", "try", "Tokenise", id="data.try"),
        Binding("i,f2", "ids", "Ids", id="data.ids"),
        Binding("d", "forget", "Forget", id="data.forget"),
        Binding("x", "cancel", "Cancel", id="data.cancel"),
        Binding("escape", "back", "To the list", id="data.back", show=False),
    ]

    @dataclass
    class Listed(Message):
        """Somebody looked what there is; `mark` is the key of the entry to mark."""

        entries: list[Entry]
        problem: str
        mark: str

    @dataclass
    class Found(Message):
        """Somebody looked into an entry: its text, or its tokens, or why there are none."""

        key: str
        text: str = ""
        looked: Looked | None = None
        problem: str = ""
        notes: tuple[str, ...] = ()

    @dataclass
    class FieldAsked(Message):
        """Which field of the rows in `path` holds the text has to be chosen."""

        path: str
        needed: FieldNeeded

    @dataclass
    class JobEnded(Message):
        """Preparing or downloading is over; `mark` is the entry to mark then."""

        title: str
        problem: str
        mark: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.entries: dict[str, Entry] = {}
        self.found: dict[str, DataScreen.Found] = {}
        self.current = ""
        self._listing_alone = threading.Lock()
        self.with_ids = False
        self.job: DataJob | None = None
        self._look_later: Timer | None = None

    def body(self) -> ComposeResult:
        with Horizontal(id="data-body"):
            yield CorpusList(id="corpus-list")
            with Vertical(id="corpus-side"):
                with VerticalScroll(id="corpus-page", can_focus=True):
                    yield Static(id="corpus-about", markup=False)
                yield TokenTrial(id="trial")
        yield Static(id="job-line", markup=False)

    def on_mount(self) -> None:
        self.listing.focus()
        self.set_interval(JOB_SECONDS, self._show_job)

    def on_screen_resume(self) -> None:
        self.look_again()

    @property
    def listing(self) -> CorpusList:
        return self.query_one(CorpusList)

    @property
    def entry(self) -> Entry | None:
        """The marked one."""
        return self.entries.get(self.current)

    # --- the list

    @work(thread=True, group="list corpora")
    def look_again(self, mark: str = "") -> None:
        """List everything anew; `mark` is the entry to mark then, else it stays the one it is."""
        with self._listing_alone:  # else a list that was begun earlier could come later, and be taken for the newer
            try:
                self.post_message(self.Listed(list_corpora(self.workbench.home), "", mark))
            except (UserError, OSError) as error:
                self.post_message(self.Listed([], str(error), mark))

    def on_data_screen_listed(self, message: Listed) -> None:
        if message.problem:
            self.notify(clean(message.problem), severity="error", timeout=15, markup=False)
            return
        before = list(self.entries.values())
        if message.entries != before:
            self.found.clear()
            self.entries = {entry.key: entry for entry in message.entries}
            self._fill(message.mark or self.current)
        elif message.mark in self.entries:  # another list had it first
            self.listing.highlighted = self.listing.get_option_index(message.mark)

    def _fill(self, mark: str) -> None:
        options: list[Option] = []
        group = ""
        for entry in self.entries.values():
            if entry.kind != group:
                group = entry.kind
                options.append(Option(Content.styled(GROUPS[group], "bold $text-accent"), disabled=True))
            options.append(Option(self._label(entry), id=entry.key))
        self.listing.set_options(options)
        wanted = mark if mark in self.entries else next(iter(self.entries), "")
        if wanted:
            self.listing.highlighted = self.listing.get_option_index(wanted)

    def _label(self, entry: Entry) -> Content:
        name = entry.name[:8] if entry.kind == "prepared" else entry.name
        about = entry.problem or entry.about
        style = "$text-error" if entry.problem else BESIDE
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
        if self.current not in self.found and self._look_later is None:
            self._look_later = self.set_timer(LOOK_AFTER_SECONDS, self._look)

    def _look(self) -> None:
        self._look_later = None
        if self.entry is not None and self.entry.key not in self.found:
            self._look_into(self.entry)

    @work(thread=True, group="look into corpora")
    def _look_into(self, entry: Entry) -> None:
        """Read the beginning of a text, or count the tokens of a prepared one."""
        found = self.Found(entry.key)
        try:
            if entry.kind == "prepared" and entry.folder is not None and not entry.problem:
                found.looked = look_into(entry.folder)
            elif entry.corpus and entry.here:
                found.text, notes = preview(entry, self.workbench.home)
                found.notes = tuple(notes)
        except (UserError, OSError) as error:
            found.problem = str(error)
        self.post_message(found)

    def on_data_screen_found(self, message: Found) -> None:
        self.found[message.key] = message
        if message.key == self.current:
            self._show()
            if message.looked is not None:
                tokenizer = message.looked.dataset.tokenizer
                self.query_one(TokenTrial).use(tokenizer, f"{tokenizer.kind} of {self.current.partition(' ')[2][:8]}")

    def _show(self) -> None:
        if self.entry is not None:
            found = self.found.get(self.current)
            width = self.query_one("#corpus-page").scrollable_content_region.width
            page = corpus_page(self.entry, found, width, with_ids=self.with_ids, monochrome=self.app.no_color)
            self.query_one("#corpus-about", Static).update(page)

    # --- any text as tokens

    def action_try(self) -> None:
        """Type a text; its tokens are shown beneath."""
        self.query_one(TokenTrial).begin()

    def action_back(self) -> None:
        self.listing.focus()

    def action_ids(self) -> None:
        """Show the ids of tokens, or not."""
        self.with_ids = not self.with_ids
        self._show()
        self.query_one(TokenTrial).show_ids(self.with_ids)

    # --- adding and forgetting

    def action_add(self) -> None:
        """Put text of one's own on the list."""
        question = "A file, a folder, a glob such as ~/notes/**/*.md, JSON, CSV or Parquet files, or a web address:"
        self.app.push_screen(AskText(question, problem_of=path_problem), self._add)

    def _add(self, text: str | None) -> None:
        path = pasted_path(text or "")
        if is_address(path):
            self._fetch(path)
        elif path:
            self._look_and_add(path)

    def _fetch(self, address: str) -> None:
        """Download what lies at a web address, and put it on the list."""
        if self.job is not None and self.job.is_running:
            self.notify(f"{self.job.title} goes on; x cancels it", markup=False)
        else:
            home = self.workbench.home
            self.begin(f"downloading {address}", lambda: download_corpus(home, address))

    @work(thread=True, group="add a corpus")
    def _look_and_add(self, path: str, text_field: str = "") -> None:
        try:
            entry = add_corpus(self.workbench.home, path, text_field)
        except FieldNeeded as needed:
            self.post_message(self.FieldAsked(path, needed))
            return
        except (UserError, OSError) as error:
            self.app.notify(clean(str(error)), severity="error", timeout=15, markup=False)
            return
        if entry.text_field != "text":
            self.app.notify(clean(f"the text is taken from the field {entry.text_field}"), markup=False)
        self.look_again(entry.key)

    def on_data_screen_field_asked(self, message: FieldAsked) -> None:
        """Offer the fields that hold text, each with an example."""
        if not message.needed.fields:
            self.app.notify(clean(str(message.needed)), severity="error", timeout=15, markup=False)
            return

        def add(answer: str | None) -> None:
            if answer:
                self._look_and_add(message.path, answer.removeprefix(CHOSEN))

        self.app.push_screen(AskField(message.needed), add)

    def action_forget(self) -> None:
        """Take a text off the list. One's own files stay; a copy that was downloaded goes, which is asked first."""
        entry = self.entry
        if entry is None:
            return
        if is_address(entry.corpus) and entry.here:
            question = f"The copy that was downloaded goes, too ({entry.about}). {entry.name} can be downloaded again."
            answers = [Answer("", "Keep it"), Answer("yes", "Forget and delete it")]
            self.app.push_screen(Ask(clean(question), answers), lambda yes: self._forget(entry) if yes else None)
        else:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        try:
            forget_corpus(self.workbench.home, entry.corpus)
        except (UserError, OSError) as error:
            self.notify(clean(str(error)), severity="error", markup=False)
        self.look_again()

    # --- preparing and downloading

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the keys that make sense for the marked entry."""
        entry = self.entry
        if action == "forget":
            return entry is not None and entry.kind == "added"
        if action == "use":
            return entry is not None and bool(entry.corpus) and entry.here and not entry.problem
        if action == "cancel":
            return self.job is not None and self.job.is_running
        return True

    @on(OptionList.OptionSelected, "#corpus-list")
    def _selected(self) -> None:
        entry = self.entry
        if entry is None or entry.kind == "prepared":
            self.query_one("#corpus-page").focus()
        elif self.job is not None and self.job.is_running:
            self.notify(f"{self.job.title} goes on; x cancels it", markup=False)
        elif entry.here and entry.corpus:
            self.app.push_screen(PrepareDialog(config_of(entry, RunConfig())), self._prepare)
        elif not entry.here:
            question = f"Download {entry.name}? {entry.about[:1].upper()}{entry.about[1:]}. {caution(entry)}".strip()
            answers = [Answer("", "No"), Answer("yes", "Download it from where it is published")]
            self.app.push_screen(Ask(clean(question), answers), self._download)

    def _prepare(self, config: RunConfig | None) -> None:
        if config is not None:
            from llm.data.tokens.prepare import prepare

            home = self.workbench.home
            self.begin(f"preparing {config.data.corpus}", lambda: prepare(config, home))

    def _download(self, answer: str | None) -> None:
        if answer and self.entry is not None and self.entry.kind == "added":
            self._fetch(self.entry.corpus)
        elif answer and self.entry is not None:
            from llm.data.text.datasets import find_dataset
            from llm.data.text.download import download

            dataset, home = find_dataset(self.entry.name), self.workbench.home
            self.begin(f"downloading {dataset.name}", lambda: download(dataset, home))

    def begin(self, title: str, work: Work) -> None:
        """Start work on data in the background, and show how far it is. Only one runs at a time."""
        marked = self.current

        def on_end(result: Any, problem: str) -> None:
            self.post_message(self.JobEnded(title, problem, key_of(result) or marked))
            if isinstance(result, FieldNeeded):
                self.post_message(self.FieldAsked(result.path, result))

        self.job = DataJob(title, work, on_end)
        self.job.start()
        self.refresh_bindings()
        self._show_job()

    def action_cancel(self) -> None:
        """Give up what is being prepared or downloaded."""
        if self.job is not None:
            self.job.cancel()

    def _show_job(self) -> None:
        line = self.query_one("#job-line", Static)
        if self.job is None or not self.is_current:
            line.display = self.job is not None
            return
        line.display = True
        progress, left = self.job.progress, self.job.seconds_left
        text = "cancelling…" if self.job.cancelled.is_set() else preparation(progress)
        ahead = f", {format_duration(round(left))} left" if left is not None and not progress.rate else ""
        share = progress.done / progress.total if progress.total else 0.0
        line.update(bar(share, clean(f" {text}{ahead}"), line.content_size.width))

    def on_data_screen_job_ended(self, message: JobEnded) -> None:
        self.job = None
        self.query_one("#job-line").display = False
        self.refresh_bindings()
        if message.problem:
            severe = message.problem != "cancelled"
            text = message.problem if severe else f"{message.title}: cancelled{KEPT.get(message.title.split()[0], '')}"
            self.app.notify(clean(text), severity="error" if severe else "information", timeout=15, markup=False)
        else:
            self.app.notify(clean(f"{message.title}: done"), markup=False)
        self.look_again(message.mark)

    # --- training on it

    def action_use(self) -> None:
        """Take the marked corpus to the presets."""
        if self.entry is not None:
            self.workbench.open_presets(self.entry)


def key_of(result: Any) -> str:
    """The key of what a job has made: prepared data, or a text that was put on the list."""
    if isinstance(result, Entry):
        return result.key
    path = getattr(result, "path", None)
    return f"prepared {path.name}" if path else ""
