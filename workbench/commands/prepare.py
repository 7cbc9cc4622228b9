"""`data` and `tokenizer`: text and how it becomes tokens."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import load_preset
from llm.errors import UserError, WrongUse
from llm.run import Run
from workbench.commands.datasets import dataset_records, download
from workbench.commands.keeping import clean_data
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say

if TYPE_CHECKING:
    from llm.data.tokens.prepare import Dataset
    from llm.tokenizer import Tokenizer

EMBEDDED = (
    ("stories", "short stories in simple English and questions about them, made here to any size"),
    ("pylib", "source and documentation of the Python that runs this program"),
)


def register(subparsers: Any) -> None:
    help = "list corpora and data sets, prepare what a preset needs, or download a data set or a web address"
    data_parser = add_command(subparsers, "data", help, data, json=True, takes_fields=True)
    data_parser.usage = (
        f"{data_parser.prog} [PRESET] [--home DIR] [--json] [--FIELD VALUE ...]\n"
        f"       {data_parser.prog} download NAME|URL [--shards N] [--home DIR] [--json]\n"
        f"       {data_parser.prog} clean [--yes] [--json]"
    )
    data_parser.add_argument("preset", nargs="?", metavar="PRESET", help="prepare the text of this preset")
    data_parser.add_argument("name", nargs="?", metavar="NAME", help="after download: the data set, or a web address")
    data_parser.add_argument("--shards", type=int, default=None, metavar="N", help="how many files of a large data set")
    data_parser.add_argument("--yes", action="store_true", help="clean: take away what no run uses, instead of listing")
    help = "train a preset's tokenizer, look at one, or split a text with it"
    parser = add_command(subparsers, "tokenizer", help, tokenizer, json=True, takes_fields=True)
    parser.usage = (
        f"{parser.prog} train PRESET --output DIR [--FIELD VALUE ...]\n"
        f"       {parser.prog} show RUN|DIR [--json]\n"
        f"       {parser.prog} encode RUN|DIR TEXT [--json]"
    )
    parser.add_argument("action", choices=("train", "show", "encode"))
    parser.add_argument("source", metavar="PRESET|RUN|DIR")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to encode; - reads stdin")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where a trained tokenizer is saved")


def data(options: argparse.Namespace) -> int:
    """What there is, or the sizes of what was just prepared or downloaded."""
    if options.preset == "download":
        return download(options)
    if options.preset == "clean":
        return clean_data(options)
    if options.name is not None or options.shards is not None or "://" in (options.preset or ""):
        raise WrongUse("to fetch a data set or a web address: llm-workbench data download NAME|URL [--shards N].")
    if options.preset:
        show_dataset(prepared(options), as_json=options.json)
        return 0
    if options.overrides:
        raise WrongUse("data takes fields only together with a preset: llm-workbench data PRESET --data.corpus FILE.")
    records = [{"name": name, "kind": "embedded", "about": about} for name, about in EMBEDDED]
    records += dataset_records(options.home)
    records += [prepared_record(path) for path in sorted((options.home / "data").glob("*/dataset.json"))]
    if options.json:
        print_json(records)
    else:
        print_table(
            ("name", "kind", "about"),
            [tuple(str(record[key]) for key in ("name", "kind", "about")) for record in records],
        )
    return 0


def prepared(options: argparse.Namespace) -> Dataset:
    """The prepared text of the preset on the command line."""
    config = load_preset(options.preset if "preset" in options else options.source, options.home, options.overrides)

    from llm.data.tokens.prepare import prepare
    from workbench.commands.narrator import drained

    dataset = drained(prepare(config, options.home))
    for note in dataset.notes:
        say(note)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    return dataset


def prepared_record(index: Path) -> dict[str, Any]:
    """One prepared data set as data; a damaged one is listed as such."""
    from llm.data.tokens.prepare import load_dataset

    record: dict[str, Any] = {"name": index.parent.name, "kind": "prepared", "path": str(index.parent)}
    try:
        sizes = dataset_sizes(load_dataset(index.parent))
    except UserError as error:
        return record | {"about": str(error), "problem": str(error)}
    about = f"{sizes['train_tokens']:,} + {sizes['validation_tokens']:,} tokens of {sizes['tokenizer']}"
    return record | sizes | {"about": f"{about}, {sizes['bytes_per_token']:.2f} bytes each"}


def dataset_sizes(dataset: Dataset) -> dict[str, Any]:
    tokens = len(dataset.train) + len(dataset.validation)
    text_bytes = dataset.train.bytes + dataset.validation.bytes
    return {
        "tokenizer": dataset.tokenizer.kind,
        "vocab_size": dataset.tokenizer.vocab_size,
        "train_tokens": len(dataset.train),
        "validation_tokens": len(dataset.validation),
        "streamed_row_groups": len(dataset.stream.groups) if dataset.stream else 0,
        "bytes": text_bytes,
        "bytes_per_token": text_bytes / tokens,
    }


def show_dataset(dataset: Dataset, *, as_json: bool) -> None:
    sizes = dataset_sizes(dataset)
    if as_json:
        print_json({"name": dataset.fingerprint, "path": str(dataset.path)} | sizes)
        return
    print(f"tokenizer   {sizes['tokenizer']}, {sizes['vocab_size']:,} ids")
    if sizes["streamed_row_groups"]:
        print(f"training    {sizes['streamed_row_groups']:,} row groups of Parquet, tokenised while training")
    else:
        print(f"training    {sizes['train_tokens']:,} tokens")
    print(f"validation  {sizes['validation_tokens']:,} tokens")
    if not sizes["streamed_row_groups"]:
        print(f"together    {sizes['train_tokens'] + sizes['validation_tokens']:,} tokens")
    print(f"text        {sizes['bytes']:,} bytes, {sizes['bytes_per_token']:.3f} per token")
    print(f"kept in     {dataset.path}")


def tokenizer(options: argparse.Namespace) -> int:
    """Train, show or use a tokenizer."""
    if options.action == "train":
        return train_tokenizer(options)
    if options.overrides:
        raise WrongUse(f"tokenizer {options.action} takes no fields of the configuration.")
    found = open_tokenizer(options)
    if options.action == "show":
        show_tokenizer(found, as_json=options.json)
    elif options.text is None:
        raise WrongUse("tokenizer encode needs a text: llm-workbench tokenizer encode RUN TEXT (or - for stdin).")
    else:
        show_tokens(found, sys.stdin.read() if options.text == "-" else options.text, as_json=options.json)
    return 0


def train_tokenizer(options: argparse.Namespace) -> int:
    if options.output is None:
        raise WrongUse("tokenizer train needs --output DIR, the folder to save it in.")
    if options.output.exists():
        raise WrongUse(f"{options.output} exists already; name a folder that does not.")
    dataset = prepared(options)
    dataset.tokenizer.save(options.output)
    say(f"saved in {options.output}; use it with --tokenizer.path {options.output}")
    show_tokenizer(dataset.tokenizer, as_json=options.json)
    return 0


def open_tokenizer(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer in a folder, or of a run."""
    from llm.tokenizer import load_tokenizer

    folder = Path(options.source).expanduser()
    if folder.is_dir() and not (folder / "run.toml").exists():
        return load_tokenizer(folder)
    return load_tokenizer(Run.open(options.home, options.source).path / "tokenizer")


def show_tokenizer(found: Tokenizer, *, as_json: bool) -> None:
    if as_json:
        special = dict(found.special_tokens)
        record = {"kind": found.kind, "vocab_size": found.vocab_size, "special_tokens": special}
        print_json(record | {"fingerprint": found.fingerprint()})
        return
    longest = sorted(range(found.vocab_size), key=lambda token: -len(found.token_bytes(token)))[:12]
    if changes := found.text_changes():
        say(f"warning: {changes}")
    print(f"kind            {found.kind}")
    print(f"ids             {found.vocab_size:,}")
    print_table(("special tokens  ", ""), [(text, str(token)) for text, token in found.special_tokens.items()])
    print_table(("longest tokens  ", ""), [(repr(token_text(found, token)), str(token)) for token in longest])


def show_tokens(found: Tokenizer, text: str, *, as_json: bool) -> None:
    from llm.tokenizer.base import well_formed

    text = well_formed(text)  # stdin may hold bytes that are no text
    if changes := found.prompt_changes(text):
        say(f"warning: {changes}")
    ids = found.encode(text, special=True)
    if as_json:
        print_json({"ids": ids, "tokens": [token_text(found, token) for token in ids], "bytes": len(text.encode())})
        return
    print_table(("id", "text"), [(str(token), repr(token_text(found, token))) for token in ids])
    say(f"{len(ids)} tokens, {len(text.encode()) / max(1, len(ids)):.2f} bytes each")


def token_text(found: Tokenizer, token: int) -> str:
    """The text of one token; bytes that are only part of a character are written as \\xNN."""
    special = {token: text for text, token in found.special_tokens.items()}
    return special.get(token) or found.token_bytes(token).decode("utf-8", "backslashreplace")
