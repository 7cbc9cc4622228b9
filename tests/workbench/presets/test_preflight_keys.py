"""Preflights on the Presets screen: started, shown, canceled, and kept from disturbing a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.widgets import OptionList

from llm.config import save_preset
from llm.config.schema import RunConfig
from tests.conftest import tiny_config
from tests.workbench.opening import app_with
from tests.workbench.scripted import prepared_trainer, scripted_run
from tests.workbench.waiting import notifications, shown, until, was_notified
from workbench.presets.preflight import Measurement, machine_name, measurements, work_key
from workbench.presets.screen import PresetsScreen


async def test_a_preflight_is_shown_and_its_measurement_saved(home: Path, corpus: Path) -> None:
    save_preset(home, "aa-tiny", tiny_config(corpus))
    app = app_with(home)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "parameters" in shown(app.screen))
        listing = app.screen.query_one("#preset-list", OptionList)
        listing.highlighted = listing.get_option_index("aa-tiny")
        await until(pilot, lambda: "not measured yet" in shown(app.screen))
        await pilot.press("p")
        await until(pilot, lambda: "Preflight of aa-tiny" in shown(app.screen))
        assert "esc Cancel" in shown(app.screen)
        await until(pilot, lambda: "(measured)" in shown(app.screen))
        assert "Preflight of aa-tiny" not in shown(app.screen)
        listing.highlighted = listing.get_option_index("quickstart")
        await until(pilot, lambda: "not measured yet" in shown(app.screen))  # its steps are too short to predict others
    (found,) = measurements(home)
    assert (found.name, found.device, found.precision, found.threads) == ("aa-tiny", "cpu", "fp32", 1)
    assert abs(found.tokens_per_second * found.step_seconds - 4 * 32) < 1e-6
    assert found.peak_bytes > found.training_bytes > 0
    assert not (home / "runs").exists() or not any((home / "runs").iterdir())


async def test_a_preflight_can_be_canceled_and_the_keys_work_meanwhile(home: Path, corpus: Path) -> None:
    save_preset(home, "aa-tiny", tiny_config(corpus))
    app = app_with(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.focused is not None)
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        listing = screen.query_one("#preset-list", OptionList)
        listing.highlighted = listing.get_option_index("aa-tiny")
        await until(pilot, lambda: screen.current == "aa-tiny")
        await pilot.press("p")
        await until(pilot, lambda: "Preflight of aa-tiny" in shown(screen))
        await pilot.press("g")
        await until(pilot, lambda: screen.current != "aa-tiny")
        await pilot.press("escape")
        await until(pilot, lambda: screen.preflight.job is None)
        assert "Preflight" not in shown(screen).replace("p Preflight", "")
    assert measurements(home) == []


class LatePreflight:
    """Replaces PreflightJob; has its result at the moment it is canceled."""

    def __init__(self, config: RunConfig, name: str, home: Path, on_progress: Any, on_end: Any) -> None:
        self.config, self.name, self.on_end = config, name, on_end
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True
        key = work_key(self.config)
        self.on_end(Measurement(machine_name(), key, self.name, "cpu", "fp32", 1, 0.1, 9.0, 1e9, 10, 20), "")


@pytest.mark.parametrize("key", ["enter", "Q"])
async def test_a_training_cancels_the_preflight(home: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.presets.preflight_line.PreflightJob", LatePreflight)
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        await until(pilot, lambda: screen.current == "quickstart")
        await pilot.press("p")
        await until(pilot, lambda: screen.preflight.job is not None)
        await pilot.press(key)
        await until(pilot, lambda: app.training.active == "quickstart-1")
        await until(pilot, lambda: screen.preflight.job is None)
        ended = "Preflight of quickstart canceled, because quickstart-1 starts training."
        assert notifications(app).count(ended) == 1
        assert measurements(home) == []
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()


async def test_no_preflight_while_another_process_trains(home: Path) -> None:
    other = scripted_run(home, "other-1", 3)
    trainer = prepared_trainer()
    app = app_with(home, trainer)
    async with app.run_test(size=(120, 30)) as pilot:
        screen = app.screen
        assert isinstance(screen, PresetsScreen)
        await until(pilot, lambda: screen.current == "quickstart")

        with other.lock():
            await pilot.press("p")
            await until(pilot, lambda: was_notified(app, "other-1 is training, which would distort"))
            assert screen.preflight.job is None
            await pilot.press("enter")
            await until(pilot, lambda: was_notified(app, "other-1 is also training, in another process"))
            assert app.training.active == "quickstart-1"
        await until(pilot, lambda: app.training.has_work_to_save)
        app.training.shutdown()
