"""A preset with a base, started on the Presets screen: the base trains, then the run that fine-tunes it."""

from __future__ import annotations

from pathlib import Path

from llm.run import Run
from tests.cli.test_chat_preset import BASE, CHAT, presets  # noqa: F401
from tests.workbench.waiting import until, was_notified
from workbench.app import WorkbenchApp


async def test_the_stage_follows_its_base(presets: Path) -> None:  # noqa: F811
    app = WorkbenchApp(presets)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.current_mode == "presets")
        await pilot.press("G")
        await until(pilot, lambda: app.screen.current == "tiny-chat")  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: was_notified(app, "tiny-1 trains first; tiny-chat starts from it"))
        await until(pilot, lambda: was_notified(app, "tiny-chat-1 starts from it"), seconds=60)
        run = Run.open(presets, "tiny-chat-1")
        await until(pilot, lambda: run.status().name == "finished", seconds=60)
        assert run.info()["parent"] == "tiny-1@3" and any(run.checkpoint_directory.glob("step-*"))
