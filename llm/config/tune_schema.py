"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.setting import setting


@dataclass(frozen=True)
class TuneConfig:
    """What is trained: text, the answers in conversations, preferences between answers, or answers with a reward."""

    stage: Literal["pretrain", "sft", "dpo", "grpo"] = setting(
        "pretrain",
        "pretrain: text; sft: the answers in conversations (data.corpus: JSONL, Parquet or Arrow with messages); dpo: "
        "preferences (rows with chosen and rejected); grpo: its own answers to the questions of tune.task, by reward "
        "(data.corpus: conversations to evaluate on).",
    )
    packing: Literal["documents", "plain", "off"] = setting(
        "documents",
        "sft: several conversations per sequence, with attention only within each (documents) or across them (plain), "
        "or one per sequence (off).",
    )
    beta: float = setting(
        0.1,
        "dpo, grpo: how strongly the model is held to the one before this stage; grpo: the coefficient of the KL "
        "divergence.",
        low=0,
    )
    task: Literal["sums", "counting", "format"] = setting(
        "sums",
        "grpo: what is rewarded. sums, counting: exact answers to small sums, or to how many things a story tells of; "
        "format: an answer that is one short sentence.",
    )
    group: int = setting(8, "grpo: answers sampled to each question.", low=2, high=1024)
    max_tokens: int = setting(24, "grpo: tokens of an answer, at most.", low=1, high=100_000)
    lora_rank: int = setting(
        0,
        "sft, dpo: train low-rank adapters of this rank (LoRA) and leave the weights as they are; 0 = train the "
        "weights.",
        low=0,
        high=4096,
    )
    lora_alpha: float = setting(16.0, "LoRA: adapters are multiplied by lora_alpha / lora_rank.", above=0)
    lora_matrices: Literal["all", "attention", "query-value", "mlp"] = setting(
        "all", "LoRA: the matrices of each block that get an adapter; query-value: as in the paper."
    )
    lora_rows: int = setting(
        0,
        "LoRA: last rows of the vocabulary that are trained too, those of new special tokens; set when a stage starts.",
        low=0,
    )
    base: str = setting(
        "",
        "sft: the preset whose run a preset starts from; it is trained first if there is none. Empty: none.",
    )

    @property
    def data_stage(self) -> str:
        """The stage whose data this one reads: grpo evaluates on the conversations of sft."""
        return "sft" if self.stage == "grpo" else self.stage
