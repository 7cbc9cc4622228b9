"""The whole path with nothing scripted: a preset is chosen, a model is trained, found among the runs and talked to."""

from __future__ import annotations

from pathlib import Path

from llm.config import save_preset
from llm.run import Run
from tests.conftest import tiny_config
from tests.workbench.waiting import shown, until
from workbench.app import WorkbenchApp


async def test_from_the_preset_to_the_chat(home: Path, corpus: Path) -> None:
    save_preset(home, "tiny", tiny_config(corpus))
    app = WorkbenchApp(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "quickstart" in shown(app.screen))
        await pilot.press("G")  # one's own presets come last
        await until(pilot, lambda: "A model small enough" in shown(app.screen))
        await pilot.press("enter")
        await until(pilot, lambda: "step 20 of 20" in shown(app.screen) and "finished" in shown(app.screen))
        run = Run.open(home, "tiny-1")
        assert run.status().name == "finished" and run.checkpoint().step == 20
        assert "bits/byte" in shown(app.screen)

        await pilot.press("3")
        await until(pilot, lambda: "tiny-1" in shown(app.screen) and "20/20" in shown(app.screen))
        await pilot.press("c")
        await until(pilot, lambda: "tiny-1@20" in shown(app.screen))
        await pilot.press(*"Ada saw", "enter")
        await until(pilot, lambda: "tokens/s" in shown(app.screen) and "Ada saw" in shown(app.screen))
        assert len(app.screen.transcript.text) > len("Ada saw")  # type: ignore[attr-defined]
