"""The server of the workbench, started and stopped by its keys."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from llm.run import Run
from tests.workbench.runs.screen_for_tests import RunsApp
from tests.workbench.waiting import shown, until
from workbench.runs.screen import RunsScreen
from workbench.serve.screen import ServeScreen
from workbench.serve.server import DEFAULT_PORT, HttpServer, is_loopback


def models_at(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models") as answer:
        return [model["id"] for model in json.load(answer)["data"]]


async def test_a_key_serves_a_run_until_the_app_ends(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    app = RunsApp(home)
    with socket.socket() as other:  # the usual port is taken
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", DEFAULT_PORT))
            other.listen()
        except OSError:
            pass  # by a program of this machine
        async with app.run_test(size=(80, 24)) as pilot:
            screen: Any = app.screen
            await until(pilot, lambda: screen.runs_table.select_key("tiny-1"))
            await until(pilot, lambda: screen.checkpoint_table.checkpoints)
            await pilot.press("A")
            await until(pilot, lambda: "Serving tiny-1: a checkpoint." in shown(app.screen))
            server = app.serving.server
            assert server is not None
            await until(pilot, lambda: server.url in shown(app.screen))
            assert str(DEFAULT_PORT) not in server.url
            assert f"curl {server.url}/completions" in shown(app.screen)
            server.has_chat_template = True  # as of a model that was fine-tuned on conversations
            await until(pilot, lambda: f"curl {server.url}/chat/completions" in shown(app.screen))
            assert models_at(server.url) == ["tiny-1"]
            await pilot.press("y")
            assert app.clipboard == server.url
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, RunsScreen))
            assert models_at(server.url) == ["tiny-1"]
            app.push_screen(ServeScreen())
            await pilot.press("s")
            await until(pilot, lambda: "No model is served. Press s to serve tiny-1." in shown(app.screen))
            await until(pilot, lambda: app.serving.server is None)
            await pilot.press("s")
            await until(pilot, lambda: app.serving.server is not None)
            again = app.serving.server
            assert again is not None
    app.serving.stop(10)
    with pytest.raises(OSError, match="refused"):
        models_at(again.url)


async def test_a_model_that_cannot_be_loaded_is_named(trained_run: Run, home: Path) -> None:
    shutil.copytree(trained_run.path.parent.parent, home, dirs_exist_ok=True)
    app = RunsApp(home)
    async with app.run_test(size=(80, 24)) as pilot:
        app.push_screen(ServeScreen("tiny-1@7"))
        await until(pilot, lambda: "tiny-1 has no checkpoint" in shown(app.screen))


def test_others_need_a_token(trained_run: Run) -> None:
    home = trained_run.path.parent.parent
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.com")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert len(HttpServer(home, "tiny-1", host="0.0.0.0", port=0).token) > 20
    assert HttpServer(home, "tiny-1", port=0).token == ""
    assert HttpServer(home, "tiny-1", port=0, token="mine").token == "mine"
