"""A GPU gives the text of the CPU in float64; next to a trainer the engine uses one thread."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Engine, use_one_thread
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
EVERYTHING = DecodeConfig(
    temperature=1.0, dynamic_range=0.3, top_k=90, top_p=0.97, min_p=0.001, typical_p=0.99, top_n_sigma=5.0,
    epsilon_cutoff=1e-5, eta_cutoff=1e-5, xtc_probability=0.3, xtc_threshold=0.3, mirostat_tau=6.0,
    repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1, no_repeat_ngram=4, dry_multiplier=0.8,
    logit_bias=("97=1.5",), banned_tokens=("x",), min_tokens=5, length_penalty=1.01, max_tokens=40,
)  # fmt: skip


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_text_on_a_gpu(position: str, beams: int) -> None:
    size = ModelConfig(n_layer=2, d_model=24, n_head=3, n_kv_head=3, d_ff=40, context=32, vocab_size=257, init_std=0.3)
    model = Transformer(replace(size, position=position)).double()
    model.init_weights(torch.Generator().manual_seed(0))
    model.eval()
    params = replace(EVERYTHING, beams=beams)
    texts = []
    for device in ("cpu", "cuda"):
        pieces = list(Engine(model, TOKENIZER, device=device).stream("Once", params, num_samples=3))
        texts.append([(piece.sample, piece.token_id) for piece in pieces[:-1]])
    assert texts[0] == texts[1]
    assert next(model.parameters()).device.type == "cpu"


def test_one_thread_here_leaves_the_others_alone() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    torch.set_num_threads(2)
    try:
        thread = threading.Thread(target=lambda: (use_one_thread(), seen.append(torch.get_num_threads())))
        thread.start()
        thread.join()
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
