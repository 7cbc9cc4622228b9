"""What the tests of the chat share: a model that says given words, the app opened on its Chat screen, and a stand-in
for a trainer in another process."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from textual.widgets import Static

import workbench.app as app_module
from llm.config import DecodeConfig
from llm.engine import Done, Piece
from llm.errors import UserError
from llm.events import CommandRefused, Saved
from llm.run import Holder, Run
from llm.tokenizer.chat_template import STORIES_TEMPLATE
from tests.workbench.waiting import until_true
from workbench.app import WorkbenchApp


class FakeModel:
    """Says the words it was given; waits at `gate` before each, if there is one."""

    parameters, context = 1234, 64
    decode = DecodeConfig(temperature=0.5)
    template = STORIES_TEMPLATE
    is_tuned, in_training, sha256, device, warnings = False, False, "", "cpu", ()

    def __init__(self, words=("one ", "two ", "three"), gate=None):
        self.words, self.gate = words, gate
        self.name = "fake@1"
        self.updates = 0
        self.prompts = []
        self.params_used = []

    def update(self, cancelled):
        self.updates += 1

    def save_weights(self):
        raise OSError(28, "No space left on device")

    def validate(self, params):
        if any(name not in ("top_k", "temperature") for name in params.order):
            raise UserError("'t' is not a logits processor")

    def prompt_ids(self, prompt, params):
        return [0] * len(prompt) if isinstance(prompt, str) else list(prompt)

    def conversation_ids(self, messages):
        return [0] * len(self.template.render_prompt(messages))

    def prompt_changes(self, prompt):
        return ""

    def text_of(self, tokens):
        return "".join(self.words[token] for token in tokens)

    def stream(self, prompt, params, *, cancel, params_source, given=()):
        self.given = tuple(given)
        self.prompts.append((prompt, params))
        reason = "length"
        tokens = 0
        for number, word in enumerate(self.words):
            if self.gate is not None:
                self.gate.acquire()
            if cancel():
                reason = "cancelled"
                break
            self.params_used.append(params_source())
            tokens += 1
            yield Piece(0, number, word, context_used=5 + number)
        yield Done((reason,), tokens, 4, 1.0, 0.1, 20.0, 4 + tokens, 0, 0)


class NoTraining:
    def live_model(self, run_name):
        return None


class Trainer(threading.Thread):
    """Stands for a trainer in another process: answers the first `snapshot` with the weights of a checkpoint."""

    def __init__(self, run, reason=""):
        super().__init__(daemon=True)
        self.run_directory, self.reason = run, reason
        self.commands = run.commands()

    def run(self):
        run = self.run_directory
        while not (orders := self.commands.poll()):
            time.sleep(0.01)
        order = orders[0]
        log = run.log()
        if self.reason:
            log.append(CommandRefused(step=10, command=order.name, reason=self.reason, command_id=order.id))
        else:
            log.append(
                Saved(step=10, path="checkpoints/step-00000010", size_bytes=1, kind="snapshot", command_id=order.id)
            )
        log.close()


def elsewhere(monkeypatch):
    monkeypatch.setattr(Run, "holder", lambda run: Holder(1, "another-host"))


class ChatApp(WorkbenchApp):
    CSS_PATH = Path(app_module.__file__).with_name("app.tcss")
    DEFAULT_MODE = "chat"


def text_of(screen, selector):
    return str(screen.query_one(selector, Static).render())


async def opened(pilot):
    screen = pilot.app.screen
    screen.open_reference("fake")
    await until_true(lambda: screen.session.model is not None, "a model")
    return screen
