"""Fine-tuning on conversations: the loss by hand, the first checkpoint, training to the end."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm.config import RunConfig, with_overrides
from llm.config.resolve import resolve_model
from llm.data.batches.packing import PackedBatches, PackedRows
from llm.device import Plan
from llm.errors import ConfigError, UserError, WrongUse
from llm.events import AnswersEvaluated, Evaluated, Sampled, StepLogged, Warned
from llm.model.transformer import Transformer
from llm.optim import build_optimizer
from llm.run import Run
from llm.run.fork import open_parent
from llm.training.batch_plan import BatchPlan
from llm.training.context import StepContext
from llm.training.distributed import Ranks
from llm.training.objective import AnswerLoss, build_objective
from llm.training.run import run_training
from llm.training.start_stage import plan_stage, start_stage
from llm.training.state import TrainerState
from llm.training.step import accumulate_gradients
from llm.weights import load_model
from tests.data.batches.test_packing import TOKENIZER, conversations, written

from .conftest import create_run, write_corpus
from .test_resume import StopAfter, assert_same_end, losses

SEQ_LEN, ROWS = 47, 8


def write_conversations(path: Path, count: int = 30, longest: int = 2) -> Path:
    with path.open("w") as file:
        for conversation in conversations(count, longest=longest):
            file.write(
                json.dumps({"messages": [{"role": one.role, "content": one.content} for one in conversation]}) + "\n"
            )
    return path


@pytest.fixture(scope="session")
def base_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run to fine-tune. Only to be copied."""
    home = tmp_path_factory.mktemp("base-home")
    run = create_run(home, "base", write_corpus(home), train__steps="4", model__dropout="0", model__context="48")
    run_training(run, home)
    return home


@pytest.fixture
def parent(base_home: Path, tmp_path: Path) -> Run:
    shutil.copytree(base_home, tmp_path, dirs_exist_ok=True)
    return Run.open(tmp_path, "base")


def sft(home: Path, corpus: Path, *, keep_optimizer: bool = False, **fields: str) -> Run:
    overrides = [("data.corpus", str(corpus)), ("data.validation_fraction", "0.2")]
    overrides += [(path.replace("__", "."), text) for path, text in fields.items()]
    return start_stage(home, plan_stage(home, open_parent(home, "base"), overrides, keep_optimizer=keep_optimizer))


@pytest.mark.parametrize("packing", ["documents", "off"])
def test_the_loss_equals_a_loop_over_single_conversations(packing: str, tmp_path: Path) -> None:
    """Packed or not, in one micro-batch or eight, on one rank or two; gradients too."""
    config = with_overrides(
        RunConfig(),
        [
            ("model.n_layer", "2"),
            ("model.d_model", "24"),
            ("model.n_head", "4"),
            ("model.context", str(SEQ_LEN)),
            ("tune.stage", "sft"),
            ("tune.packing", packing),
        ],
    )
    split = written(tmp_path, conversations(40))
    packed = PackedRows(split, SEQ_LEN, packing)  # type: ignore[arg-type]
    model = Transformer(resolve_model(config.model, TOKENIZER.vocab_size)).double()
    model.init_weights(torch.Generator().manual_seed(1))
    objective = build_objective(model, config)
    batches = PackedBatches(packed, rows=ROWS, seed=1)

    total, learned = torch.zeros((), dtype=torch.float64), 0
    for row in batches.numbers(0):
        for index in packed.bins[int(row)]:
            start, length = int(packed.spans.starts[index]), int(packed.spans.lengths[index])
            ids = torch.from_numpy(split.read(start, start + length).astype(np.int64))
            counted = torch.from_numpy(split.read_marks()[start : start + length] & 1).bool()
            logits = model(ids[None, :-1])[0]
            chosen = counted[1:]
            total = total + torch.nn.functional.cross_entropy(logits[chosen], ids[1:][chosen], reduction="sum")
            learned += int(chosen.sum())
    (total / learned).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]

    for micro_batches, ranks in ((1, 1), (8, 1), (1, 2), (4, 2)):
        found_loss, found = 0.0, [torch.zeros_like(gradient) for gradient in expected]
        for rank in range(ranks):
            model.zero_grad()
            mine = PackedBatches(packed, rows=ROWS, seed=1, rank=rank, ranks=ranks)
            plan = BatchPlan(1, ROWS, SEQ_LEN, micro_batches, 0.0, 0)
            state = TrainerState(model, build_optimizer(model, config))
            context = StepContext(config, state, Plan("cpu", "fp32", 1, False), plan, Ranks(world_size=ranks))
            loss = accumulate_gradients(context, mine.batch(0), objective.loss_fn, num_targets=mine.num_targets(0))
            assert loss is not None
            found_loss += float(loss) / ranks
            for sum_of_ranks, parameter in zip(found, model.parameters(), strict=True):
                assert parameter.grad is not None
                sum_of_ranks += parameter.grad / ranks
        assert found_loss == pytest.approx(float(total.detach()) / learned, abs=1e-6)
        for gradient, wanted in zip(found, expected, strict=True):
            assert (gradient - wanted).abs().max() < 1e-6


def test_a_micro_batch_without_learned_targets_counts_as_nothing() -> None:
    config = with_overrides(
        RunConfig(), [("model.n_layer", "1"), ("model.d_model", "12"), ("model.n_head", "2"), ("model.context", "8")]
    )
    model = Transformer(resolve_model(config.model, 31))
    model.init_weights(torch.Generator().manual_seed(1))
    tokens = np.random.default_rng(1).integers(0, 31, (4, 9))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].copy()
    targets[2:] = -1
    state = TrainerState(model, build_optimizer(model, config))
    context = StepContext(config, state, Plan("cpu", "fp32", 1, False), BatchPlan(1, 4, 8, 2, 0.0, 0))
    loss = accumulate_gradients(context, (inputs, targets), AnswerLoss(model), num_targets=16)
    gradient = model.embedding.weight.grad
    assert loss is not None and gradient is not None
    model.embedding.weight.grad = None
    alone = model.loss(torch.from_numpy(inputs[:2]), torch.from_numpy(targets[:2]))
    alone.backward()
    assert float(loss) == pytest.approx(float(alone.detach())) and gradient.isfinite().all()
    assert (gradient - model.embedding.weight.grad).abs().max() < 1e-7


def test_fine_tuning_from_a_base_run(parent: Run, tmp_path: Path) -> None:
    run = sft(tmp_path, write_conversations(tmp_path / "rows.jsonl"), train__steps="30", train__lr_multiplier="1")
    assert (run.name, run.info()["parent"]) == ("base-sft-1", "base@4")
    before, after = (load_file(one.checkpoint().path / "model.safetensors") for one in (parent, run))
    known = before["embedding.weight"].shape[0]
    assert after["embedding.weight"].shape[0] == known + 4
    assert after["embedding.weight"][:known].equal(before["embedding.weight"])
    assert len(after["embedding.weight"][known:].unique(dim=0)) == 4
    assert all(after[name].equal(before[name]) for name in before if "embedding" not in name)
    assert run_training(run, tmp_path).status == "finished"
    events = list(run.events())
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert evaluations[-1].validation_loss < evaluations[0].validation_loss - 0.5
    first = next(event for event in events if isinstance(event, StepLogged))
    assert first.tokens_seen == 2 * 3 * 48
    assert any(isinstance(event, Sampled) for event in events)
    model, tokenizer = load_model(run, run.checkpoint())
    assert tokenizer.chat_template is not None and model.config.vocab_size == known + 4
    again = sft(tmp_path, tmp_path / "rows.jsonl")
    assert again.name == "base-sft-2" and again.config().tokenizer == run.config().tokenizer


def test_a_stage_can_add_a_convolution(parent: Run, tmp_path: Path) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl")
    run = sft(tmp_path, corpus, train__steps="4", model__embedding_conv="4")
    weights = [load_file(run.checkpoint().path / "model.safetensors")["embedding_conv.weight"]]
    assert run_training(run, tmp_path).status == "finished"
    weights.append(load_file(run.checkpoint().path / "model.safetensors")["embedding_conv.weight"])
    assert weights[0].shape == (3, parent.config().model.d_model)
    assert weights[0].abs().eq(1).all() and not weights[0].equal(weights[1]), "random signs, then trained"
    with pytest.raises(ConfigError, match=r"model.embedding_conv: cannot change from 4 to 0"):
        plan_stage(
            tmp_path, open_parent(tmp_path, run.name), [("data.corpus", str(corpus)), ("model.embedding_conv", "0")]
        )
    with pytest.raises(ConfigError, match=r"model.embedding_conv: cannot change from 0 to 4"):
        sft(tmp_path, corpus, model__embedding_conv="4", tune__lora_rank="2")
    with pytest.raises(WrongUse, match=r"model.embedding_conv adds weights without an optimizer state"):
        sft(tmp_path, corpus, keep_optimizer=True, model__embedding_conv="4")


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(parent: Run, tmp_path: Path) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl")
    whole, resumed = (sft(tmp_path, corpus, train__steps="8", checkpoint__every="3") for _ in range(2))
    run_training(whole, tmp_path)
    assert run_training(resumed, tmp_path, commands=StopAfter(14)).status == "stopped"
    assert 0 < resumed.checkpoint().step < 8
    run_training(resumed, tmp_path)
    assert_same_end(whole, resumed)


def test_exact_answers_are_measured_on_a_schedule_and_change_nothing(parent: Run, tmp_path: Path) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl")
    fields = {"train__steps": "5", "sample__every": "0", "evaluate__answers_questions": "9"}
    measured, plain = (sft(tmp_path, corpus, **fields, evaluate__answers_every=every) for every in ("2", "0"))
    run_training(measured, tmp_path)
    run_training(plain, tmp_path)
    events = [event for event in measured.events() if isinstance(event, AnswersEvaluated)]
    assert [event.step for event in events] == [0, 2, 4, 5]
    assert all(event.questions == len(event.kinds) == 9 for event in events)
    assert not any(isinstance(event, AnswersEvaluated) for event in plain.events())
    assert_same_end(measured, plain)
    with pytest.raises(ConfigError, match="answers_every: is for fine-tuning"):
        sft(tmp_path, corpus, evaluate__answers_every="2", tune__stage="pretrain")


def test_the_optimizer_state_is_kept_on_request(parent: Run, tmp_path: Path) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl")
    run = sft(tmp_path, corpus, keep_optimizer=True, train__steps="2")
    before, after = (load_file(one.checkpoint().path / "optimizer.safetensors") for one in (parent, run))
    name = "adamw.m.embedding.weight"
    known = len(before[name])
    assert after[name][:known].equal(before[name]) and (after[name][known:] == 0).all()
    assert run_training(run, tmp_path).status == "finished"
    with pytest.raises(WrongUse, match=r"optim.beta1 changes the optimizer"):
        sft(tmp_path, corpus, keep_optimizer=True, optim__beta1="0.8")


USUAL = (("1", "fp16"), ("7", "fp32"), ("24", "bf16"))


@pytest.mark.parametrize(
    ("batch_size", "precision"),
    [
        pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow)
        for case in itertools.product(("1", "7", "24"), ("fp32", "bf16", "fp16"))
    ],
)
def test_ten_conversations_stay_finite(parent: Run, tmp_path: Path, batch_size: str, precision: str) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl", 10)
    fields = {"train__batch_size": batch_size, "train__precision": precision, "train__steps": "6"}
    run = sft(tmp_path, corpus, **fields, sample__every="0", train__accumulation="1")
    assert run_training(run, tmp_path).status == "finished"
    found = losses(run)
    assert len(found) == 6 and all(np.isfinite(list(found.values())))


def test_bad_rows_and_long_conversations_are_reported(parent: Run, tmp_path: Path) -> None:
    corpus = write_conversations(tmp_path / "rows.jsonl", 20)
    with corpus.open("a") as file:
        file.write("{broken\n" + json.dumps({"prompt": "a" * 60, "completion": "b"}) + "\n")
    run = sft(tmp_path, corpus, train__steps="1", sample__every="0")
    run_training(run, tmp_path)
    said = " ".join(event.message for event in run.events() if isinstance(event, Warned))
    assert "rows.jsonl line 21 is not JSON" in said
    assert "1 conversations were left out: their first answer does not end within 48 tokens" in said


def test_what_cannot_be_fine_tuned_is_refused(parent: Run, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="There are no conversations to train on"):
        plan_stage(tmp_path, open_parent(tmp_path, "base"), [])
    corpus = write_conversations(tmp_path / "rows.jsonl", 1)
    with pytest.raises(ConfigError, match=r"model.n_layer: cannot change from 1 to 2"):
        sft(tmp_path, corpus, model__n_layer="2")
    with pytest.raises(UserError, match="training needs two"):
        run_training(sft(tmp_path, corpus), tmp_path)
