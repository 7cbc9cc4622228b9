"""Measure the table of docs/interop.md: the largest difference of logits for every format, architecture and direction.

    .venv/bin/python docs/interop_table.py [--nanogpt CHECKOUT]

Random weights, float32, a text of 60 tokens. Needs the extra `dev`. Replaces the table between two marks in the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.import_run import import_run
from llm.run import Run
from llm.tokenizer import Tokenizer
from llm.tokenizer.spm import SentencePieceTokenizer
from llm.weights import load_model
from tests.interop.llama_cpp_for_tests import LlamaCpp
from tests.interop.runs_for_tests import SHAPES, bpe_tokenizer, finish, make_run, source_of, text_of_all_kinds

PAGE = Path(__file__).parent / "interop.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEADINGS = ("model", "format", "direction", "compared with", "largest difference")
Line = tuple[str, str, str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    options = parser.parse_args()
    lines = [line for name in SHAPES for line in measure(name, options.nanogpt)]
    rows = [HEADINGS, ("---",) * 5, *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@torch.no_grad()
def measure(name: str, nanogpt: Path | None) -> Iterator[Line]:
    """The lines of one model."""
    import transformers

    tokenizer: Tokenizer = bpe_tokenizer(400, "gpt2")
    shape = SHAPES[name]
    if shape.position == "learned" and shape.tied_head:
        shape = replace(shape, d_ff=4 * shape.d_model)  # as nanoGPT has it
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = make_run(home, shape, tokenizer)
        prompt = tokenizer.encode(text_of_all_kinds(400))[:60]
        text = torch.tensor([prompt])
        expected = logits_of(run, text)
        hf = write(run, "hf", home / "hf")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(hf).eval()
        yield name, "hf", "export", "transformers", difference(theirs(text).logits, expected)
        yield name, "hf", "import", "the run", difference(logits_of(read(home, hf, "a"), text), expected)
        if not FORMATS["gguf"].problem(source_of(run).shape, tokenizer):
            path = next(write(run, "gguf", home / "gguf").glob("*.gguf"))
            rows = source_of(run).shape.vocab_size
            found = LlamaCpp(path, 256, tokenizer.encode("e")[0]).log_probabilities(prompt, rows)
            yield name, "gguf f32", "export", "llama.cpp", difference(found, torch.log_softmax(expected[0, -1], -1))
        if not FORMATS["nanogpt"].problem(source_of(run).shape, tokenizer):
            path = write(run, "nanogpt", home / "nanogpt") / "ckpt.pt"
            if nanogpt is not None:
                found = nanogpt_logits(nanogpt, path, text)
                yield name, "nanogpt", "export", "nanoGPT", difference(found, expected)
            yield name, "nanogpt", "import", "the run", difference(logits_of(read(home, path, "b"), text), expected)
        pieces = SentencePieceTokenizer.train([text_of_all_kinds(seed=2)], 600)
        if not FORMATS["llama2c"].problem(source_of(run).shape, pieces):
            other = make_run(home, shape, pieces, "pieces")
            text = torch.tensor([pieces.encode(text_of_all_kinds(400))[:60]])
            path = write(other, "llama2c", home / "llama2c") / "model.bin"
            found = logits_of(read(home, path, "c"), text)
            yield name, "llama2c", "both", "the run", difference(found, logits_of(other, text))


def write(run: Run, format: str, folder: Path) -> Path:
    written: Path = finish(export(source_of(run), FORMATS[format], "f32", folder))
    return written


def read(home: Path, path: Path, name: str) -> Run:
    run: Run = finish(import_run(home, path, name))[0]
    return run


def logits_of(run: Run, text: Tensor) -> Tensor:
    model, _ = load_model(run, run.checkpoint())
    logits: Tensor = model(text)
    return logits


def nanogpt_logits(checkout: Path, path: Path, text: Tensor) -> Tensor:
    from workbench.bench.peers import nanogpt_source

    source, checkpoint = nanogpt_source(checkout), torch.load(path, weights_only=True)
    model = source.GPT(source.GPTConfig(**checkpoint["model_args"])).eval()
    model.load_state_dict(checkpoint["model"])
    logits: Tensor = model(text, text)[0]
    return logits


def difference(a: Tensor, b: Tensor) -> str:
    largest = float((a - b).abs().max())
    return f"{largest:.1e}" if largest else "0"


if __name__ == "__main__":
    main()
