"""Preference tuning: the loss of TRL, the reference of the first step, training to the end."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from llm.config.resolve import resolve_model
from llm.config.schema import ModelConfig
from llm.data.batches.pairs import PairRows
from llm.data.tokens.conversation_tokens import ConversationTokens, ConversationWriter
from llm.errors import ConfigError, UserError, WrongUse
from llm.events import Evaluated, MetricsLogged
from llm.files import remove_directory
from llm.model.transformer import Transformer
from llm.run import Run
from llm.run.fork import open_parent
from llm.tokenizer.chat_template import Message
from llm.training.dpo import METRICS, PreferenceLoss
from llm.training.run import run_training
from llm.training.start_stage import plan_stage, start_stage
from llm.training.threads import ThreadWatch
from tests.data.batches.test_packing import TOKENIZER, conversations

from .test_resume import StopAfter, assert_same_end
from .test_sft import base_home as base_home
from .test_sft import parent as parent

SEQ_LEN = 47


def pairs_of(folder: Path, count: int) -> PairRows:
    """Pairs of the same questions with two last answers."""
    writer = ConversationWriter(folder, "train", TOKENIZER, last_answer_only=True)
    for number, row in enumerate(conversations(count, longest=6)):
        writer.write([row, (*row[:-1], Message("assistant", f"no {number}"))])
    writer.close()
    record = writer.record()
    paths = [[folder / f"{stem}.bin" for stem in record[name]] for name in ("shards", "marks")]
    return PairRows(ConversationTokens("training", paths[0], paths[1], record["bytes"]), SEQ_LEN)


def test_only_the_last_answer_counts(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, 20)
    inputs, targets, _ = pairs.read(np.arange(pairs.rows))
    assert pairs.rows + pairs.dropped == 20 and pairs.rows > 10
    answers = [TOKENIZER.decode(row[row >= 0].tolist(), special=True) for row in targets[:, 1]]
    assert all(answer.startswith("no ") and answer.endswith("<|end|>") for answer in answers)
    assert all(TOKENIZER.decode(row[row >= 0].tolist(), special=True).count("<|end|>") == 1 for row in targets[:, 0])
    assert (inputs[:, 0, :3] == inputs[:, 1, :3]).all()


def test_loss_rewards_and_gradients_are_those_of_trl(tmp_path: Path) -> None:
    """TRL's own code computes the loss; only the log-probabilities come from our model, by torch's log_softmax."""
    from trl import DPOTrainer

    pairs = pairs_of(tmp_path, 8)
    config = ModelConfig(n_layer=2, d_model=24, n_head=4, context=SEQ_LEN)
    model = Transformer(resolve_model(config, TOKENIZER.vocab_size))
    model.init_weights(torch.Generator().manual_seed(1))
    pairs.reference[:] = np.random.default_rng(1).normal(-30, 5, pairs.reference.shape)
    inputs, targets, reference = (torch.from_numpy(array) for array in pairs.read(np.arange(pairs.rows)))
    ours = PreferenceLoss(model, beta=0.3)(inputs, targets, reference)
    ours[0].backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()

    def as_trl(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[:, 0], tensor[:, 1]])

    ids = torch.cat([as_trl(inputs), torch.zeros(2 * pairs.rows, 1, dtype=torch.int64)], 1)
    mask = torch.cat([torch.zeros(2 * pairs.rows, 1, dtype=torch.int64), (as_trl(targets) >= 0).long()], 1)
    ids[:, 1:] = torch.where(as_trl(targets) >= 0, as_trl(targets), ids[:, 1:])

    def forward(**arguments: torch.Tensor) -> SimpleNamespace:
        labels = arguments["labels"]
        log_probs = F.log_softmax(model(arguments["input_ids"][:, :-1]), -1)
        wanted = labels[:, 1:].clamp_min(0).unsqueeze(-1)
        chosen = log_probs.gather(-1, wanted).squeeze(-1) * (labels[:, 1:] >= 0)
        blank = torch.zeros_like(chosen)
        return SimpleNamespace(log_probs=chosen, entropy=blank, mean_logits=blank, is_top1=blank.bool())

    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    class LossOnly(DPOTrainer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model = model
            self.accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
            self.aux_loss_enabled, self.use_weighting, self.precompute_ref_logps = False, False, True
            self.ld_alpha, self.f_divergence_type, self.beta = None, "reverse_kl", 0.3
            self.loss_types, self.loss_weights = ["sigmoid"], [1.0]
            self._metrics, self._total_train_tokens, self._tp_size = found, 0, 1

    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    batch |= {"ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1]}
    theirs = LossOnly().compute_loss(forward, batch)
    theirs.backward()
    assert float(ours[0].detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert parameter.grad is not None and (gradient - parameter.grad).abs().max() < 1e-5
    rewards = [found["train"][f"rewards/{name}"][0] for name in ("chosen", "margins", "accuracies")]
    assert dict(zip(METRICS, ours[1:].tolist(), strict=True)) == pytest.approx(
        dict(zip(METRICS, rewards, strict=True)), abs=1e-5
    )


def dpo(home: Path, **fields: str) -> Run:
    corpus = home / "pairs.jsonl"
    with corpus.open("w") as file:
        for number in range(24):
            question = "abcdefgh"[number % 8] * 2
            row = {"prompt": question, "chosen": question.upper(), "rejected": "no"}
            file.write(json.dumps(row) + "\n")
    overrides = [("data.corpus", str(corpus)), ("data.validation_fraction", "0.2"), ("train.lr_multiplier", "1")]
    overrides += [(path.replace("__", "."), text) for path, text in fields.items()]
    return start_stage(home, plan_stage(home, open_parent(home, "base"), overrides, stage="dpo"))


def test_without_a_file_it_reads_the_corrections_of_the_chat(parent: Run, tmp_path: Path) -> None:
    marked = tmp_path / "conversations" / "preferences.jsonl"
    marked.parent.mkdir()
    for content in ("", "{}"):
        with pytest.raises(WrongUse, match="There are no preferences to train on; correct replies in the chat"):
            plan_stage(tmp_path, open_parent(tmp_path, "base"), [], stage="dpo")
        marked.write_text(content)
    stage = plan_stage(tmp_path, open_parent(tmp_path, "base"), [], stage="dpo")
    assert stage.config.data.corpus == str(marked)


def test_a_run_on_pairs_prefers_the_chosen_answers_and_resumes_bit_for_bit(parent: Run, tmp_path: Path) -> None:
    whole = dpo(tmp_path, train__steps="12", checkpoint__every="4")
    assert whole.name == "base-dpo-1"
    assert run_training(whole, tmp_path).status == "finished"
    events = list(whole.events())
    logged = [event for event in events if isinstance(event, MetricsLogged) and not event.is_validation]
    assert abs(logged[0].metrics["margin"]) < 1e-4, "at first it is the reference"
    validation = [event.metrics for event in events if isinstance(event, MetricsLogged) and event.is_validation]
    assert validation[-1]["accuracy"] == 1.0 and validation[-1]["margin"] > 0
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert evaluations[0].validation_loss == pytest.approx(np.log(2))
    assert evaluations[-1].validation_loss < 0.5
    resumed = dpo(tmp_path, train__steps="12", checkpoint__every="4")
    assert run_training(resumed, tmp_path, commands=StopAfter(20)).status == "stopped"
    run_training(resumed, tmp_path)
    assert_same_end(whole, resumed)
    saved = load_file(resumed.path / "reference" / "log_probabilities.safetensors")
    assert saved["train"].shape[1] == 2 and (saved["train"] < 0).all()
    remove_directory(resumed.path / "reference")
    with pytest.raises(UserError, match="only the first step can compute it"):
        run_training(resumed, tmp_path, overrides=(("train.steps", "14"),))


def test_the_number_of_threads_is_measured_on_pairs(
    parent: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, measured = torch.get_num_threads(), []
    for module in ("llm.device", "llm.training.threads", "llm.training.setup"):
        monkeypatch.setattr(f"{module}.usable_cores", lambda: 2)
    monkeypatch.setattr("llm.training.threads.fastest_threads", lambda step, current: (measured.append(step()), 1)[1])
    monkeypatch.setattr("llm.training.threads.MIN_WAIT", 0.0)
    monkeypatch.setattr(ThreadWatch, "slowdown", 2.0)
    run = dpo(tmp_path, train__steps="3", checkpoint__every="2", train__threads="0")
    try:
        assert run_training(run, tmp_path).status == "finished" and measured
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="the speed of dpo is not measured in advance"):
        dpo(tmp_path, train__minutes="1")
