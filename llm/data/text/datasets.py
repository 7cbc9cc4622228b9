"""Data sets with a name or a web address: where they can be had, and whether they are here, in `<home>/datasets/`.

Nothing is ever downloaded unasked: a name or an address in `data.corpus` means the copy that is here, or an error that
says how to get one. `download.download(find_dataset(NAME_OR_ADDRESS), home)` gets it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.config.schema import DataConfig
from llm.data.text.text_files import MissingText
from llm.data.text.urls import file_name, is_address, short_digest, web_address
from llm.errors import UserError, WrongUse
from llm.files import read_json, write_json
from llm.names import did_you_mean

RECORD = ".download.json"  # hidden, so that a folder of text is not taken to hold it
HUGGING_FACE = "https://huggingface.co/datasets"


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch. `size_bytes` is about right, for estimates only (0: unknown). `sha256` "": not known
    beforehand; that of the first download is recorded, and later ones must match it."""

    name: str
    url: str
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class NamedDataset:
    """`files` are all of it, or with `sharded` as many of them as are asked for, one by default. `train` and
    `validation` are the paths inside its folder that `data.corpus` and `data.validation` mean; "" where there is none.
    `unpacked_bytes` above 0: the file is a zip archive, to be unpacked."""

    name: str
    about: str
    files: tuple[RemoteFile, ...]
    train: str = ""
    validation: str = ""
    sharded: bool = False
    unpacked_bytes: int = 0

    @property
    def caution(self) -> str:
        """A sentence for whoever is about to download it, "" where every checksum is known beforehand."""
        if all(file.sha256 for file in self.files):
            return ""
        return "Its checksum is not known beforehand: that of what comes is kept, and compared from then on."


CATALOGUE = (
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
        "2.7 million short stories in simple English written by GPT-4, with a validation file of their own",
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
class Present:
    """What is here of a data set: path inside `folder` → {"size": bytes, "sha256": hexadecimal}."""

    folder: Path
    files: dict[str, dict[str, Any]]

    @property
    def size_bytes(self) -> int:
        return sum(int(entry["size"]) for entry in self.files.values())


def find_dataset(name: str) -> NamedDataset:
    """The data set of that name, or the file at that web address; WrongUse where there can be none."""
    if is_address(name):
        return at_address(name)
    names = [dataset.name for dataset in CATALOGUE]
    if name not in names:
        advice = did_you_mean(name, names) or f"there are {', '.join(names)}."
        raise WrongUse(f'There is no data set "{name}" to download; {advice}')
    return CATALOGUE[names.index(name)]


def at_address(text: str) -> NamedDataset:
    """The file at a web address as a data set of its own, the same for the same address; WrongUse where it is none."""
    url = web_address(text)
    stem, suffix = file_name(url)
    file = RemoteFile(stem + suffix, url, 0)
    return NamedDataset(f"{stem}-{short_digest(url)}", f"the file at {url}", (file,), train=file.name)


def from_addresses(home: Path) -> Iterator[tuple[str, Present]]:
    """What was downloaded from web addresses and is here: each address, which `data.corpus` takes, and the copy."""
    for path in sorted((home / "datasets").glob(f"*/{RECORD}")):
        try:
            sources = list(read_json(path)["sources"].values())
            url = str(sources[0]["url"])
            dataset = at_address(url)
            here = present(dataset, home)
        except (UserError, KeyError, TypeError, AttributeError, IndexError):
            continue  # a damaged record: its address is not known any more, and its download begins anew
        if here is not None and here.folder == path.parent:
            yield url, here


def dataset_folder(dataset: NamedDataset, home: Path) -> Path:
    return home / "datasets" / dataset.name


def read_record(dataset: NamedDataset, home: Path) -> dict[str, Any]:
    """What earlier downloads noted: "files" as in `Present`, and "sources", remote file name → {"url", "sha256"}."""
    path = dataset_folder(dataset, home) / RECORD
    if not path.exists():
        return {"files": {}, "sources": {}}
    record = read_json(path)
    if not is_record(record):
        raise UserError(f"{path} is damaged; delete {path.parent} and download the data set again.")
    return dict(record)


def is_record(record: Any) -> bool:
    """Whether a value is what `write_record` writes."""
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


def present(dataset: NamedDataset, home: Path) -> Present | None:
    """The data set as it is here, judged by the sizes of its files; None where it is not, or not whole."""
    record, folder = read_record(dataset, home), dataset_folder(dataset, home)
    fetched = [file.name in record["sources"] for file in dataset.files]
    if not (any(fetched) if dataset.sharded else all(fetched)):
        return None
    whole = all(has_size(folder / name, entry["size"]) for name, entry in record["files"].items())
    return Present(folder, record["files"]) if whole else None


def has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size_bytes
    except OSError:  # such as a name that is too long, in a record that somebody else wrote
        return False


def located(data: DataConfig, home: Path) -> DataConfig:
    """`data` with the paths of the copies here for names and addresses of data sets in `corpus` and `validation`.

    A data set with validation text of its own brings that, unless another is named. UserError where one is not here; it
    says how to get it. A file of the same name is meant by ./NAME.
    """
    validation = data.validation or (data.corpus if data.corpus in with_validation() else "")
    return replace(
        data,
        corpus=located_path(data.corpus, "train", home),
        validation=located_path(validation, "validation", home),
    )


def with_validation() -> list[str]:
    """The names of the data sets that have validation text of their own."""
    return [dataset.name for dataset in CATALOGUE if dataset.validation]


def located_path(text: str, part: str, home: Path) -> str:
    """The path of one part of the data set called `text`; `text` itself where it names none with such a part.

    The one file at a web address is either part.
    """
    named = next((dataset for dataset in CATALOGUE if dataset.name == text), None)
    dataset = at_address(text) if is_address(text) else named
    if dataset is None or not dataset.train:
        return text
    inside: str = getattr(dataset, part) if dataset is named else dataset.train
    if not inside:
        raise UserError(
            f"The data set {text} has no {part} text of its own; leave data.{part} empty to hold a share of it out."
        )
    here = present(dataset, home)
    if here is None:
        raise MissingText(
            f"{text if is_address(text) else f'The data set {text}'} is not downloaded; run: llm-workbench data "
            f"download {shlex.quote(text)} (or, offline, take text that is here: --data.corpus stories, pylib, or a "
            "file)."
        )
    return str(here.folder / inside)
