"""`data` and `tokenizer`: text and how it becomes tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.config import load_preset
from llm.errors import UserError, WrongUse
from workbench.commands.download import dataset_records, download
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say

if TYPE_CHECKING:
    from llm.data.tokens.dataset import Dataset

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


def data(options: argparse.Namespace) -> int:
    """What there is, or the sizes of what was just prepared or downloaded."""
    if options.preset == "download":
        return download(options)
    if options.preset == "clean":
        return clean_data(options)
    if options.name is not None or options.shards is not None or "://" in (options.preset or ""):
        raise WrongUse("to fetch a data set or a web address: llm-workbench data download NAME|URL [--shards N].")
    if options.preset:
        show_dataset(prepare_dataset(options), as_json=options.json)
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


def prepare_dataset(options: argparse.Namespace) -> Dataset:
    """The prepared text of the preset on the command line."""
    config = load_preset(options.preset if "preset" in options else options.source, options.home, options.overrides)

    from llm.data.tokens.prepare import prepare
    from workbench.commands.progress import with_progress

    dataset = with_progress(prepare(config, options.home))
    for note in dataset.notes:
        say(note)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    return dataset


def prepared_record(index: Path) -> dict[str, Any]:
    """One prepared data set as data; a damaged one is listed as such."""
    from llm.data.tokens.dataset import load_dataset

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


def clean_data(options: argparse.Namespace) -> int:
    """Take away prepared data that no run uses; without `--yes`, say which that would be."""
    from workbench.data.prepared_data import clean, list_cached, unused
    from workbench.formatting import format_size

    cached = list_cached(options.home)
    doomed = unused(cached)
    if options.json:
        users = [vars(data) | {"path": str(data.path), "removed": options.yes and data in doomed} for data in cached]
        if options.yes:
            clean(doomed)
        print_json(users)
        return 0
    rows = [
        (data.fingerprint[:12], data.corpus, format_size(data.size_bytes), ", ".join(data.used_by) or "no run")
        for data in cached
    ]
    if rows:
        print_table(("data", "corpus", "size", "used by"), rows)
    if not doomed:
        say("every prepared data set is used by a run; there is nothing to take away.")
    elif options.yes:
        say(f"freed {format_size(clean(doomed))}; data are prepared again when a run needs them.")
    else:
        total = format_size(sum(data.size_bytes for data in doomed))
        say(f"{len(doomed)} used by no run, {total}; to take them away: llm-workbench data clean --yes")
    return 0
