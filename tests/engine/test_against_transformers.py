"""Greedy decoding and beam search against transformers' generate, on the same weights in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Engine
from llm.engine.beam import Beam, beam_search
from llm.engine.reader import Reader
from llm.interop.architectures import llama_settings
from llm.interop.weights import to_llama
from llm.model.transformer import Transformer
from llm.sampling.vocabulary import Vocabulary
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
END = TOKENIZER.special_tokens["<|endoftext|>"]
CONFIG = ModelConfig(
    n_layer=2, d_model=24, n_head=6, n_kv_head=3, d_ff=44, context=64, vocab_size=TOKENIZER.vocab_size,
    rope_pairs="halves", init_std=0.35,
)  # fmt: skip
PROMPT = list(b"Once upon a")
NEUTRAL = DecodeConfig(temperature=1.0, max_tokens=12)


def same_weights(seed: int) -> tuple[Transformer, LlamaForCausalLM]:
    ours = Transformer(CONFIG).double()
    ours.init_weights(torch.Generator().manual_seed(seed))
    ends = {"eos_token_id": END, "pad_token_id": END}
    theirs = LlamaForCausalLM(LlamaConfig(**llama_settings(CONFIG) | ends)).double()
    theirs.load_state_dict(to_llama(ours.state_dict(), CONFIG))
    return ours.eval(), theirs.eval()


def beams_of(model: Transformer, params: DecodeConfig) -> list[Beam]:
    """All beams, the best first."""
    vocabulary = Vocabulary(TOKENIZER, torch.device("cpu"))
    return beam_search(Reader(model), vocabulary, PROMPT, params, params.max_tokens, lambda: False)


@pytest.mark.parametrize("seed", range(3))
def test_greedy(seed: int) -> None:
    ours, theirs = same_weights(seed)
    pieces = list(Engine(ours, TOKENIZER).stream(PROMPT, replace(NEUTRAL, temperature=0.0)))[:-1]
    expected = theirs.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=12)[0, len(PROMPT) :].tolist()
    assert [piece.token_id for piece in pieces] == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("beams", "penalty", "bias"), [(2, 1.0, 0.0), (4, 1.0, 3.0), (5, 0.0, 5.0), (3, 2.0, 4.0)])
def test_beam_search(seed: int, beams: int, penalty: float, bias: float) -> None:
    """The end of text is made likelier by a bias, so that some beams end early and others do not."""
    ours, theirs = same_weights(seed)
    biased = (f"{END}={bias}",) if bias else ()
    params = replace(NEUTRAL, beams=beams, beam_length_penalty=penalty, logit_bias=biased)
    found = beams_of(ours, params)
    expected = theirs.generate(
        torch.tensor([PROMPT]), num_beams=beams, num_return_sequences=beams, do_sample=False, max_new_tokens=12,
        length_penalty=penalty, output_scores=True, return_dict_in_generate=True, renormalize_logits=True,
        sequence_bias=[[[END], bias]] if bias else None,
    )  # fmt: skip
    assert len(found) == beams
    for beam, sequence, score in zip(found, expected.sequences, expected.sequences_scores, strict=True):
        tokens = sequence[len(PROMPT) :].tolist()
        assert list(beam.tokens) == tokens[: len(beam.tokens)]
        assert set(tokens[len(beam.tokens) :]) <= {END}
        assert beam.score(penalty) == pytest.approx(float(score), rel=1e-6)  # they add the scores up in float32


def test_beams_are_streamed_as_samples() -> None:
    ours, _ = same_weights(1)
    engine = Engine(ours, TOKENIZER)
    params = replace(NEUTRAL, beams=3, num_samples=2)
    *pieces, done = engine.stream(PROMPT, params)
    texts = [[piece.token_id for piece in pieces if piece.sample == sample] for sample in range(2)]
    best = beams_of(ours, params)
    assert [tuple(text) for text in texts] == [beam.tokens for beam in best[:2]]
    assert done.reasons == ("length", "length")
    assert done.tokens == 24
    *pieces, done = engine.stream(PROMPT, params, cancel=lambda: True)
    assert done.reason == "cancelled"
