"""`data download`, and the datasets that `data` lists."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import UserError, WrongUse
from workbench.commands.output import print_json, say
from workbench.text import clean

if TYPE_CHECKING:
    from llm.data.text.datasets import LocalCopy


def dataset_records(home: Path) -> list[dict[str, Any]]:
    """The named datasets, with what is downloaded of them, and the datasets downloaded from URLs."""
    from llm.data.text.datasets import CATALOG, downloaded_urls, local_copy
    from workbench.formatting import format_size

    records = []
    for dataset in CATALOG:
        record: dict[str, Any] = {"name": dataset.name, "kind": "dataset", "here": False}
        remote = dataset.files[0].size_bytes if dataset.sharded else sum(file.size_bytes for file in dataset.files)
        try:
            here = local_copy(dataset, home)
        except UserError as error:
            records.append(record | {"about": str(error), "problem": str(error)})
            continue
        if here is None:
            a_shard = " a shard" if dataset.sharded else ""
            state = f"not downloaded: data download {dataset.name} gets {format_size(remote)}{a_shard}"
        else:
            record |= sizes(here)
            files = f"{len(here.files)} file{'s' if len(here.files) > 1 else ''}"
            state = f"downloaded, {format_size(here.size_bytes)} in {files}"
        records.append(record | {"about": f"{dataset.about}; {state}"})
    for address, here in downloaded_urls(home):
        about = f"downloaded, {format_size(here.size_bytes)}"
        records.append({"name": address, "kind": "address", "about": about} | sizes(here))
    return records


def sizes(here: LocalCopy) -> dict[str, Any]:
    return {"here": True, "path": str(here.folder), "bytes": here.size_bytes, "files": len(here.files)}


def download(options: argparse.Namespace) -> int:
    """Download a dataset, and print where it is and how to use it."""
    from llm.data.text.datasets import CATALOG, find_dataset
    from llm.data.text.download import download as fetched
    from llm.data.text.hub import is_hub
    from workbench.commands.progress import with_progress
    from workbench.formatting import format_size

    if options.overrides:
        raise WrongUse("data download takes no configuration fields.")
    if options.name is None:
        names = ", ".join(dataset.name for dataset in CATALOG)
        raise WrongUse(f"data download needs a URL or the name of a dataset: {names}.")
    if options.shards is not None and options.shards < 1:
        raise WrongUse(f"--shards must be 1 or more, not {options.shards}.")
    if is_hub(options.name):
        return download_from_hub(options)
    dataset = find_dataset(options.name)
    result = with_progress(fetched(dataset, options.home, shards=options.shards or 0))
    for name, sha256 in result.first_seen.items():
        say(
            f"note: no checksum of {name} is published; its sha256, {sha256}, is recorded, and later downloads are "
            "compared with it."
        )
    here = result.here
    if options.json:
        files = [{"name": name} | entry for name, entry in here.files.items()]
        print_json({"name": dataset.name, "path": str(here.folder), "bytes": here.size_bytes, "files": files})
        return 0
    print(
        clean(f"{dataset.name} is in {here.folder}: {format_size(here.size_bytes)}, {len(here.files)} files, verified")
    )
    if dataset.train:
        print(f"use it with  --data.corpus {shlex.quote(options.name)}")
    if dataset.validation:
        print("             (it includes a validation set, used unless data.validation names another)")
    return 0


def download_from_hub(options: argparse.Namespace) -> int:
    """Download the training split of a dataset of the Hugging Face hub."""
    from llm.data.text.hub import download_hub_dataset
    from workbench.commands.progress import with_progress

    folder = with_progress(download_hub_dataset(options.name, options.home))
    if options.json:
        print_json({"name": options.name, "path": str(folder)})
    else:
        print(clean(f"{options.name} is in {folder}\nuse it with  --data.corpus {shlex.quote(options.name)}"))
    return 0
