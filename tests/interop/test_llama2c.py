"""llama2.c's files: the format byte by byte, the C programs where their checkout is given, and back."""

from __future__ import annotations

import math
import os
import re
import shutil
import string
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm.errors import UserError
from llm.interop.export import export
from llm.interop.formats import FORMATS
from llm.interop.import_run import import_run
from llm.model.kernels import REFERENCE
from llm.model.layers import use_kernels
from llm.model.transformer import Transformer
from llm.run import Run
from llm.run.checkpoints import MODEL
from llm.tokenizer.byte import ByteTokenizer
from llm.tokenizer.spm import MAX_MODEL_BYTES, SentencePieceTokenizer
from llm.weights import load_model
from tests.interop.runs_for_tests import (
    END,
    GPT2,
    SHAPE,
    finish,
    hashes,
    make_run,
    source_of,
    text_of_all_kinds,
)

TOKENIZER = SentencePieceTokenizer.train([text_of_all_kinds(seed=2)], 600)
ROWS = TOKENIZER.vocab_size + 3
SMALL = replace(SHAPE, vocab_size=ROWS, context=64)
CHECKOUT = os.environ.get("LLAMA2C", "")


def exported(run: Run, folder: Path, dtype: str = "f32") -> Path:
    finish(export(source_of(run), FORMATS["llama2c"], dtype, folder))
    return folder / "model.bin"


@pytest.mark.parametrize("tied", [True, False])
def test_version_0_byte_by_byte(tied: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(SMALL, tied_head=tied), TOKENIZER)
    content = exported(run, tmp_path / "out").read_bytes()
    assert struct.unpack("<7i", content[:28]) == (24, 44, 2, 6, 2, ROWS if tied else -ROWS, 64)
    ours = load_file(run.checkpoint().path / MODEL)
    order = ["embedding.weight"]
    for part in (
        "attn_norm.gain",
        "attn.q.weight",
        "attn.k.weight",
        "attn.v.weight",
        "attn.out.weight",
        "mlp_norm.gain",
    ):
        order += [f"blocks.0.{part}", f"blocks.1.{part}"]
    for part in ("mlp.gate.weight", "mlp.down.weight", "mlp.up.weight"):
        order += [f"blocks.0.{part}", f"blocks.1.{part}"]
    expected = b"".join(ours[name].numpy().tobytes() for name in [*order, "final_norm.gain"])
    expected += bytes(4 * 2 * 64 * 2) + (b"" if tied else ours["head.weight"].numpy().tobytes())
    assert content[28:] == expected


@pytest.mark.parametrize("tied", [True, False])
def test_version_2_byte_by_byte(tied: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(SMALL, tied_head=tied), TOKENIZER)
    content = exported(run, tmp_path / "out", "int8").read_bytes()
    assert struct.unpack("<Ii7iBi", content[:41]) == (0x616B3432, 2, 24, 44, 2, 6, 2, ROWS, 64, tied, 4)
    assert content[41:256] == bytes(215)
    ours = load_file(run.checkpoint().path / MODEL)
    place = 256
    for name in ("blocks.0.attn_norm", "blocks.1.attn_norm", "blocks.0.mlp_norm", "blocks.1.mlp_norm", "final_norm"):
        assert content[place : place + 96] == ours[f"{name}.gain"].numpy().tobytes()
        place += 96
    order = ["embedding.weight"]
    for part in ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.down", "mlp.up"):
        order += [f"blocks.{layer}.{part}.weight" for layer in range(2)]
    for name in [*order, *([] if tied else ["head.weight"])]:
        matrix = ours[name].numpy()
        values = np.frombuffer(content, np.int8, matrix.size, place).reshape(-1, 4)
        scales = np.frombuffer(content, np.float32, matrix.size // 4, place + matrix.size)
        assert np.abs(values * scales[:, None] - matrix.reshape(-1, 4)).max() <= scales.max() / 2 * 1.001
        place += matrix.size * 2
    assert place == len(content)


def test_tokenizer_bin(home: Path, tmp_path: Path) -> None:
    run = make_run(home, SMALL, TOKENIZER)
    content = exported(run, tmp_path / "out").with_name("tokenizer.bin").read_bytes()
    longest, place, entries = struct.unpack("<I", content[:4])[0], 4, []
    while place < len(content):
        score, size = struct.unpack("<fI", content[place : place + 8])
        entries.append((score, content[place + 8 : place + 8 + size]))
        place += 8 + size
    assert (len(entries), longest) == (ROWS, max(len(text) for _, text in entries))
    assert [text for _, text in entries[:4]] == [b"<unk>", b"\n<s>\n", b"\n</s>\n", b"<0x00>"]
    assert entries[-1] == (-1e10, b"<pad>")


@pytest.mark.parametrize("tied", [True, False])
def test_an_import_gives_weights_and_tokenizer_back(tied: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(SMALL, tied_head=tied), TOKENIZER)
    back: Run = finish(import_run(home, exported(run, tmp_path / "out"), "back"))[0]
    assert hashes(back) == hashes(run)
    _, tokenizer = load_model(back, back.checkpoint())
    text = text_of_all_kinds()
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.stop_ids == TOKENIZER.stop_ids


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without faults."""
    place = tmp_path_factory.mktemp("whole")
    return exported(make_run(place, SMALL, TOKENIZER), place / "out").parent


def damaged(path: Path, start: int, new: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:start] + new + content[start + len(new) :])


def folder_instead_of_tokenizer(path: Path) -> None:
    path.with_name("tokenizer.bin").unlink()
    path.with_name("tokenizer.bin").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is cut off or damaged"),
        (lambda path: damaged(path, 0, struct.pack("<i", 1 << 30)), "is not a model of llama2.c"),
        (lambda path: damaged(path, 8, struct.pack("<i", 1 << 20)), "is not a model of llama2.c"),
        (lambda path: damaged(path, 8, struct.pack("<i", 3)), "is cut off or damaged"),
        (lambda path: damaged(path, 0, struct.pack("<Ii", 0x616B3432, 2)), "is version 2 of the format"),
        (lambda path: damaged(path, 40, struct.pack("<f", math.nan)), "embedding.weight holds values that are NaN"),
        (lambda path: damaged(path.with_name("tokenizer.bin"), 8, b"\xff\xff\xff"), "ends at token 0 of"),
        (lambda path: path.with_name("tokenizer.bin").unlink(), "name the tokenizer with --tokenizer"),
        (
            lambda path: os.truncate(path.with_name("tokenizer.bin"), MAX_MODEL_BYTES + 1),
            r"cannot be read \(it is long",
        ),
        (folder_instead_of_tokenizer, r"cannot be read \(Is a directory\); name the tokenizer with --tokenizer"),
    ],
)
def test_files_that_lie(damage: Any, message: str, whole: Path, home: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "out")) / "model.bin"
    damage(path)
    before = sorted(home.rglob("*"))
    with pytest.raises(UserError, match=message):
        finish(import_run(home, path, "back"))
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 5000.0}, "model.rope_theta is 5000, run.c computes with 10000"),
        ({"norm_eps": 1e-6}, "model.norm_eps is 1e-06"),
        ({"bias": True}, "run.c has no biases"),
        ({"head_dim": 10}, "model.head_dim is 10"),
        ({"softcap": 15.0}, "model.softcap is 15"),
    ],
)
def test_what_the_programs_fix_is_refused(changes: Any, message: str, home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        exported(make_run(home, replace(SMALL, **changes), TOKENIZER), tmp_path / "out")


def test_other_tokenizers_and_models_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the tokenizer is byte, run\.c has SentencePiece"):
        exported(make_run(home, SHAPE, ByteTokenizer((END,)), "byte"), tmp_path / "out")
    with pytest.raises(UserError, match=r"model\.norm is layernorm"):
        exported(make_run(home, GPT2, TOKENIZER, "gpt2"), tmp_path / "out")


def read_pieces(path: Path) -> list[bytes]:
    """The text of every id in a tokenizer.bin, as the programs print it: of a byte piece, its byte."""
    content, place, pieces = path.read_bytes(), 4, []
    while place < len(content):
        size = struct.unpack_from("<I", content, place + 4)[0]
        piece = content[place + 8 : place + 8 + size]
        pieces.append(bytes.fromhex(piece[3:5].decode()) if re.fullmatch(rb"<0x..>", piece) else piece)
        place += 8 + size
    return pieces


def printed(pieces: list[bytes], ids: list[int]) -> bytes:
    """What the programs print for `ids`: no space after the first, and no bytes that are not visible by themselves."""
    shown = [pieces[ids[0]].removeprefix(b" "), *(pieces[token_id] for token_id in ids[1:])]
    return b"".join(piece for piece in shown if len(piece) > 1 or piece.decode("latin-1") in string.printable)


@torch.no_grad()
def greedy_ids(model: Transformer, ids: list[int], count: int) -> list[int]:
    """`ids` and what follows, `count` in all, or up to the id 1, at which the programs stop."""
    while len(ids) < count and ids[1:].count(1) == 0:
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids


def round_groups(x: torch.Tensor) -> torch.Tensor:
    """As runq.c stores numbers: groups of 32, each with its largest magnitude as 127."""
    groups = x.unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups / scale).round() * scale).flatten(-2)


def compute_as_runq(model: Transformer) -> None:
    """Round the matrices, and what they are multiplied with."""
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data = round_groups(weight.data)
    use_kernels(
        model,
        replace(
            REFERENCE,
            linear=lambda x, weight, bias: REFERENCE.linear(round_groups(x), weight, bias),
            joint_linear=lambda x, weights, biases: REFERENCE.joint_linear(round_groups(x), weights, biases),
        ),
    )


@pytest.mark.skipif(not CHECKOUT or shutil.which("cc") is None, reason="LLAMA2C names a checkout of llama2.c")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "program"), [("f32", "run"), ("int8", "runq")])
def test_the_c_programs_write_our_greedy_text(dtype: str, program: str, tied: bool, home: Path, tmp_path: Path) -> None:
    run = make_run(home, replace(SMALL, d_model=64, n_head=4, d_ff=96, context=256, tied_head=tied), TOKENIZER)
    model_path = exported(run, tmp_path / "out", dtype)
    pieces_path, binary = model_path.with_name("tokenizer.bin"), tmp_path / program
    subprocess.run(["cc", "-O2", "-o", binary, f"{CHECKOUT}/{program}.c", "-lm"], check=True)
    settings = ["-z", pieces_path, "-t", "0", "-n", "200", "-i", "Once upon"]
    written = subprocess.run([binary, model_path, *settings], capture_output=True, check=True).stdout
    model, tokenizer = load_model(run, run.checkpoint())
    if dtype == "int8":
        compute_as_runq(model)
    ids = greedy_ids(model, [1, *tokenizer.encode("Once upon")], 201)
    assert len(ids) == 201
    assert written.removesuffix(b"\n") == printed(read_pieces(pieces_path), ids[1:])
