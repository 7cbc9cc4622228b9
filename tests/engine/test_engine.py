"""The engine: what it writes, streams, stops at, and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.config.schema import ModelConfig
from llm.engine import Done, Engine, Piece, resolve_prompt, snapshot_model
from llm.errors import UserError, WrongUse
from llm.model.transformer import Transformer
from llm.tokenizer.byte import ByteTokenizer

TOKENIZER = ByteTokenizer(("<|endoftext|>",))
END = TOKENIZER.special_tokens["<|endoftext|>"]
PLAIN = DecodeConfig(temperature=1.0, max_tokens=20)
CONFIG = ModelConfig(n_layer=2, d_model=24, n_head=3, n_kv_head=3, d_ff=40, context=48, vocab_size=TOKENIZER.vocab_size)


def make_model(seed: int = 0, **changes: object) -> Transformer:
    """A model whose weights are large enough for its next token to depend on its text."""
    model = Transformer(replace(CONFIG, init_std=0.4, **changes))
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.eval()


def collect(
    engine: Engine, prompt: str | list[int], params: DecodeConfig, **more: object
) -> tuple[list[list[int]], list[str], Done]:
    """Tokens and text of every sample, and the end."""
    *pieces, done = engine.stream(prompt, params, **more)
    assert isinstance(done, Done)
    count = len(done.reasons)
    tokens: list[list[int]] = [[] for _ in range(count)]
    texts = [""] * count
    for piece in pieces:
        assert isinstance(piece, Piece)
        texts[piece.sample] += piece.text
        if piece.token_id is not None:
            tokens[piece.sample].append(piece.token_id)
    return tokens, texts, done


class Script(Transformer):
    """A model that continues a prompt of `skip` tokens with the bytes of a script, then with the end of text."""

    def __init__(self, script: str, skip: int) -> None:
        super().__init__(replace(CONFIG, context=4096, position="rope"))
        self.script, self.skip = [*script.encode(), END], skip
        self.eval()

    def forward(self, tokens, cache=None, *, last_only=False):  # type: ignore[no-untyped-def]
        length = tokens.shape[1] + (0 if cache is None else cache.length)
        if cache is not None:
            cache.advance(tokens.shape[1])
        place = min(max(length - self.skip, 0), len(self.script) - 1)
        logits = torch.full((tokens.shape[0], 1, TOKENIZER.vocab_size), -50.0)
        logits[..., self.script[place]] = 50.0
        return logits


def scripted(script: str, prompt: str = "Q") -> Engine:
    return Engine(Script(script, len(prompt.encode())), TOKENIZER)


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    params = replace(PLAIN, seed=7)
    tokens, _, done = collect(Engine(make_model(), TOKENIZER), "Once", params)
    again, _, _ = collect(Engine(make_model(), TOKENIZER), "Once", params)
    other, _, _ = collect(Engine(make_model(), TOKENIZER), "Once", replace(params, seed=8))
    assert tokens == again != other
    assert done.reason == "length"
    assert done.tokens == 20


def test_text_does_not_depend_on_earlier_prompts() -> None:
    engine = Engine(make_model(context=400), TOKENIZER)
    long = "All happy families are alike; " * 10
    fresh = collect(engine, long, PLAIN)
    collect(engine, long[:200] + "and then", PLAIN)
    tokens, texts, done = collect(engine, long, PLAIN)
    assert (tokens, texts) == fresh[:2]
    assert done.reused == 128


def test_greedy_is_the_argmax_of_the_model_run_afresh() -> None:
    model = make_model()
    (tokens,), _, _ = collect(Engine(model, TOKENIZER), "Hello", replace(PLAIN, temperature=0.0))
    text = list(b"Hello")
    for token in tokens:
        with torch.no_grad():
            assert token == int(model(torch.tensor([text]))[0, -1].argmax())
        text.append(token)


def test_pieces_carry_the_models_logprob() -> None:
    model = make_model()
    pieces = list(Engine(model, TOKENIZER).stream("Hello", replace(PLAIN, top_k=4)))[:-1]
    text = list(b"Hello")
    for piece in pieces:
        with torch.no_grad():
            logits = model(torch.tensor([text]))[0, -1]
        assert piece.logprob == pytest.approx(float(torch.log_softmax(logits, -1)[piece.token_id]), abs=1e-4)
        assert piece.probability == pytest.approx(
            float(torch.exp(logits[piece.token_id]) / torch.exp(logits.topk(4).values).sum()), rel=1e-3
        )
        text.append(piece.token_id)


def test_several_samples_differ_and_each_is_that_of_its_seed() -> None:
    engine = Engine(make_model(), TOKENIZER)
    tokens, texts, done = collect(engine, "Once", PLAIN, num_samples=3)
    assert len(set(texts)) == 3
    assert tokens[0] == collect(engine, "Once", PLAIN)[0][0]
    assert done.tokens == 60
    assert done.reasons == ("length",) * 3
    assert collect(engine, "Once", replace(PLAIN, num_samples=3))[0] == tokens


def test_a_long_prompt_is_read_once_and_what_two_prompts_share_not_again() -> None:
    model = make_model(context=512)
    fed: list[tuple[int, int]] = []
    hook = model.embedding.register_forward_pre_hook(lambda _, inputs: fed.append(tuple(inputs[0].shape)))
    engine = Engine(model, TOKENIZER)
    prompt = list(range(256)) + list(range(44))
    collect(engine, prompt, replace(PLAIN, max_tokens=4), num_samples=3)
    assert fed == [(1, 128), (1, 128), (1, 44), (3, 1), (3, 1), (3, 1)]
    fed.clear()
    _, _, done = collect(engine, [*prompt[:200], *range(100)], replace(PLAIN, max_tokens=1))
    assert fed == [(1, 128), (1, 44)]
    assert done.reused == 128
    hook.remove()


def test_new_weights_forget_what_was_read() -> None:
    first, second = make_model(1, context=400), make_model(2, context=400)
    engine = Engine(snapshot_model(first), TOKENIZER, weights_version=1)
    prompt = "x" * 300
    before = collect(engine, prompt, PLAIN)
    engine.refresh(first, 1)
    assert collect(engine, prompt, PLAIN)[2].reused == 256
    engine.refresh(second, 2)
    after = collect(engine, prompt, PLAIN)
    assert after[2].reused == 0
    assert after[0] == collect(Engine(second, TOKENIZER), prompt, PLAIN)[0] != before[0]
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), make_model(1, context=400).parameters(), strict=True)
    )


def test_whole_characters_only() -> None:
    script = "你好，世界！😀 naïve"
    pieces = [
        piece for piece in scripted(script).stream("Q", replace(PLAIN, max_tokens=99)) if isinstance(piece, Piece)
    ]
    assert "".join(piece.text for piece in pieces) == script
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert len(pieces) == len(script.encode()) + 1
    assert pieces[-1].reason == "stop"


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    _, (text,), _ = collect(scripted("好好"), "Q", replace(PLAIN, max_tokens=4))
    assert text == "好\ufffd"


def test_a_prompt_of_tokens_may_end_in_half_a_character() -> None:
    engine = Engine(Script("", 0), TOKENIZER)
    engine.model.script = [*"好".encode(), END]  # the prompt is the first byte of the script
    _, (text,), _ = collect(engine, ["好".encode()[0]], PLAIN)
    assert text == "好"


@pytest.mark.parametrize(
    ("stop", "shown"), [("User:", "Yes.\n"), ("好", "Yes.\nUser: "), ("never", "Yes.\nUser: 好!"), ("Y", "")]
)
def test_stop_strings_across_token_borders(stop: str, shown: str) -> None:
    pieces = list(scripted("Yes.\nUser: 好!").stream("Q", replace(PLAIN, max_tokens=99, stop=(stop,))))
    assert "".join(piece.text for piece in pieces[:-1]) == shown
    assert pieces[-1].reason == "stop"


def test_what_was_held_back_is_shown_when_the_reply_ends_otherwise() -> None:
    _, (text,), done = collect(scripted("one\nUse"), "Q", replace(PLAIN, max_tokens=7, stop=("\nUser:",)))
    assert (text, done.reason) == ("one\nUse", "length")


def test_shortest_length_puts_off_the_end_and_stop_strings() -> None:
    _, (text,), _ = collect(scripted("a.b.c.d"), "Q", replace(PLAIN, stop=(".",), min_tokens=4, max_tokens=99))
    assert text == "a.b"
    tokens, _, _ = collect(scripted("ab"), "Q", replace(PLAIN, min_tokens=6))
    assert len(tokens[0]) >= 6
    assert END not in tokens[0][:6]


def test_what_was_held_back_keeps_its_place_when_the_shortest_length_is_raised() -> None:
    params = replace(PLAIN, stop=("xyz",), max_tokens=99)
    changed = [params, params, params, *[replace(params, min_tokens=5)] * 99]
    later = iter(changed)
    pieces = scripted("abxqr").stream("Q", params, params_source=lambda: next(later))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == "abxqr"


def test_beams_stop_where_drawing_would() -> None:
    for shortest, shown in ((0, "a"), (4, "a.b")):
        params = replace(PLAIN, stop=(".",), min_tokens=shortest, max_tokens=99, beams=2)
        _, (text, *_), done = collect(scripted("a.b.c.d"), "Q", params)
        assert (text, done.reason) == (shown, "stop")


def test_a_beam_search_may_find_fewer_texts_than_were_asked_for() -> None:
    params = replace(PLAIN, beams=4, num_samples=4, top_k=1, max_tokens=5)
    _, texts, done = collect(Engine(make_model(), TOKENIZER), "Once", params)
    assert len(texts) == len(done.reasons) == 1 and texts[0]


def test_total_length() -> None:
    _, _, done = collect(scripted("x" * 50), "Q" * 1, replace(PLAIN, max_total_tokens=9))
    assert done.tokens == 8
    with pytest.raises(WrongUse, match="max_total_tokens is 5"):
        scripted("x").stream("Q" * 5, replace(PLAIN, max_total_tokens=5))


def test_canceled_within_one_token() -> None:
    stopped = False
    stream = Engine(make_model(), TOKENIZER).stream("Once", replace(PLAIN, max_tokens=10_000), cancel=lambda: stopped)
    for _ in range(3):
        assert next(stream).token_id is not None
    stopped = True
    rest = list(stream)
    assert [getattr(item, "token_id", "done") for item in rest] == [None, "done"]
    assert rest[-1].reason == "cancelled"
    assert rest[-1].tokens == 3


def test_canceled_while_reading_a_long_prompt() -> None:
    engine = Engine(make_model(context=1024), TOKENIZER)
    piece, done = engine.stream("x" * 1000, PLAIN, cancel=lambda: True)
    assert (piece.text, piece.reason, done.reason, done.tokens) == ("", "cancelled", "cancelled", 0)
    assert collect(engine, "x" * 1000, PLAIN)[0] == collect(Engine(engine.model, TOKENIZER), "x" * 1000, PLAIN)[0]


def test_a_reply_left_half_read_does_no_harm() -> None:
    engine = Engine(make_model(), TOKENIZER)
    stream = engine.stream("Once", PLAIN)
    next(stream)
    other = collect(engine, "Twice", PLAIN)
    rest = [item.token_id for item in list(stream)[:-1]]
    stream.close()
    fresh = Engine(make_model(), TOKENIZER)
    assert other[0] == collect(fresh, "Twice", PLAIN)[0]
    assert rest == collect(fresh, "Once", PLAIN)[0][0][1:]


def test_new_parameters_apply_from_the_next_token() -> None:
    now = PLAIN
    engine = Engine(make_model(), TOKENIZER)
    stream = engine.stream("Once", PLAIN, params_source=lambda: now)
    tokens = [next(stream).token_id for _ in range(5)]
    now = replace(PLAIN, logit_bias=("65=1000",), max_tokens=9)
    rest = list(stream)
    assert tokens == collect(engine, "Once", PLAIN)[0][0][:5]
    assert [piece.token_id for piece in rest[:-1]] == [65] * 4
    assert rest[-1].reason == "length"


def test_nothing_touches_training() -> None:
    model = make_model(dropout=0.5).train()
    before = torch.get_rng_state()
    weights = [parameter.clone() for parameter in model.parameters()]
    engine = Engine(model, TOKENIZER)
    stream = engine.stream("Once", PLAIN, num_samples=2)
    next(stream)
    assert torch.is_grad_enabled()  # also while the reply is under way
    list(stream)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert engine.model is not model
    assert all(torch.equal(a, b) and a.requires_grad for a, b in zip(model.parameters(), weights, strict=True))
    # and no dropout in what it wrote
    assert collect(engine, "Once", PLAIN)[0] == collect(Engine(snapshot_model(model), TOKENIZER), "Once", PLAIN)[0]


def test_half_precision_is_a_separate_copy() -> None:
    model = make_model()
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16)
    assert collect(engine, "Once", PLAIN)[2].tokens == 20
    assert engine.model.head_weight.dtype == torch.bfloat16
    assert model.head_weight.dtype == torch.float32
    other = make_model(5)
    engine.refresh(other, 2)
    assert torch.equal(engine.model.head_weight, other.head_weight.bfloat16())
    assert Engine(model, TOKENIZER, device="cpu", dtype=torch.float32).model is model


def test_an_empty_prompt_starts_a_document() -> None:
    engine = Engine(make_model(), TOKENIZER)
    assert engine.prompt_ids("", PLAIN) == [END]
    assert engine.prompt_ids("hi", replace(PLAIN, separator_first=True)) == [END, *b"hi"]
    assert engine.prompt_ids("<|endoftext|>hi", replace(PLAIN, separator_first=True)) == [END, *b"hi"]
    plain = Engine(make_model(), ByteTokenizer(()))
    assert plain.prompt_ids("", PLAIN) == [10]
    assert collect(plain, "", PLAIN)[2].tokens == 20


def test_a_model_with_more_rows_than_tokens_never_writes_the_others() -> None:
    model = make_model(vocab_size=600)
    tokens, _, _ = collect(Engine(model, TOKENIZER), "a", replace(PLAIN, max_tokens=60))
    assert max(tokens[0]) < TOKENIZER.vocab_size
    with pytest.raises(UserError, match="load the tokenizer"):
        Engine(make_model(vocab_size=100), TOKENIZER)


def test_a_prompt_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(WrongUse, match="token 999"):
        Engine(make_model(), TOKENIZER).stream([1, 999], PLAIN)


def test_explain_shows_the_first_token_of_a_reply() -> None:
    engine = Engine(make_model(), TOKENIZER)
    params = replace(PLAIN, temperature=0.0)
    stages = engine.explain("Once", params, top=3)
    assert [stage.name for stage in stages] == ["model", "temperature"]
    assert stages[-1].top[0] == (collect(engine, "Once", params)[0][0][0], 1.0)


def test_file_prompts(tmp_path: Path) -> None:
    file = tmp_path / "故事.txt"
    file.write_text("Once 好\n", encoding="utf-8")
    assert resolve_prompt(f"FILE:{file}") == "Once 好\n"
    assert resolve_prompt("no FILE: here") == "no FILE: here"
    with pytest.raises(WrongUse, match="does not exist"):
        resolve_prompt("FILE:nowhere.txt")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        resolve_prompt(f"FILE:{file}")
