"""Checkpoints of nanoGPT and nanochat: what nanoGPT's own model loads, what is read, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from llm.config import DecodeConfig
from llm.engine import Engine
from llm.errors import UserError
from llm.interop.architectures import nanochat_settings
from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.import_run import import_run
from llm.interop.weights import NANOCHAT_CHECKPOINT_NAMING, to_names, to_nanochat
from llm.run import Run
from llm.tokenizer.byte import ByteTokenizer
from llm.weights import load_model
from tests.interop.runs_for_tests import (
    END,
    GPT2,
    NANOCHAT,
    SHAPE,
    finish,
    hashes,
    make_run,
    source_of,
)

TOKENIZER = ByteTokenizer((END,))
NANOGPT = replace(GPT2, d_ff=96, mlp="gelu-exact")
CHECKOUT = os.environ.get("NANOGPT", "")


def exported(run: Run, folder: Path) -> Path:
    finish(export(source_of(run), FORMATS["nanogpt"], "f32", folder))
    return folder / "ckpt.pt"


def imported(home: Path, path: Path, **more: Any) -> Run:
    run: Run = finish(import_run(home, path, "back", **more))[0]
    return run


@pytest.mark.parametrize(("bias", "qkv_bias"), [(True, True), (False, False), (True, False)])
def test_nanogpt_and_back(bias: bool, qkv_bias: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(NANOGPT, bias=bias, qkv_bias=qkv_bias), TOKENIZER)
    path = exported(run, tmp_path / "out")
    settings = torch.load(path, weights_only=True)["model_args"]
    assert settings == {
        "n_layer": 2, "n_head": 6, "n_embd": 24, "block_size": 256, "bias": bias, "vocab_size": 257, "dropout": 0.0
    }  # fmt: skip
    back = imported(home, path)
    assert hashes(back) == hashes(run)
    assert back.config().model == run.config().model


@torch.no_grad()
@pytest.mark.skipif(not CHECKOUT, reason="NANOGPT names a checkout of nanoGPT")
def test_nanogpts_own_model_loads_it(home: Path, tmp_path: Path) -> None:
    """As sample.py does."""
    from workbench.bench.peers import nanogpt_source

    run = make_run(home, NANOGPT, TOKENIZER)
    checkpoint = torch.load(exported(run, tmp_path / "out"), weights_only=True)
    source = nanogpt_source(Path(CHECKOUT))
    theirs = source.GPT(source.GPTConfig(**checkpoint["model_args"]))
    theirs.load_state_dict(checkpoint["model"])
    ours, _ = load_model(run, run.checkpoint())
    text = torch.randint(0, 257, (2, 50), generator=torch.Generator().manual_seed(1))
    assert (theirs.eval()(text, text)[0] - ours(text)).abs().max() <= 1e-5


STUB = """
class Bytes:
    def encode(self, text, allowed_special): return list(text.encode())
    def decode(self, ids): return " ".join(map(str, ids))
def get_encoding(name): return Bytes()
"""
"""In place of tiktoken, whose file of GPT-2 is a download: the ids of the run's tokenizer."""


@pytest.mark.skipif(not CHECKOUT, reason="NANOGPT names a checkout of nanoGPT")
@pytest.mark.parametrize("biased", [True, False])
def test_sample_py_writes_our_greedy_text(biased: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(NANOGPT, bias=biased, qkv_bias=biased), TOKENIZER)
    folder = exported(run, tmp_path / "out").parent
    (tmp_path / "tiktoken.py").write_text(STUB)
    settings = {"out_dir": folder, "device": "cpu", "dtype": "float32", "start": "Once", "num_samples": 1, "top_k": 1}
    command = [sys.executable, "sample.py", *(f"--{name}={value}" for name, value in settings.items())]
    written = subprocess.run(
        [*command, "--max_new_tokens=200"], cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    model, tokenizer = load_model(run, run.checkpoint())
    greedy = DecodeConfig(temperature=0.0, max_tokens=200, ban_end=True)
    ids = [piece.token_id for piece in list(Engine(model, tokenizer).stream("Once", greedy))[:-1]]
    assert " ".join(map(str, [*b"Once", *ids])) in written.splitlines()


def test_a_checkpoint_of_train_py_is_read(home: Path, tmp_path: Path) -> None:
    """With the prefix of torch.compile, numpy's scalars and an optimizer state."""
    run = make_run(home, NANOGPT, TOKENIZER)
    path = exported(run, tmp_path / "out")
    content = torch.load(path, weights_only=True)
    content["model"] = {f"_orig_mod.{name}": value for name, value in content["model"].items()}
    content |= {"best_val_loss": np.float64(1.5), "optimizer": {"state": {}}, "config": {"dataset": "x"}}
    torch.save(content, path)
    assert hashes(imported(home, path)) == hashes(run)


def save(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch evil",))


FAULTS: dict[str, tuple[Any, str]] = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-500]), "cannot be loaded"),
    "a pickle with code": (lambda path: path.write_bytes(pickle.dumps(Evil())), "cannot be loaded"),
    "code in a checkpoint": (lambda path: torch.save({"model": Evil(), "model_args": {}}, path), "may run code"),
    "no dictionary": (lambda path: torch.save([1], path), "does not hold a dictionary"),
    "no model": (lambda path: torch.save({"a": 1}, path), "is not a checkpoint of nanoGPT"),
    "no tensors": (lambda path: save(path, lambda c: c.update(model={"a": 1})), "does not hold weights by name"),
    "missing": (lambda path: save(path, lambda c: c["model"].pop("lm_head.weight")), "lm_head.weight is missing"),
    "swapped": (
        lambda path: save(path, lambda c: c["model"].update({"transformer.h.0.mlp.c_fc.weight": torch.zeros(24, 96)})),
        r"transformer\.h\.0\.mlp\.c_fc\.weight has the shape 24×96 instead of 96×24",
    ),
    "NaN": (lambda path: save(path, lambda c: c["model"]["lm_head.weight"].fill_(torch.nan)), "NaN"),
    "sparse": (
        lambda path: save(path, lambda c: c["model"].update(a=torch.zeros(2, 2).to_sparse())),
        "a is not a plain",
    ),
    "integers": (lambda path: save(path, lambda c: c["model"].update(a=torch.zeros(2, dtype=torch.int8))), "a is not"),
    "expanded": (
        lambda path: save(path, lambda c: c["model"].update(a=torch.zeros(1).expand(1 << 20, 1 << 20))),
        "a is not a plain tensor",
    ),
    "many layers": (lambda path: save(path, lambda c: c["model_args"].update(n_layer=10**9)), "1000000000 layers"),
    "bad sizes": (lambda path: save(path, lambda c: c["model_args"].update(n_embd="x")), "model_args are incomplete"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without faults."""
    place = tmp_path_factory.mktemp("whole")
    return exported(make_run(place, NANOGPT, TOKENIZER), place / "out").parent


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_lie(fault: str, whole: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copytree(whole, tmp_path / "out")) / "ckpt.pt"
    damage, message = FAULTS[fault]
    damage(path)
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match=message):
        imported(home, path)
    assert sorted(home.rglob("*")) == before
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (SHAPE, "model.norm is rmsnorm"),
        (replace(NANOGPT, d_ff=44), "model.d_ff is 44"),
        (replace(NANOGPT, tied_head=False), "model.tied_head is off"),
        (replace(NANOGPT, norm_eps=1e-6), "model.norm_eps is 1e-06"),
    ],
)
def test_what_nanogpt_lacks_is_refused(shape: Any, message: str, home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        exported(make_run(home, shape, TOKENIZER), tmp_path / "out")


def nanochat_checkpoint(folder: Path, **settings: Any) -> tuple[Path, torch.nn.Module]:
    """A checkpoint as nanochat writes it, and the same weights in transformers' NanoChat."""
    from llm.model.transformer import Transformer

    shape = replace(NANOCHAT, vocab_size=264, d_ff=96, context=64, norm_eps=2.0**-23)
    torch.manual_seed(3)
    model = Transformer(shape)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    folder.mkdir()
    names = to_names(model.state_dict(), NANOCHAT_CHECKPOINT_NAMING)
    torch.save({f"_orig_mod.{name}": value for name, value in names.items()}, folder / "model_000020.pt")
    described = {"sequence_len": 64, "vocab_size": 257, "n_layer": 2, "n_head": 6, "n_kv_head": 2, "n_embd": 24}
    meta = {"step": 20, "model_config": described | settings}
    (folder / "meta_000020.json").write_text(json.dumps(meta))
    theirs = transformers.NanoChatForCausalLM(transformers.NanoChatConfig(**nanochat_settings(shape)))
    theirs.load_state_dict(to_nanochat(model.state_dict()))
    TOKENIZER.save(folder / "tokenizer")
    return folder, theirs.eval()


@torch.no_grad()
def test_a_nanochat_checkpoint_gives_the_logits_of_transformers(home: Path, tmp_path: Path) -> None:
    folder, theirs = nanochat_checkpoint(tmp_path / "d2")
    run = imported(home, folder, tokenizer=folder / "tokenizer")
    ours, _ = load_model(run, run.checkpoint())
    text = torch.randint(0, 257, (2, 50), generator=torch.Generator().manual_seed(1))
    assert (theirs(text).logits - ours(text)).abs().max() <= 1e-5


def test_what_a_newer_nanochat_has_more_is_named(home: Path, tmp_path: Path) -> None:
    folder, _ = nanochat_checkpoint(tmp_path / "d2")
    with pytest.raises(UserError, match="is a pickle, which may run code"):
        imported(home, folder)
    content = torch.load(folder / "model_000020.pt", weights_only=True)
    torch.save(content | {"resid_lambdas": torch.ones(2)}, folder / "model_000020.pt")
    with pytest.raises(UserError, match="resid_lambdas is unexpected"):
        imported(home, folder, tokenizer=folder / "tokenizer")
    other, _ = nanochat_checkpoint(tmp_path / "windows", window_pattern="SSSL")
    with pytest.raises(UserError, match=r"sliding windows \(SSSL\)"):
        imported(home, other, tokenizer=other / "tokenizer")
