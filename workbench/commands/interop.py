"""`export` and `import`: models to and from the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llm.files import expand_user
from llm.interop.formats import FORMATS, READABLE
from workbench.commands.options import add_checkpoint, add_command
from workbench.commands.output import print_json, say


def register(subparsers: Any) -> None:
    parser = add_command(subparsers, "export", "write a checkpoint in a format of other programs", export, json=True)
    add_checkpoint(parser)
    formats = "; ".join(f"{format.name}: {format.about}" for format in FORMATS.values())
    parser.add_argument("--to", required=True, choices=tuple(FORMATS), metavar="FORMAT", help=formats)
    dtypes = "; ".join(f"{format.name}: {', '.join(format.dtypes)}" for format in FORMATS.values())
    parser.add_argument("--dtype", default="", help=f"numbers of the weights (default: the first). {dtypes}")
    parser.add_argument(
        "--out", type=Path, default=None, metavar="DIR", help="the new folder (default: HOME/exports/RUN-STEP-FORMAT)"
    )
    help = "make a run from a model of another program"
    parser = add_command(subparsers, "import", help, import_model, json=True)
    parser.add_argument("path", type=Path, metavar="PATH", help=READABLE)
    parser.add_argument("--name", default="", help="name of the run (default: the name of PATH)")
    parser.add_argument("--tokenizer", type=Path, default=None, metavar="PATH", help="take the tokenizer from here")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="shorten the context to N tokens, which saves memory"
    )


def export(options: argparse.Namespace) -> int:
    """Write the folder and print its path."""
    from llm.interop.export import export as write
    from llm.interop.source import default_folder, open_source
    from llm.run import find_checkpoint
    from workbench.commands.progress import with_progress

    source = open_source(*find_checkpoint(options.home, options.run, say))
    format = FORMATS[options.to]
    dtype = options.dtype or format.dtypes[0]
    target = options.out or default_folder(options.home, source, format.name, dtype)
    folder = with_progress(write(source, format, dtype, expand_user(target)))
    if options.json:
        print_json({"name": source.run.name, "step": source.info.step, "format": format.name, "path": str(folder)})
    else:
        print(folder)
    return 0


def import_model(options: argparse.Namespace) -> int:
    """Create the run and print its name."""
    from llm.interop.import_run import import_run
    from workbench.commands.progress import with_progress

    path, tokenizer = expand_user(options.path), options.tokenizer
    work = import_run(options.home, path, options.name, tokenizer and expand_user(tokenizer), options.context)
    run, warnings = with_progress(work)
    for warning in warnings:
        say(f"warning: {warning}")
    if options.json:
        print_json({"name": run.name, "path": str(run.path), "warnings": list(warnings)})
    else:
        print(run.name)
    return 0
