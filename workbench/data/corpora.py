"""What there is to learn from: embedded corpora, a person's own files, named data sets, and prepared token files.

Listing reads small JSON files only. Looking into one (`preview`, `open_prepared`, `most_used`) reads text or tokens,
and is not for the screen's own thread.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm.config import DataConfig, RunConfig, defaults_of_0_1_0, from_mapping
from llm.data.text.urls import is_address, web_address
from llm.errors import UserError
from llm.events import Progress
from llm.files import directory_size, read_json, remove_directory, write_json
from llm.reader import WRONG_SHAPE, load_json
from workbench.data.fields import FieldNeeded, text_field_of
from workbench.data.pasted import pasted_path

if TYPE_CHECKING:
    from llm.data.text.corpora import Corpus
    from llm.data.tokens.dataset import Dataset

ADDED = "corpora.json"
EMBEDDED = {
    "stories": "short stories in simple English and questions about them, made here to any size",
    "pylib": "source and documentation of the Python that runs this program",
}
PREVIEW_CHARACTERS = 3000
PREVIEW_DOCUMENTS = 8
PREVIEW_TOKENS = 600
COUNTED_TOKENS = 1 << 26
COUNTED_AT_ONCE = 1 << 22

Kind = Literal["embedded", "added", "named", "prepared"]


@dataclass(frozen=True)
class Entry:
    """One thing to learn from. `corpus` is what `data.corpus` calls it, "" where it cannot be trained on. A prepared
    one has the `folder` of its token files, and `record`, what its index says. `here`: nothing needs downloading."""

    kind: Kind
    name: str
    about: str
    corpus: str = ""
    validation: str = ""
    text_field: str = "text"
    here: bool = True
    problem: str = ""
    folder: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Sides:
    """Sizes of a prepared data set, both sides together, and the share of the text that is held out."""

    tokens: int
    text_bytes: int
    held_out_share: float

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / self.tokens if self.tokens else 0.0


def list_corpora(home: Path) -> list[Entry]:
    """Everything known here, in the order it is shown."""
    embedded = [Entry("embedded", name, about, corpus=name) for name, about in EMBEDDED.items()]
    return [*embedded, *added_corpora(home), *named_datasets(home), *prepared_datasets(home)]


def added_corpora(home: Path) -> Iterator[Entry]:
    """The texts that a person has added to the list, and those that were downloaded from an address elsewhere."""
    from llm.data.text.datasets import from_addresses

    records = read_added(home)
    listed = {record["path"] for record in records}
    records += [{"path": url, "text_field": "text"} for url, _ in from_addresses(home) if url not in listed]
    for record in records:
        yield added_entry(home, record["path"], record["text_field"])


def added_entry(home: Path, path: str, text_field: str) -> Entry:
    """A text of one's own, or the copy of what lies at a web address."""
    entry = Entry("added", path, "your text", corpus=path, text_field=text_field)
    if not is_address(path):
        return entry
    from llm.data.text.datasets import find_dataset, present
    from workbench.formatting import format_size

    try:
        found = present(find_dataset(path), home)
    except UserError as error:
        return replace(entry, here=False, problem=str(error))
    if found is None:
        return replace(entry, here=False, about="from the web, not here any more")
    return replace(entry, about=f"from the web, {format_size(found.size_bytes)} here")


def named_datasets(home: Path) -> Iterator[Entry]:
    """The data sets that can be downloaded, and whether they are here."""
    from llm.data.text.datasets import CATALOGUE, present
    from workbench.formatting import format_size

    for dataset in CATALOGUE:
        corpus = dataset.name if dataset.train else ""
        entry = Entry("named", dataset.name, dataset.about, corpus=corpus, here=False)
        entry = replace(entry, validation=dataset.name if dataset.validation else "")
        try:
            found = present(dataset, home)
        except UserError as error:
            yield replace(entry, problem=str(error))
            continue
        if found is not None:
            yield replace(
                entry, here=True, about=f"{dataset.about}; {format_size(found.size_bytes)} here", folder=found.folder
            )
        else:
            wanted = dataset.files[:1] if dataset.sharded else dataset.files
            about = f"{dataset.about}; not here, {format_size(sum(file.size_bytes for file in wanted))} to download"
            yield replace(entry, about=about)


def caution(entry: Entry) -> str:
    """A sentence to read before `entry` is downloaded, or ""."""
    from llm.data.text.datasets import find_dataset

    try:
        return find_dataset(entry.corpus or entry.name).caution
    except UserError:
        return ""  # an address that is none: downloading says so


def prepared_datasets(home: Path) -> Iterator[Entry]:
    """The token files in `<home>/data`, as their indexes describe them."""
    for index in sorted((home / "data").glob("*/dataset.json")):
        try:
            record = load_json(index)
            corpus = str(record["corpus"])
            sides(record)
        except (OSError, *WRONG_SHAPE) as error:
            problem = f"{index} is damaged ({error}); delete that folder and it is made again."
            yield Entry("prepared", index.parent.name, "damaged", problem=problem, folder=index.parent)
            continue
        about = f"tokens of {corpus}"
        yield Entry("prepared", index.parent.name, about, corpus=corpus, folder=index.parent, record=record)


def sides(record: Mapping[str, Any]) -> Sides:
    """The sizes in the index of a prepared data set."""
    train, held_out = record["splits"]["train"], record["splits"]["validation"]
    text_bytes = int(train["bytes"]) + int(held_out["bytes"])
    tokens = int(train["tokens"]) + int(held_out["tokens"])
    return Sides(tokens, text_bytes, int(held_out["tokens"]) / tokens if tokens else 0.0)


# --- a person's own files


def read_added(home: Path) -> list[dict[str, str]]:
    """The list as it is kept; UserError where it is damaged."""
    path = home / ADDED
    if not path.exists():
        return []
    records = read_json(path)
    fit = isinstance(records, list) and all(
        isinstance(record, dict) and isinstance(record.get("path"), str) and isinstance(record.get("text_field"), str)
        for record in records
    )
    if not fit:
        raise UserError(f"{path} is not a list of corpora; mend it, or delete it and add them again.")
    return list(records)


def path_problem(text: str) -> str:
    """What is wrong with a path or an address while it is typed, or "". Looks at one folder at most, so that no key
    waits for it."""
    text = pasted_path(text)
    if is_address(text):
        try:
            web_address(text)
        except UserError as error:
            return str(error)
        return ""
    path = Path(text).expanduser()
    if path.exists():
        return ""
    named = next((place for place, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    if named is None:
        return "there is no such file or folder"
    folder = Path(*path.parts[:named]) if named else Path()
    return "" if folder.is_dir() else f"there is no folder {folder}"


def add_corpus(home: Path, text: str, text_field: str = "") -> Entry:
    """Put a file, folder, glob or web address on the list, its text in the field `text_field` where it is rows.

    Raises FieldNeeded where no field is named and which holds the text cannot be told; UserError where there is no text
    in it, or where what lies at the address was not downloaded. Looks at every file it means.
    """
    from llm.data.text.datasets import located

    text = pasted_path(text)
    path = web_address(text) if is_address(text) else str(Path(text).expanduser().absolute())
    here = located(DataConfig(corpus=path), home)
    field = text_field or text_field_of(path, here.corpus)
    check_corpus(replace(RunConfig(), data=replace(here, text_field=field)), home)
    records = [record for record in read_added(home) if record["path"] != path]
    write_json(home / ADDED, [*records, {"path": path, "text_field": field}])
    return added_entry(home, path, field)


def download_corpus(home: Path, address: str) -> Generator[Progress, None, Entry | FieldNeeded]:
    """Fetch what lies at a web address and put it on the list; returns FieldNeeded where it has to be added again with
    a field named. UserError where it cannot be had, or holds no text."""
    from llm.data.text.datasets import find_dataset
    from llm.data.text.download import download

    yield from download(find_dataset(address), home)
    yield Progress(stage="Looking at the text", done=0, total=0)
    try:
        return add_corpus(home, address)
    except FieldNeeded as needed:
        return needed


def forget_corpus(home: Path, path: str) -> None:
    """Take a text off the list. One's own files stay; the copy of what lies at a web address is deleted."""
    from llm.data.text.datasets import dataset_folder, find_dataset

    write_json(home / ADDED, [record for record in read_added(home) if record["path"] != path])
    if is_address(path):
        folder = dataset_folder(find_dataset(path), home)
        if folder.exists():
            remove_directory(folder)


def check_corpus(config: RunConfig, home: Path) -> None:
    """UserError unless the corpus has a first document, or is token files."""
    from llm.data.text.corpora import check_text, open_corpus
    from llm.data.tokens.token_paths import is_token_corpus

    if not is_token_corpus(config.data, trains_tokenizer=True):
        check_text(open_corpus(config.data, home))


# --- looking into one


def config_of(entry: Entry, base: RunConfig) -> RunConfig:
    """`base` made to learn from `entry`. A prepared one brings all that decided its tokens, where that is recorded."""
    from llm.data.tokens.fingerprint import DATA_SETTINGS

    made_with = entry.record.get("made_with")
    if made_with is not None:
        data = {name: value for name, value in made_with["data"].items() if name in DATA_SETTINGS}
        base = replace(base, tokenizer=defaults_of_0_1_0().tokenizer)
        return from_mapping({"data": data, "tokenizer": made_with["tokenizer"]}, base)
    data = {
        "corpus": entry.corpus,
        "validation": entry.validation,
        "format": "auto",
        "text_field": entry.text_field,
    }
    return from_mapping({"data": data}, base)


def preview(entry: Entry, home: Path) -> tuple[str, list[str]]:
    """The beginning of the text, documents set apart by an empty line, and sentences about what was found amiss: what
    was passed over, and why. UserError where it cannot be read."""
    from llm.data.text.corpora import open_corpus
    from llm.data.text.datasets import located
    from llm.data.tokens.token_paths import is_token_corpus

    data = located(config_of(entry, RunConfig()).data, home)
    if is_token_corpus(data, trains_tokenizer=True):
        return "(token files: they hold ids, and no text)", []
    corpus = open_corpus(data, home, "<|endoftext|>")
    beginning = "\n\n".join(text.strip("\n") for text in first_texts(corpus))
    return beginning[:PREVIEW_CHARACTERS], corpus.warnings()


def first_texts(corpus: Corpus) -> list[str]:
    """How the first documents begin. No file is open any more, and what was found amiss in them is known."""
    texts: list[str] = []
    for document in corpus.documents():
        texts.append(next(iter(document.pieces), "")[:PREVIEW_CHARACTERS])
        if len(texts) == PREVIEW_DOCUMENTS or sum(map(len, texts)) >= PREVIEW_CHARACTERS:
            break
    return texts


@dataclass(frozen=True)
class Looked:
    """What was found in a prepared data set: the ids it begins with, how often its ids occur (most and least frequent
    ones as (id, count)), how many tokens that was counted in, how many ids never occur, and its size on disk."""

    dataset: Dataset
    beginning: list[int]
    most: list[tuple[int, int]]
    least: list[tuple[int, int]]
    counted: int
    unused: int
    size_bytes: int


def look_into(folder: Path, how_many: int = 24) -> Looked:
    """Open a prepared data set and count its training tokens. UserError where it is damaged."""
    import numpy as np

    from llm.data.tokens.dataset import load_dataset

    dataset = load_dataset(folder)
    counted = min(len(dataset.train), COUNTED_TOKENS)
    counts = np.zeros(dataset.tokenizer.vocab_size, np.int64)
    for start in range(0, counted, COUNTED_AT_ONCE):
        ids = dataset.train.read(start, min(start + COUNTED_AT_ONCE, counted))
        counts += np.bincount(ids, minlength=len(counts))
    used = np.flatnonzero(counts)
    order = used[np.argsort(-counts[used], kind="stable")]
    pairs = [(int(token), int(counts[token])) for token in order]
    beginning = dataset.train.read(0, min(PREVIEW_TOKENS, len(dataset.train))).tolist()
    return Looked(
        dataset=dataset,
        beginning=beginning,
        most=pairs[:how_many],
        least=pairs[: -how_many - 1 : -1],
        counted=counted,
        unused=len(counts) - len(used),
        size_bytes=directory_size(folder),
    )
