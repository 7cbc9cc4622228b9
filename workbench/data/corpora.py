"""The corpora of the Data screen: built-in texts, files of the user, named datasets, and prepared token files.

Listing reads small JSON files only. `preview` and `inspect_dataset` read text or tokens: for a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm.config import DataConfig, RunConfig, defaults_of_0_1_0, from_mapping
from llm.data.text.urls import is_url, normalize_url
from llm.errors import UserError, problem_of, reason_of
from llm.events import Progress
from llm.files import expand_user, read_json, remove_directory, write_json
from llm.reader import WRONG_SHAPE, load_json
from workbench.data.fields import FieldNeeded, text_field_of
from workbench.data.index import check_index
from workbench.data.pasted import pasted_path
from workbench.data.prepared_data import Inspection, inspect_dataset

if TYPE_CHECKING:
    from llm.data.text.corpora import Corpus
    from llm.data.tokens.conversation_source import Row

ADDED = "corpora.json"
BUILT_IN = {
    "stories": "short stories in simple English with questions, generated to any size",
    "pylib": "source and documentation of the installed Python",
    "dialogues": "questions about short scenes, sums and facts with their answers, generated to any size",
}
BUILT_IN_SHAPES = {"dialogues": "messages"}
PREFERENCE = "preference"
"""The shape of the rows that dpo reads; all others are for sft."""
PREVIEW_MB = 0.1
PREVIEW_CHARACTERS = 3000
PREVIEW_DOCUMENTS = 8
MAX_READ_BYTES = 32 << 20
"""A larger file of conversations is not read to its end for a preview."""

Kind = Literal["built-in", "added", "named", "prepared"]


@dataclass(frozen=True)
class Entry:
    """One row of the list. `corpus` is its value for `data.corpus`, "" if it is for evaluation only. Prepared data has
    the `folder` of its token files, and its index as `record`. `here`: nothing needs to be downloaded. `shape` is that
    of conversations, "" for text."""

    kind: Kind
    name: str
    about: str
    corpus: str = ""
    validation: str = ""
    text_field: str = "text"
    shape: str = ""
    here: bool = True
    problem: str = ""
    folder: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind} {self.name}"


def list_corpora(home: Path) -> list[Entry]:
    """Every entry, in the order it is shown."""
    built_in = [
        Entry("built-in", name, about, corpus=name, shape=BUILT_IN_SHAPES.get(name, ""))
        for name, about in BUILT_IN.items()
    ]
    return [*built_in, *added_corpora(home), *named_datasets(home), *prepared_datasets(home)]


def added_corpora(home: Path) -> Iterator[Entry]:
    """The texts that the user has added, and those downloaded from a web address by a run."""
    from llm.data.text.datasets import downloaded_urls

    records = read_added(home)
    listed = {record["path"] for record in records}
    records += [{"path": url, "text_field": "text"} for url, _ in downloaded_urls(home) if url not in listed]
    for record in records:
        yield added_entry(home, record["path"], record["text_field"], record.get("shape", ""))


def added_entry(home: Path, path: str, text_field: str, shape: str = "") -> Entry:
    """A text or conversations of the user, or a downloaded web address."""
    about = f"your {rows_called(shape)}" if shape else "your text"
    about += f" ({shape})" if shape not in ("", PREFERENCE) else ""
    entry = Entry("added", path, about, corpus=path, text_field=text_field, shape=shape)
    if not is_url(path):
        return entry
    from llm.data.text.datasets import find_dataset, local_copy
    from workbench.formatting import format_size

    try:
        found = local_copy(find_dataset(path), home)
    except UserError as error:
        return replace(entry, here=False, problem=str(error))
    if found is None:
        return replace(entry, here=False, about="from the web, no longer downloaded")
    return replace(entry, about=f"from the web, {format_size(found.size_bytes)} downloaded")


def named_datasets(home: Path) -> Iterator[Entry]:
    """The named datasets, downloaded or not."""
    from llm.data.text.datasets import CATALOG, local_copy
    from workbench.formatting import format_size

    for dataset in CATALOG:
        corpus = dataset.name if dataset.train else ""
        entry = Entry("named", dataset.name, dataset.about, corpus=corpus, here=False)
        entry = replace(entry, validation=dataset.name if dataset.validation else "")
        try:
            found = local_copy(dataset, home)
        except UserError as error:
            yield replace(entry, problem=str(error))
            continue
        if found is not None:
            yield replace(
                entry,
                here=True,
                about=f"{dataset.about}; {format_size(found.size_bytes)} downloaded",
                folder=found.folder,
            )
        else:
            files = dataset.files[:1] if dataset.sharded else dataset.files
            about = f"{dataset.about}; not downloaded, {format_size(sum(file.size_bytes for file in files))}"
            yield replace(entry, about=about)


def caution(entry: Entry) -> str:
    """A warning to show before `entry` is downloaded, or ""."""
    from llm.data.text.datasets import find_dataset

    try:
        return find_dataset(entry.corpus or entry.name).caution
    except UserError:
        return ""  # an invalid address: the download reports it


def prepared_datasets(home: Path) -> Iterator[Entry]:
    """The prepared datasets in `<home>/data`, from their indexes."""
    for index in sorted((home / "data").glob("*/dataset.json")):
        try:
            record = load_json(index)
            corpus = str(record["corpus"])
            check_index(record)
        except (OSError, *WRONG_SHAPE) as error:
            problem = f"{index} is damaged ({error}); delete that folder to prepare it again."
            yield Entry("prepared", index.parent.name, "damaged", problem=problem, folder=index.parent)
            continue
        about = f"tokens of {corpus}"
        yield Entry("prepared", index.parent.name, about, corpus=corpus, folder=index.parent, record=record)


# --- files of the user


def read_added(home: Path) -> list[dict[str, str]]:
    """The added corpora. Raises UserError if their file is damaged."""
    path = home / ADDED
    if not path.exists():
        return []
    records = read_json(path)
    is_valid = isinstance(records, list) and all(
        isinstance(record, dict)
        and all(isinstance(record.get(name, ""), str) for name in ("path", "text_field", "shape"))
        for record in records
    )
    is_valid = is_valid and all({"path", "text_field"} <= record.keys() for record in records)
    if not is_valid:
        raise UserError(f"{path} is not a list of corpora; correct it, or delete it and add them again.")
    return list(records)


def path_problem(text: str) -> str:
    """What is wrong with a typed path or address, or "". Accesses at most one folder, so that typing stays fast."""
    text = pasted_path(text)
    if is_url(text):
        return problem_of(lambda: normalize_url(text))
    path = expand_user(text)
    try:
        return missing_part(path)
    except OSError as error:  # such as a name that is too long
        return reason_of(error).lower()


def missing_part(path: Path) -> str:
    """What does not exist of a path or glob, or ""."""
    if path.exists():
        return ""
    named = next((place for place, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    if named is None:
        return "no such file or folder"
    folder = Path(*path.parts[:named]) if named else Path()
    return "" if folder.is_dir() else f"no such folder: {folder}"


def add_corpus(home: Path, text: str, text_field: str = "") -> Entry:
    """Add a file, folder, glob or web address to the list. `text_field` is the field of its rows with the text.

    Raises FieldNeeded if no field is given and the text could be in several; UserError if it contains no text, or if
    the address was not downloaded. Opens every file of a folder or glob.
    """
    from llm.data.text.datasets import resolve_names

    text = pasted_path(text)
    path = normalize_url(text) if is_url(text) else str(expand_user(text).absolute())
    here = resolve_names(DataConfig(corpus=path), home)
    shape = "" if text_field else shape_of_files(here.corpus)
    field = text_field or ("text" if shape else text_field_of(path, here.corpus))
    if shape:
        read_conversations(here.corpus, home, shape)
    else:
        check_corpus(replace(RunConfig(), data=replace(here, text_field=field)), home)
    records = [record for record in read_added(home) if record["path"] != path]
    described = {"path": path, "text_field": field} | ({"shape": shape} if shape else {})
    write_json(home / ADDED, [*records, described])
    return added_entry(home, path, field, shape)


def shape_of_files(pattern: str) -> str:
    """The shape of the conversations in the files of `pattern`; "" if the first file is text."""
    from llm.data.text.conversation_files import conversation_shape
    from llm.data.text.find_files import find_files

    paths = find_files(pattern)
    return conversation_shape(paths[0]) if paths else ""


def stage_of(shape: str) -> str:
    """The stage of training that reads rows of a shape."""
    return {"": "pretrain", PREFERENCE: "dpo"}.get(shape, "sft")


def rows_called(shape: str) -> str:
    return "preferences" if shape == PREFERENCE else "conversations"


def read_conversations(corpus: str, home: Path, shape: str) -> tuple[str, list[str]]:
    """The first conversations or preferences of a corpus as text, and warnings about skipped rows (of all rows in files
    up to MAX_READ_BYTES). UserError if there is none."""
    from llm.data.tokens.conversation_source import open_conversations

    found = open_conversations(DataConfig(corpus=corpus, size_mb=PREVIEW_MB), home, stage_of(shape))
    shown: list[str] = []
    count = 0
    for row in found.rows():
        count += 1
        if count <= PREVIEW_DOCUMENTS:
            shown.append("\n".join(lines_of_row(row)))
        elif found.size_bytes > MAX_READ_BYTES:
            break
    total = "" if found.size_bytes > MAX_READ_BYTES else f"{count:,} {rows_called(shape)}\n\n"
    return (total + "\n\n".join(shown))[:PREVIEW_CHARACTERS], found.warnings()


def lines_of_row(row: Row) -> list[str]:
    """A line for each message; of a preference, the common ones and then both answers."""
    from llm.data.text.conversations import Preference

    if isinstance(row, Preference):
        *common, chosen = row.chosen
        answers = [f"chosen: {chosen.content}", f"rejected: {row.rejected[-1].content}"]
        return [*(f"{message.role}: {message.content}" for message in common), *answers]
    return [f"{message.role}: {message.content}" for message in row]


def download_corpus(home: Path, address: str) -> Generator[Progress, None, Entry | FieldNeeded]:
    """Download a web address and add it to the list. Returns FieldNeeded if it must be added again with a field.

    Raises UserError if the download fails, or contains no text.
    """
    from llm.data.text.datasets import find_dataset
    from llm.data.text.download import download

    yield from download(find_dataset(address), home)
    yield Progress(stage="Checking the text", done=0, total=0)
    try:
        return add_corpus(home, address)
    except FieldNeeded as needed:
        return needed


def remove_corpus(home: Path, path: str) -> None:
    """Remove a text from the list. Files of the user stay; a downloaded copy is deleted."""
    from llm.data.text.datasets import dataset_folder, find_dataset

    write_json(home / ADDED, [record for record in read_added(home) if record["path"] != path])
    if is_url(path):
        folder = dataset_folder(find_dataset(path), home)
        if folder.exists():
            remove_directory(folder)


def check_corpus(config: RunConfig, home: Path) -> None:
    """Raise UserError unless the corpus is token files, or has at least one document."""
    from llm.data.text.corpora import check_text, open_corpus
    from llm.data.tokens.token_paths import is_token_corpus

    if not is_token_corpus(config.data, trains_tokenizer=True):
        check_text(open_corpus(config.data, home))


# --- contents of a corpus


def config_with(entry: Entry, base: RunConfig) -> RunConfig:
    """`base` with `entry` as its corpus. A prepared dataset also sets the recorded tokenizer and data fields."""
    from llm.data.tokens.fingerprint import DATA_SETTINGS

    made_with = entry.record.get("made_with")
    if made_with is not None:
        data = {name: value for name, value in made_with["data"].items() if name in DATA_SETTINGS}
        base = replace(base, tokenizer=defaults_of_0_1_0().tokenizer)
        tune = {"stage": made_with.get("stage", "pretrain")}
        return from_mapping({"data": data, "tokenizer": made_with["tokenizer"], "tune": tune}, base)
    data = {
        "corpus": entry.corpus,
        "validation": entry.validation,
        "format": "auto",
        "text_field": entry.text_field,
    }
    return from_mapping({"data": data, "tune": {"stage": stage_of(entry.shape)}}, base)


def preview(entry: Entry, home: Path) -> tuple[str, list[str]]:
    """The beginning of the text, documents separated by an empty line, and warnings about skipped parts. Raises
    UserError if it cannot be read."""
    from llm.data.text.corpora import open_corpus
    from llm.data.text.datasets import resolve_names
    from llm.data.tokens.token_paths import is_token_corpus

    data = resolve_names(config_with(entry, RunConfig()).data, home)
    if entry.shape:
        return read_conversations(data.corpus, home, entry.shape)
    if is_token_corpus(data, trains_tokenizer=True):
        return "(token files: ids without text)", []
    corpus = open_corpus(data, home, "<|endoftext|>")
    beginning = "\n\n".join(text.strip("\n") for text in first_texts(corpus))
    return beginning[:PREVIEW_CHARACTERS], corpus.warnings()


def first_texts(corpus: Corpus) -> list[str]:
    """The beginnings of the first documents."""
    texts: list[str] = []
    for document in corpus.documents():
        texts.append(next(iter(document.pieces), "")[:PREVIEW_CHARACTERS])
        if len(texts) == PREVIEW_DOCUMENTS or sum(map(len, texts)) >= PREVIEW_CHARACTERS:
            break
    return texts


@dataclass(frozen=True)
class Contents:
    """The contents of an entry: the beginning of its text with warnings, an inspection of prepared data, or why neither
    can be read."""

    text: str = ""
    warnings: tuple[str, ...] = ()
    inspection: Inspection | None = None
    problem: str = ""


def read_contents(entry: Entry, home: Path) -> Contents:
    """Read the beginning of a text, or count the tokens of prepared data; for a thread."""
    try:
        if entry.kind == "prepared" and entry.folder is not None and not entry.problem:
            return Contents(inspection=inspect_dataset(entry.folder))
        if entry.corpus and entry.here:
            text, warnings = preview(entry, home)
            return Contents(text, tuple(warnings))
    except (UserError, OSError) as error:
        return Contents(problem=str(error))
    return Contents()
