"""A small bundle, and models with known answers to it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from llm.core.questions import Prompt
from llm.device import Plan

CPU = Plan("cpu", "fp32", 1, compiled=False)

INDEX = """\
# which tasks there are
icl_seq_len: 2048
icl_tasks:
-
  label: colours
  dataset_uri: knowledge/colours.jsonl
  num_fewshot: [1]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: " # between question and answer
-
  label: pronouns
  dataset_uri: pronouns.jsonl
  num_fewshot: [0]
  icl_task_type: schema
-
  label: last_words
  dataset_uri: last_words.jsonl
  num_fewshot: [2]
  icl_task_type: language_modeling
"""

BASELINES = """\
Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description
colours,knowledge,multiple choice,1,4,50,,"Which colour, of two"
pronouns,language,schema,0,2,50,,"One quoted ""description"",
on two lines"
last_words,language,language modeling,2,3,0,,The last word
unused,language,language modeling,2,3,10,,No such task in the index
"""

COLOURS = [
    {"query": "Question: The sky is", "choices": ["blue", "red!"], "gold": 0},
    {"query": "Question: Blood is", "choices": ["blue", "red!"], "gold": 1},
    {"query": "Question: Snow is", "choices": ["white", "black"], "gold": 0},
    {"query": "Question: Coal is", "choices": ["white", "black"], "gold": 1},
]
PRONOUNS = [
    {
        "context_options": ["The cup fell on the plate, and the cup", "The cup fell on the plate, and the dog"],
        "continuation": "broke.",
        "gold": 0,
    },
    {"context_options": ["I fed my shoe. The shoe", "I fed my cat. The cat"], "continuation": "was glad.", "gold": 1},
]
LAST_WORDS = [
    {"context": "one two ", "continuation": "three"},
    {"context": "two three", "continuation": "four"},
    {"context": "three four", "continuation": "five"},
]


def write_bundle(folder: Path) -> Path:
    """The bundle, as files in `folder`."""
    (folder / "eval_data" / "knowledge").mkdir(parents=True)
    (folder / "core.yaml").write_text(INDEX)
    (folder / "eval_meta_data.csv").write_text(BASELINES)
    for name, records in (("knowledge/colours", COLOURS), ("pronouns", PRONOUNS), ("last_words", LAST_WORDS)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "eval_data" / f"{name}.jsonl").write_text(lines)
    return folder


class TableModel:
    """A fake Transformer: a table of texts gives its logits after a prefix."""

    def __init__(self, texts: list[list[int]], vocab_size: int, *, context: int = 4096) -> None:
        self.config = SimpleNamespace(context=context)
        self.vocab_size = vocab_size
        self.next = {tuple(ids[:end]): ids[end] for ids in texts for end in range(1, len(ids))}
        self.training = True
        self.longest = 0

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def score(self, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Transformer.score`."""
        logits, wanted = self.logits(tokens)[targets >= 0], targets[targets >= 0]
        return F.cross_entropy(logits, wanted, reduction="none"), logits.argmax(-1) == wanted

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, V): 20 for the token that follows in the table, 0 for all others."""
        assert not self.training
        self.longest = max(self.longest, tokens.shape[1])
        logits = torch.zeros((*tokens.shape, self.vocab_size))
        for row, ids in enumerate(tokens.tolist()):
            for end in range(1, len(ids) + 1):
                if tuple(ids[:end]) in self.next:
                    logits[row, end - 1, self.next[tuple(ids[:end])]] = 20.0
        return logits


def result_of(generator: Any) -> Any:
    """The return value of a generator."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def ids_of(prompts: list[Prompt]) -> list[list[int]]:
    return [prompt.tokens for prompt in prompts]
