"""`bench train` on a small model: the candidates compute the same, and it is an error if they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.errors import UserError
from workbench.bench import train
from workbench.bench.peers import nanogpt_model
from workbench.bench.train import (
    CHAR,
    SHAPES,
    Candidate,
    Shape,
    check_losses,
    lines_of,
    loss_gap,
    measure,
    measure_speeds,
)

SMALL = Shape(replace(CHAR, n_layer=2, d_model=24, n_head=2, n_kv_head=2, d_ff=96, context=11), 3, 6, 1)

# A model with the interface and the parameter names of nanoGPT's, and the exact GELU that it has.
STAND_IN = """
import torch
from dataclasses import dataclass
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int; vocab_size: int; n_layer: int; n_head: int; n_embd: int; dropout: float; bias: bool

class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.n_head
        self.c_attn, self.c_proj = nn.Linear(c.n_embd, 3 * c.n_embd), nn.Linear(c.n_embd, c.n_embd)
    def forward(self, x):
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.c_attn(x).chunk(3, -1))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(c.n_embd, 4 * c.n_embd), nn.Linear(4 * c.n_embd, c.n_embd)
    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(c.n_embd), Attention(c), nn.LayerNorm(c.n_embd), MLP(c)
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(wte=nn.Embedding(c.vocab_size, c.n_embd),
            wpe=nn.Embedding(c.block_size, c.n_embd), h=nn.ModuleList(Block(c) for _ in range(c.n_layer)),
            ln_f=nn.LayerNorm(c.n_embd)))
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        print("number of parameters")
    def forward(self, tokens, targets):
        t = self.transformer
        x = t.wte(tokens) + t.wpe.weight[: tokens.shape[1]]
        for block in t.h:
            x = block(x)
        logits = self.lm_head(t.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("using fused AdamW")
        groups = [{"params": [p for p in self.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
                  {"params": [p for p in self.parameters() if p.ndim < 2], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
"""


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(STAND_IN)
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "small", SMALL)


def test_all_candidates_have_the_same_losses(
    small: None, nanogpt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "choose_precision", lambda wanted, device: "bf16")
    threads = torch.get_num_threads()
    (result,) = measure("cpu", ["small"], pairs=2, threads=1, nanogpt=nanogpt)
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().out == ""  # stdout is for the result
    assert [(rival["name"], rival["precision"]) for rival in result["rivals"]] == [
        ("llm-workbench", "bf16"),
        ("transformers", "bf16"),
        ("nanoGPT", "bf16"),
        ("llm-workbench", "fp32"),
        ("transformers", "fp32"),
        ("nanoGPT", "fp32"),
        ("llm-workbench again", "fp32"),
    ]
    for rival in result["rivals"]:
        assert rival["losses"][0] == pytest.approx(4.174, abs=0.05)  # ln 65
        assert rival["losses"][4] < rival["losses"][0]  # the same batch once more
    gaps = {(rival["name"], rival["precision"]): rival["largest_loss_gap"] for rival in result["rivals"]}
    assert gaps["llm-workbench again", "fp32"] == 0.0
    assert gaps["transformers", "fp32"] < 1e-5
    assert {(each["ours"], each["rival"], each["rival_precision"]) for each in result["ratios"]} >= {
        ("fp32", "nanoGPT", "fp32"),
        ("bf16", "nanoGPT", "fp32"),
        ("bf16", "transformers", "bf16"),
        ("fp32", "llm-workbench again", "fp32"),
    }
    assert "differs by at most 0.000% from ours" in "\n".join(lines_of(result))


def test_different_losses_are_an_error() -> None:
    ours, other = (Candidate(name, "fp32", lambda batch: float, losses) for name, losses in
                   [("llm-workbench", (4.0, 3.0)), ("transformers", (4.0, 3.3))])  # fmt: skip
    assert loss_gap(ours, other) == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"llm-workbench and transformers in fp32 differ by 10\.00% within 2 steps"):
        check_losses(ours, other)
    with pytest.raises(UserError, match="differ by nan"):
        check_losses(ours, replace(other, losses=(4.0, float("nan"))))


def test_a_different_learning_rate_is_an_error(small: None, nanogpt: Path) -> None:
    (nanogpt / "model.py").write_text(STAND_IN.replace("lr=learning_rate", "lr=learning_rate * 5"))
    with pytest.raises(UserError, match="llm-workbench and nanoGPT"):
        list(measure("cpu", ["small"], pairs=1, threads=1, nanogpt=nanogpt))


def test_candidates_are_measured_in_alternating_order() -> None:
    called: list[str] = []

    def candidate(name: str) -> Candidate:
        def step(batch: object) -> Callable[[], float]:
            called.append(name)
            return float

        return Candidate(name, "fp32", step, ())

    speeds = measure_speeds([candidate(name) for name in "abc"], SMALL, train.random_batches(SMALL), 3)
    assert "".join(called) == "abccbaabc"
    assert [len(speed) for speed in speeds] == [3, 3, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no .*model.py; give the folder of a checkout of nanoGPT"),
        ("import no_such_module", "cannot be run .No module named 'no_such_module'."),
        ("x = 1", "has no GPT and GPTConfig"),
    ],
)
def test_a_folder_without_nanogpt_is_an_error(text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "model.py").write_text(text)
    model = train.Transformer(SMALL.model)
    with pytest.raises(UserError, match=sentence):
        nanogpt_model(model, tmp_path)
