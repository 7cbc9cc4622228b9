"""`tokenizer`: train one, show one, or encode a text with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import WrongUse
from llm.files import expand_user
from llm.run import Run
from workbench.commands.data import prepare_dataset
from workbench.commands.model_options import read_stdin
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say

if TYPE_CHECKING:
    from llm.tokenizer import Tokenizer


def register(subparsers: Any) -> None:
    help = "train a preset's tokenizer, show one, or encode a text with it"
    parser = add_command(subparsers, "tokenizer", help, tokenizer, json=True, takes_fields=True)
    parser.usage = (
        f"{parser.prog} train PRESET --output DIR [--FIELD VALUE ...]\n"
        f"       {parser.prog} show RUN|DIR [--json]\n"
        f"       {parser.prog} encode RUN|DIR TEXT [--json]"
    )
    parser.add_argument("action", choices=("train", "show", "encode"))
    parser.add_argument("source", metavar="PRESET|RUN|DIR")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="encode: the text; - reads stdin")
    parser.add_argument("--output", metavar="DIR", type=Path, help="train: the folder to save the tokenizer in")


def tokenizer(options: argparse.Namespace) -> int:
    """Train a tokenizer, show it, or encode a text."""
    if options.action == "train":
        return train_tokenizer(options)
    if options.overrides:
        raise WrongUse(f"tokenizer {options.action} takes no configuration fields.")
    found = open_tokenizer(options)
    if options.action == "show":
        show_tokenizer(found, as_json=options.json)
    elif options.text is None:
        raise WrongUse("tokenizer encode needs a text: llm-workbench tokenizer encode RUN TEXT (or - for stdin).")
    else:
        show_tokens(found, read_stdin("the text") if options.text == "-" else options.text, as_json=options.json)
    return 0


def train_tokenizer(options: argparse.Namespace) -> int:
    if options.output is None:
        raise WrongUse("tokenizer train needs --output DIR, the folder to save the tokenizer in.")
    if options.output.exists():
        raise WrongUse(f"{options.output} exists already; name a new folder.")
    dataset = prepare_dataset(options.source, options)
    dataset.tokenizer.save(options.output)
    say(f"saved in {options.output}; use it with --tokenizer.path {options.output}")
    show_tokenizer(dataset.tokenizer, as_json=options.json)
    return 0


def open_tokenizer(options: argparse.Namespace) -> Tokenizer:
    """The tokenizer of a folder or a run."""
    from llm.tokenizer import load_tokenizer

    folder = expand_user(options.source)
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
    print(f"vocabulary      {found.vocab_size:,}")
    print_table(("special tokens  ", ""), [(text, str(token)) for text, token in found.special_tokens.items()])
    print_table(("longest tokens  ", ""), [(repr(token_text(found, token)), str(token)) for token in longest])


def show_tokens(found: Tokenizer, text: str, *, as_json: bool) -> None:
    from llm.tokenizer.base import well_formed

    text = well_formed(text)  # an argument may hold bytes that are not UTF-8
    if changes := found.prompt_changes(text):
        say(f"warning: {changes}")
    ids = found.encode(text, special=True)
    if as_json:
        print_json({"ids": ids, "tokens": [token_text(found, token) for token in ids], "bytes": len(text.encode())})
        return
    print_table(("id", "text"), [(str(token), repr(token_text(found, token))) for token in ids])
    say(f"{len(ids)} tokens, {len(text.encode()) / max(1, len(ids)):.2f} bytes per token")


def token_text(found: Tokenizer, token: int) -> str:
    """The text of one token; bytes of an incomplete character are written as \\xNN."""
    special = {token: text for text, token in found.special_tokens.items()}
    return special.get(token) or found.token_bytes(token).decode("utf-8", "backslashreplace")
