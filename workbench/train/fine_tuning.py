"""Fine-tuning a checkpoint from the Runs and the Train screen: the choices, and the run that is created."""

from __future__ import annotations

import asyncio
from pathlib import Path

from llm.errors import UserError
from llm.files import is_filled
from llm.run import Run
from llm.run.fork import open_parent
from workbench.chat.marks import good_file, preferences_file
from workbench.data.corpora import added_corpora, path_problem, stage_of
from workbench.data.pasted import pasted_path
from workbench.train.service import Overrides
from workbench.ui.dialogs import Answer, Ask, AskText
from workbench.ui.notices import notify_error
from workbench.ui.screen import WorkbenchScreen

LORA_RANK = 8
METHODS = (
    Answer("sft", "Supervised fine-tuning (SFT): learn from conversations"),
    Answer("dpo", "Preference tuning (DPO): learn from chosen and rejected answers"),
    Answer("sums", "Reinforcement learning (GRPO): answer small sums"),
    Answer("counting", "Reinforcement learning (GRPO): count the things in a story"),
    Answer("format", "Reinforcement learning (GRPO): answer in one short sentence"),
    Answer("lora", "LoRA: supervised fine-tuning of small adapters only"),
)
"""The methods of fine-tuning: a stage that reads a file, or a task of GRPO."""
BUILT_IN = "dialogues"
BUILT_IN_LENGTH = [("train.epochs", "0"), ("train.minutes", "3")]  # as in quickstart-chat
READS_FILE = ("sft", "lora", "dpo")
FILES = {"sft": "conversations", "dpo": "preferences, rows with a chosen and a rejected answer"}
"""The contents of a stage's file."""


async def fine_tune(screen: WorkbenchScreen, reference: str) -> Run | None:
    """Ask how to fine-tune a checkpoint, and create the run; None if canceled or failed (the error is shown)."""
    home = screen.workbench.home
    method = await screen.app.push_screen_wait(Ask(f"Fine-tune {reference}:", METHODS))
    if not method:
        return None
    stage, fields = "grpo", [("tune.task", method)]
    if method in READS_FILE:
        corpus = await ask_corpus(screen, reference, "dpo" if method == "dpo" else "sft")
        if not corpus:
            return None
        stage, fields = "dpo" if method == "dpo" else "sft", [("data.corpus", corpus)]
        fields += [("tune.lora_rank", str(LORA_RANK))] if method == "lora" else []
        fields += BUILT_IN_LENGTH if corpus == BUILT_IN else []
    screen.app.notify(f"Copying {reference}…", markup=False)
    try:
        return await asyncio.to_thread(create_stage, home, reference, stage, tuple(fields))
    except (UserError, OSError) as error:
        notify_error(screen.app, error)
        return None


async def ask_corpus(screen: WorkbenchScreen, reference: str, stage: str) -> str:
    """The conversations or preferences to train on, "" for none."""
    has_built_in = stage == "sft"
    built_in = f"; {BUILT_IN}: the built-in ones" if has_built_in else ""
    question = AskText(
        f"Fine-tune {reference} on {FILES[stage]} (a JSONL or Parquet file, or a folder{built_in}):",
        value=offered_corpus(screen.workbench.home, stage),
        problem_of=lambda text: "" if has_built_in and text.strip() == BUILT_IN else path_problem(text),
    )
    text: str | None = await screen.app.push_screen_wait(question)
    return pasted_path(text) if text else ""


def create_stage(home: Path, reference: str, stage: str, fields: Overrides) -> Run:
    """Create a run that fine-tunes a checkpoint. Copies its weights, which may be large: for a thread."""
    from llm.training.start_stage import plan_stage, start_stage

    return start_stage(home, plan_stage(home, open_parent(home, reference), fields, stage=stage))


def offered_corpus(home: Path, stage: str) -> str:
    """The file to offer for a stage: what was marked in a chat, else the last file that was added; for sft else the
    built-in conversations."""
    marked = preferences_file(home) if stage == "dpo" else good_file(home)
    if is_filled(marked):
        return str(marked)
    added = [entry.corpus for entry in added_corpora(home) if entry.shape and stage_of(entry.shape) == stage]
    return added[-1] if added else BUILT_IN if stage == "sft" else ""
