"""Import a model of another program as a run with no history: its weights are the checkpoint of step 0."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from llm.config import NAME_LENGTH, RunConfig, check_name
from llm.config.schema import DataConfig, SampleConfig, TokenizerConfig
from llm.errors import UserError, WrongUse, reason_of
from llm.events import Finished, Progress
from llm.files import published_directory, write_json
from llm.interop import hf, llama2c, nanochat, nanogpt
from llm.interop.formats import READABLE
from llm.interop.imported import Imported
from llm.run import Run, free_name
from llm.run.checkpoints import MODEL, STATE, write_manifest
from llm.run.directory import check_run_name
from llm.run.fork import keep_tokenizer

LONGEST_CONTEXT = 1 << 20
IMPORTED = "imported"
"""The status of an imported run."""


def import_run(
    home: Path, path: Path, name: str = "", tokenizer: Path | None = None, context: int = 0
) -> Generator[Progress, None, tuple[Run, tuple[str, ...]]]:
    """Create a run from the model at `path`; returns it with the warnings of the import.

    Everything is read and checked before anything is written. `tokenizer` replaces the one found at `path`;
    `context` shortens that of a model with rotary positions.
    """
    if name:
        check_run_name(name)
        if (home / "runs" / name).exists():
            raise WrongUse(f"a run named {name} exists already; choose another name.")
    if not path.exists():
        raise WrongUse(f"there is no {path}; name a folder or file of a model.")
    if tokenizer is not None and not tokenizer.exists():
        raise WrongUse(f"there is no {tokenizer}; name a folder or file of a tokenizer.")
    model = with_context((yield from read_model(path, tokenizer)), context)
    yield Progress(stage="Writing the run", done=0, total=0)
    return create_run(home, name or free_run_name(home, path), path, model), model.warnings


def read_model(path: Path, tokenizer: Path | None) -> Generator[Progress, None, Imported]:
    """The model at `path`, in whichever format it is."""
    if hf.is_folder(path):
        return (yield from hf.read(path, tokenizer))
    if nanochat.find_model(path) is not None:
        return (yield from nanochat.read(path, tokenizer))
    if nanogpt.is_file(path):
        return (yield from nanogpt.read(path, tokenizer))
    if llama2c.is_file(path):
        return (yield from llama2c.read(path, tokenizer))
    raise UserError(f"{path} is not a model that can be imported; name {READABLE}.")


def with_context(model: Imported, context: int) -> Imported:
    """`model` with a context of `context` tokens; 0 keeps it."""
    if not context and model.shape.position == "rope" and model.shape.context > LONGEST_CONTEXT:
        raise WrongUse(
            f"the model's context is {model.shape.context:,} tokens, more than {LONGEST_CONTEXT:,}; shorten it with "
            "--context N."
        )
    if not context:
        return model
    if model.shape.position != "rope" or not 0 < context <= model.shape.context:
        raise WrongUse(
            f"--context {context} is not possible: the model's context is {model.shape.context}, and only rotary "
            "positions can be shortened."
        )
    return replace(model, shape=replace(model.shape, context=context))


def create_run(home: Path, name: str, path: Path, model: Imported) -> Run:
    """Write the run: whole, or not at all."""
    from llm.training.tensor_file import write_tensors

    kept = home / "tokenizers" / f"{name}-{model.tokenizer.fingerprint()[:8]}"

    def fill(run: Run) -> None:
        model.tokenizer.save(run.path / "tokenizer")
        keep_tokenizer(home, kept.name, model.tokenizer.save)
        with published_directory(run.checkpoint_directory / "step-00000000") as staging:
            write_json(staging / STATE, {"format": 1})
            sums = {MODEL: write_tensors(staging / MODEL, model.weights)}
            write_manifest(staging, 0, {}, sums)
        log = run.log()
        log.append(Finished(step=0, status=IMPORTED, reason=f"from {origin_of(path)}"))
        log.close()

    try:
        return Run.create(
            home, name, run_config(model, path, kept), extra={"imported_from": origin_of(path)}, fill=fill
        )
    except OSError as error:
        raise UserError(f"the run {name} cannot be written ({reason_of(error)}); make room, try again.") from error


def run_config(model: Imported, path: Path, kept: Path) -> RunConfig:
    """The configuration of the run. A fork with other text keeps the tokenizer, since its path is set."""
    special = tuple(model.tokenizer.special_tokens)
    tokenizer = TokenizerConfig(
        kind=model.tokenizer.kind,  # type: ignore[arg-type]
        vocab_size=model.tokenizer.vocab_size,
        path=str(kept.absolute()),
        special_tokens=special,
    )
    return replace(
        RunConfig(),
        purpose=f"Imported from {origin_of(path)}.",
        tokenizer=tokenizer,
        model=model.shape,
        data=DataConfig(boundary="none" if model.tokenizer.separator is None else "after"),
        sample=SampleConfig(every=0),
        decode=model.decode,
    )


def origin_of(path: Path) -> str:
    """The name of the folder or file, as UTF-8 can hold it."""
    return path.absolute().name.encode(errors="replace").decode()


def free_run_name(home: Path, path: Path) -> str:
    """A name for the run from that of the folder or file."""
    place = path.absolute()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", place.name if path.is_dir() else place.stem).strip("-._") or "imported"
    name = stem[:NAME_LENGTH]
    if (home / "runs" / name).exists():
        return free_name(home, stem)
    check_name(name)
    return name
