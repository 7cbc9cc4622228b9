"""F on the Train screen: fine-tune a base run that has ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llm.run import Run
from tests.workbench.opening import app_with
from tests.workbench.scripted import prepared_trainer
from tests.workbench.waiting import shown, until
from workbench.data.corpora import add_corpus
from workbench.train.fine_tuning import offered_corpus
from workbench.ui.dialogs import Ask, AskText


async def test_a_base_run_that_ended_is_fine_tuned_on_the_built_in_dialogues(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    trainer = prepared_trainer(5)
    app = app_with(home, trainer)
    async with app.run_test(size=(80, 24)) as pilot:
        app.open_train("tiny-1")
        await until(pilot, lambda: "press F to fine-tune" in shown(app.screen))
        await pilot.press("F")
        await until(
            pilot, lambda: type(app.screen) is Ask and "supervised fine-tuning of small adapters" in shown(app.screen)
        )
        await pilot.press("end", "enter")
        await until(pilot, lambda: type(app.screen) is AskText and "dialogues: the built-in ones" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 1 and app.training.has_work_to_save)
        await until(pilot, lambda: "tiny-1-sft-1" in shown(app.screen) and "press F" not in shown(app.screen))
        app.training.shutdown()
    config = Run.open(home, "tiny-1-sft-1").config()
    assert (config.data.corpus, config.train.minutes, config.tune.lora_rank) == ("dialogues", 3, 8)


def test_each_stage_is_offered_what_it_can_read(home: Path, tmp_path: Path) -> None:
    assert (offered_corpus(home, "sft"), offered_corpus(home, "dpo")) == ("dialogues", "")
    for name, row in (("talk", {"prompt": "a", "completion": "b"}), ("pairs", {"chosen": "a", "rejected": "b"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row | {"prompt": "a"}) + "\n")
        add_corpus(home, str(tmp_path / f"{name}.jsonl"))
    assert offered_corpus(home, "sft") == str(tmp_path / "talk.jsonl")
    assert offered_corpus(home, "dpo") == str(tmp_path / "pairs.jsonl")
    (home / "conversations").mkdir()
    for name in ("good", "preferences"):
        (home / "conversations" / f"{name}.jsonl").write_text("{}\n")
    assert offered_corpus(home, "sft").endswith("good.jsonl")
    assert offered_corpus(home, "dpo").endswith("preferences.jsonl")
