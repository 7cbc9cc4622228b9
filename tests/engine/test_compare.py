"""Two models side by side, and one through its checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.config.decode_schema import DecodeConfig
from llm.engine import Engine, Piece
from llm.engine.compare import compare, kl_divergence
from llm.engine.timelapse import timelapse
from llm.errors import UserError
from llm.run import Run
from llm.tokenizer.byte import ByteTokenizer
from llm.weights import load_model
from tests.engine.test_engine import TOKENIZER, collect, make_model

PARAMS = DecodeConfig(temperature=0.7, max_tokens=61, seed=3, ban_end=True)


def test_kl_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    logs = [torch.log_softmax(logits, dim=-1) for logits in (a, b)]
    wanted = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(a, b), wanted)


def test_a_model_compared_with_itself() -> None:
    found = compare((Engine(make_model(), TOKENIZER), Engine(make_model(), TOKENIZER)), "Once", PARAMS)
    assert found.sides[0] == found.sides[1] and found.same_tokenizer
    assert (found.first_token, found.first_character) == (None, None)
    assert found.sides[0].divergence == (0.0,) * 61 and found.sides[0].mean_divergence == 0


def test_two_models_part_at_the_first_token_that_differs() -> None:
    model = make_model()
    near = make_model()
    with torch.no_grad():
        near.head_weight.add_(0.004 * torch.randn(near.head_weight.shape, generator=torch.Generator().manual_seed(1)))
    seen: list[tuple[int, Piece]] = []
    engines = (Engine(model, TOKENIZER), Engine(near, TOKENIZER))
    found = compare(engines, "Once", PARAMS, on_piece=lambda side, piece: seen.append((side, piece)))
    first, second = found.sides
    place = found.first_token
    assert place is not None and 0 < place < 61
    assert first.tokens[:place] == second.tokens[:place] and first.tokens[place] != second.tokens[place]
    assert first.text == "".join(piece.text for side, piece in seen if side == 0)
    assert list(first.tokens) == collect(Engine(model, TOKENIZER), "Once", PARAMS)[0][0], "the seed's own text"
    ids = [*TOKENIZER.encode("Once"), *first.tokens[:7]]
    logits = [one(torch.tensor([ids]))[:, -1, : TOKENIZER.vocab_size] for one in (model, near)]
    assert first.divergence is not None and second.divergence is not None
    assert first.divergence[7] == pytest.approx(kl_divergence(*logits).item(), rel=1e-3)
    backwards = kl_divergence(*logits[::-1]).item()
    if place > 7:
        assert second.divergence[7] == pytest.approx(backwards, rel=1e-3)


def test_different_tokenizers_are_compared_by_characters() -> None:
    other = ByteTokenizer(("<|end|>",))
    found = compare((Engine(make_model(), TOKENIZER), Engine(make_model(), other)), "Once", PARAMS)
    assert not found.same_tokenizer and found.first_token is None and found.sides[0].divergence is None
    assert found.first_character is None, "the same bytes all the same"


def test_a_comparison_can_be_stopped() -> None:
    engines = (Engine(make_model(), TOKENIZER), Engine(make_model(1), TOKENIZER))
    found = compare(engines, "Once", PARAMS, cancel=lambda: True)
    assert [side.reason for side in found.sides] == ["cancelled"] * 2


def test_time_lapse(trained_run: Run, tmp_path: Path) -> None:
    params = replace(PARAMS, max_tokens=13, ban_end=False)
    frames = list(timelapse(trained_run, ["Ada", "Chen"], params, device="cpu"))
    assert [(frame.step, frame.prompt) for frame in frames] == [(10, "Ada"), (10, "Chen"), (20, "Ada"), (20, "Chen")]
    model, tokenizer = load_model(trained_run, trained_run.checkpoint("10"))
    assert frames[1].text == collect(Engine(model, tokenizer), "Chen", params)[1][0]
    assert frames[0].metrics["validation_loss"] > frames[2].metrics["validation_loss"]
    shutil.copytree(trained_run.path, tmp_path / "runs" / "hurt")
    run = Run.open(tmp_path, "hurt")
    (run.checkpoint("10").path / "model.safetensors").write_bytes(b"cut")
    damaged, whole = timelapse(run, ["Ada"], params, device="cpu")
    assert "model.safetensors" in damaged.problem and whole.text == frames[2].text
    with pytest.raises(UserError, match="no checkpoint yet"):
        list(timelapse(Run.create(tmp_path, "new", run.config()), ["Ada"], params))
