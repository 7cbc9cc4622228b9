"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.setting import setting


@dataclass(frozen=True)
class TuneConfig:
    """What is trained: text, the answers in conversations, or preferences between answers."""

    stage: Literal["pretrain", "sft", "dpo"] = setting(
        "pretrain",
        "pretrain: text; sft: the answers in conversations (data.corpus: JSONL or Parquet with messages); dpo: "
        "preferences (rows with chosen and rejected).",
    )
    packing: Literal["documents", "plain", "off"] = setting(
        "documents",
        "sft: several conversations per sequence, with attention only within each (documents) or across them (plain), "
        "or one per sequence (off).",
    )
    beta: float = setting(0.1, "dpo: how strongly the model is held to the one before this stage.", above=0)
    base: str = setting(
        "",
        "sft: the preset whose run a preset starts from; it is trained first if there is none. Empty: none.",
    )
