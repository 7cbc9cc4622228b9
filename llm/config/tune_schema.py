"""The settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.setting import setting


@dataclass(frozen=True)
class TuneConfig:
    """What is trained: text, or the answers in conversations."""

    stage: Literal["pretrain", "sft"] = setting(
        "pretrain",
        "pretrain: text; sft: the answers in conversations (data.corpus: JSONL or Parquet with messages).",
    )
    packing: Literal["documents", "plain", "off"] = setting(
        "documents",
        "sft: several conversations per sequence, with attention only within each (documents) or across them (plain), "
        "or one per sequence (off).",
    )
    base: str = setting(
        "",
        "sft: the preset whose run a preset starts from; it is trained first if there is none. Empty: none.",
    )
