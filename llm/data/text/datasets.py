"""Downloadable datasets, by name or URL: their sources, and their local copies in `<home>/datasets/`.

A name or a URL in `data.corpus` means the local copy, or an error with the command that downloads it; only `hf:` names
are downloaded by training itself (`hub.download_named_in`). `download.download(find_dataset(NAME_OR_URL), home)` makes
the copy.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.config.schema import DataConfig
from llm.data.text.hub import is_hub, saved_hub_dataset
from llm.data.text.text_files import MissingText
from llm.data.text.urls import file_name, is_url, normalize_url, short_digest
from llm.errors import UserError, WrongUse
from llm.files import read_json, write_json
from llm.names import did_you_mean

RECORD = ".download.json"  # hidden, so that it is not part of the corpus
HUGGING_FACE = "https://huggingface.co/datasets"


@dataclass(frozen=True)
class RemoteFile:
    """One file to download. `size_bytes` is an estimate (0: unknown). With `sha256` "" (unknown), the checksum of the
    first download is recorded, and later downloads must match it."""

    name: str
    url: str
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class NamedDataset:
    """A dataset to download. With `sharded`, the user chooses how many of `files`, one by default. `train` and
    `validation` are the paths inside its folder for `data.corpus` and `data.validation`, "" if there is none. With
    `unpacked_bytes` above 0, the file is a zip archive to unpack."""

    name: str
    about: str
    files: tuple[RemoteFile, ...]
    train: str = ""
    validation: str = ""
    sharded: bool = False
    unpacked_bytes: int = 0

    @property
    def caution(self) -> str:
        """A warning before the download, "" if every checksum is known."""
        if all(file.sha256 for file in self.files):
            return ""
        return "Its checksum is not known in advance: that of the first download is recorded and compared from then on."


CATALOG = (
    NamedDataset(
        "tinyshakespeare",
        "forty thousand lines of Shakespeare in one text file, as in char-rnn and nanoGPT",
        (
            RemoteFile(
                "input.txt",
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                1_115_394,
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
        train="input.txt",
    ),
    NamedDataset(
        "tinystories",
        "2.7 million short stories in simple English written by GPT-4, with a validation file",
        (
            RemoteFile(
                "TinyStoriesV2-GPT4-train.txt",
                f"{HUGGING_FACE}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
                2_227_753_162,
                "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
            ),
            RemoteFile(
                "TinyStoriesV2-GPT4-valid.txt",
                f"{HUGGING_FACE}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt",
                22_502_601,
                "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
            ),
        ),
        train="TinyStoriesV2-GPT4-train.txt",
        validation="TinyStoriesV2-GPT4-valid.txt",
    ),
    NamedDataset(
        "fineweb-edu",
        "educational web pages in Parquet shards of about 250 million characters, shuffled; as many as you ask for",
        tuple(
            RemoteFile(
                f"shard_{number:05d}.parquet",
                f"{HUGGING_FACE}/karpathy/fineweb-edu-100b-shuffle/resolve/main/shard_{number:05d}.parquet",
                100_000_000,
            )
            for number in range(1823)
        ),
        train=".",
        sharded=True,
    ),
    NamedDataset(
        "core",
        "the tasks of the CORE metric (evaluate.core_every, eval --core)",
        (
            RemoteFile(
                "eval_bundle.zip", "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", 26_000_000
            ),
        ),
        unpacked_bytes=165_000_000,
    ),
)


@dataclass(frozen=True)
class LocalCopy:
    """The local copy of a dataset: path inside `folder` → {"size": bytes, "sha256": hexadecimal}."""

    folder: Path
    files: dict[str, dict[str, Any]]

    @property
    def size_bytes(self) -> int:
        return sum(int(entry["size"]) for entry in self.files.values())


def find_dataset(name: str) -> NamedDataset:
    """The dataset of that name, or the file at that URL; WrongUse if there is none."""
    if is_url(name):
        return url_dataset(name)
    names = [dataset.name for dataset in CATALOG]
    if name not in names:
        advice = did_you_mean(name, names) or f"the names are {', '.join(names)}."
        raise WrongUse(f'There is no dataset "{name}" to download; {advice}')
    return CATALOG[names.index(name)]


def url_dataset(text: str) -> NamedDataset:
    """The file at a URL as a dataset; WrongUse if it is not a valid URL."""
    url = normalize_url(text)
    stem, suffix = file_name(url)
    file = RemoteFile(stem + suffix, url, 0)
    return NamedDataset(f"{stem}-{short_digest(url)}", f"the file at {url}", (file,), train=file.name)


def downloaded_urls(home: Path) -> Iterator[tuple[str, LocalCopy]]:
    """The datasets downloaded from URLs: each URL, as `data.corpus` takes it, and the local copy."""
    for path in sorted((home / "datasets").glob(f"*/{RECORD}")):
        try:
            sources = list(read_json(path)["sources"].values())
            url = str(sources[0]["url"])
            dataset = url_dataset(url)
            here = local_copy(dataset, home)
        except (UserError, KeyError, TypeError, AttributeError, IndexError):
            continue  # a damaged record: the URL is unknown and the download starts over
        if here is not None and here.folder == path.parent:
            yield url, here


def dataset_folder(dataset: NamedDataset, home: Path) -> Path:
    return home / "datasets" / dataset.name


def read_record(dataset: NamedDataset, home: Path) -> dict[str, Any]:
    """The record of downloads: "files" as in `LocalCopy`, and "sources", remote file name → {"url", "sha256"}."""
    path = dataset_folder(dataset, home) / RECORD
    if not path.exists():
        return {"files": {}, "sources": {}}
    record = read_json(path)
    if not is_record(record):
        raise UserError(f"{path} is damaged; delete {path.parent} and download the dataset again.")
    return dict(record)


def is_record(record: Any) -> bool:
    """Whether a value has the shape that `write_record` writes."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("files", "sources")):
        return False
    files, sources = record["files"], record["sources"]
    return all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        for entry in (*files.values(), *sources.values())
    ) and all(
        type(entry.get("size")) is int and not Path(name).is_absolute() and ".." not in Path(name).parts
        for name, entry in files.items()
    )


def write_record(dataset: NamedDataset, home: Path, record: dict[str, Any]) -> None:
    write_json(dataset_folder(dataset, home) / RECORD, record)


def local_copy(dataset: NamedDataset, home: Path) -> LocalCopy | None:
    """The local copy of a dataset, checked by file sizes; None if it is missing or incomplete."""
    record, folder = read_record(dataset, home), dataset_folder(dataset, home)
    fetched = [file.name in record["sources"] for file in dataset.files]
    if not (any(fetched) if dataset.sharded else all(fetched)):
        return None
    complete = all(has_size(folder / name, entry["size"]) for name, entry in record["files"].items())
    return LocalCopy(folder, record["files"]) if complete else None


def has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size_bytes
    except OSError:  # such as a name that is too long
        return False


def resolve_names(data: DataConfig, home: Path) -> DataConfig:
    """`data` with names and URLs in `corpus` and `validation` replaced by the paths of the local copies.

    A dataset with validation text sets `validation` too if that is empty. UserError with the download command if a
    dataset is not downloaded. ./NAME means a file of that name.
    """
    has_validation = any(dataset.validation for dataset in CATALOG if dataset.name == data.corpus)
    validation = data.validation or (data.corpus if has_validation else "")
    return replace(
        data,
        corpus=resolve_path(data.corpus, "train", home),
        validation=resolve_path(validation, "validation", home),
    )


def resolve_path(text: str, part: str, home: Path) -> str:
    """The path of one part ("train" or "validation") of the dataset named `text`; `text` itself if it names none.

    The file at a URL is both parts, and so is a dataset of the hub.
    """
    if is_hub(text):
        return str(saved_hub_dataset(text, home))
    named = next((dataset for dataset in CATALOG if dataset.name == text), None)
    dataset = url_dataset(text) if is_url(text) else named
    if dataset is None or not dataset.train:
        return text
    inside: str = getattr(dataset, part) if dataset is named else dataset.train
    if not inside:
        raise UserError(
            f"The dataset {text} has no {part} text; leave data.{part} empty to split off a share of the corpus."
        )
    here = local_copy(dataset, home)
    if here is None:
        raise MissingText(
            f"{text if is_url(text) else f'The dataset {text}'} is not downloaded; run: llm-workbench data "
            f"download {shlex.quote(text)} (or, offline, use --data.corpus stories, pylib, or a local file)."
        )
    return str(here.folder / inside)
