"""`data`: list corpora, prepare a preset's data, delete unused data."""

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


def register(subparsers: Any) -> None:
    help = "list corpora and datasets, prepare the data of a preset, or download a dataset"
    data_parser = add_command(subparsers, "data", help, data, json=True, takes_fields=True)
    data_parser.usage = (
        f"{data_parser.prog} [PRESET] [--home DIR] [--json] [--FIELD VALUE ...]\n"
        f"       {data_parser.prog} download NAME|URL [--shards N] [--home DIR] [--json]\n"
        f"       {data_parser.prog} clean [--yes] [--json]"
    )
    data_parser.add_argument("preset", nargs="?", metavar="PRESET", help="prepare the data of this preset")
    data_parser.add_argument("name", nargs="?", metavar="NAME", help="download: the name of a dataset, or a URL")
    data_parser.add_argument(
        "--shards", type=int, default=None, metavar="N", help="download: number of files of a large dataset"
    )
    data_parser.add_argument(
        "--yes", action="store_true", help="clean: delete unused data; without it, list what would be deleted"
    )


def data(options: argparse.Namespace) -> int:
    """List the data, or prepare, download or delete some."""
    if options.preset == "download":
        return download(options)
    if options.preset == "clean":
        return clean_data(options)
    if options.name is not None or options.shards is not None or "://" in (options.preset or ""):
        raise WrongUse("to download a dataset or a URL: llm-workbench data download NAME|URL [--shards N].")
    if options.preset:
        show_dataset(prepare_dataset(options.preset, options), as_json=options.json)
        return 0
    if options.overrides:
        raise WrongUse(
            "data takes configuration fields only with a preset: llm-workbench data PRESET --data.corpus FILE."
        )
    from workbench.data.corpora import BUILT_IN

    records = [{"name": name, "kind": "embedded", "about": about} for name, about in BUILT_IN.items()]
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


def prepare_dataset(preset: str, options: argparse.Namespace) -> Dataset:
    """Prepare the data of a preset, with the fields of the command line."""
    config = load_preset(preset, options.home, options.overrides)

    from llm.data.tokens.prepare import prepare
    from workbench.commands.progress import with_progress

    dataset = with_progress(prepare(config, options.home))
    for note in dataset.notes:
        say(note)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    return dataset


def prepared_record(index: Path) -> dict[str, Any]:
    """A tokenized dataset as a record; a damaged one with its problem."""
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
        print(f"training    {sizes['streamed_row_groups']:,} Parquet row groups, tokenized during training")
    else:
        print(f"training    {sizes['train_tokens']:,} tokens")
    print(f"validation  {sizes['validation_tokens']:,} tokens")
    if not sizes["streamed_row_groups"]:
        print(f"total       {sizes['train_tokens'] + sizes['validation_tokens']:,} tokens")
    print(f"text        {sizes['bytes']:,} bytes, {sizes['bytes_per_token']:.3f} per token")
    print(f"folder      {dataset.path}")


def clean_data(options: argparse.Namespace) -> int:
    """Delete tokenized datasets that no run uses; without `--yes`, only list them."""
    from workbench.data.prepared_data import clean, list_prepared, unused
    from workbench.formatting import format_size

    cached = list_prepared(options.home)
    deletable = unused(cached)
    if options.json:
        records = [
            vars(data) | {"path": str(data.path), "removed": options.yes and data in deletable} for data in cached
        ]
        if options.yes:
            clean(deletable)
        print_json(records)
        return 0
    rows = [
        (data.fingerprint[:12], data.corpus, format_size(data.size_bytes), ", ".join(data.used_by) or "no run")
        for data in cached
    ]
    if rows:
        print_table(("data", "corpus", "size", "used by"), rows)
    if not deletable:
        say("All prepared data is in use.")
    elif options.yes:
        say(f"freed {format_size(clean(deletable))}; runs prepare data again when they need it.")
    else:
        total = format_size(sum(data.size_bytes for data in deletable))
        say(f"{len(deletable)} unused, {total}; to delete: llm-workbench data clean --yes")
    return 0
