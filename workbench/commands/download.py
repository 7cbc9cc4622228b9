"""`data download`, and the data sets in the list of `data`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import UserError, WrongUse
from workbench.commands.output import print_json, say
from workbench.text import clean

if TYPE_CHECKING:
    from llm.data.text.datasets import Present


def dataset_records(home: Path) -> list[dict[str, Any]]:
    """Every data set that has a name, with what is here of it, and those here from web addresses; as data."""
    from llm.data.text.datasets import CATALOGUE, from_addresses, present
    from workbench.formatting import format_size

    records = []
    for dataset in CATALOGUE:
        record: dict[str, Any] = {"name": dataset.name, "kind": "data set", "here": False}
        remote = dataset.files[0].size_bytes if dataset.sharded else sum(file.size_bytes for file in dataset.files)
        try:
            here = present(dataset, home)
        except UserError as error:
            records.append(record | {"about": str(error), "problem": str(error)})
            continue
        if here is None:
            a_shard = " a shard" if dataset.sharded else ""
            state = f"not here: data download {dataset.name} fetches {format_size(remote)}{a_shard}"
        else:
            record |= sizes(here)
            state = (
                f"here, {format_size(here.size_bytes)} in {len(here.files)} file{'s' if len(here.files) > 1 else ''}"
            )
        records.append(record | {"about": f"{dataset.about}; {state}"})
    for address, here in from_addresses(home):
        about = f"downloaded from there, {format_size(here.size_bytes)}"
        records.append({"name": address, "kind": "address", "about": about} | sizes(here))
    return records


def sizes(here: Present) -> dict[str, Any]:
    return {"here": True, "path": str(here.folder), "bytes": here.size_bytes, "files": len(here.files)}


def download(options: argparse.Namespace) -> int:
    """Fetch one data set, and say where it is and how to use it."""
    from llm.data.text.datasets import CATALOGUE, find_dataset
    from llm.data.text.download import download as fetched
    from workbench.commands.progress import with_progress
    from workbench.formatting import format_size

    if options.overrides:
        raise WrongUse("data download takes no fields of the configuration.")
    if options.name is None:
        names = ", ".join(dataset.name for dataset in CATALOGUE)
        raise WrongUse(f"data download needs a web address or the name of a data set: {names}.")
    if options.shards is not None and options.shards < 1:
        raise WrongUse(f"--shards must be 1 or more, not {options.shards}.")
    dataset = find_dataset(options.name)
    result = with_progress(fetched(dataset, options.home, shards=options.shards or 0))
    for name, sha256 in result.first_seen.items():
        say(
            f"note: the checksum of {name} is not known beforehand; the sha256 of what came, {sha256}, is now on "
            "record, and what is here and later downloads are compared with it."
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
        print("             (its own validation text comes with it, unless data.validation names another)")
    return 0
