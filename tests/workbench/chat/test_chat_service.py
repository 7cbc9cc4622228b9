"""The chat's worker thread: opening, streaming, stopping, parameter changes, and errors."""

from __future__ import annotations

import queue
import shutil
import threading
from dataclasses import replace

import pytest

from llm.config import DecodeConfig
from llm.engine import Done, Piece
from llm.errors import UserError
from llm.model.packed import PackedTransformer
from llm.run import Run
from llm.tokenizer.chat_template import STORIES_TEMPLATE
from tests.workbench.chat.chat_for_tests import FakeModel, NoTraining, Trainer, elsewhere
from workbench.chat.conversation import Exchange
from workbench.chat.model import open_model
from workbench.chat.model_choices import default_reference, list_models
from workbench.chat.reply import (
    ParamsRecorder,
    ReplyEnded,
    ReplyPoster,
    ReplyStarted,
    ReplyUpdated,
    Request,
    Start,
    resolve_start,
    write_reply,
)
from workbench.chat.service import ChatService, ModelOpened, ModelOpenFailed
from workbench.chat.weights import request_snapshot
from workbench.serve.weights import open_source

UNCHANGED = ParamsRecorder(DecodeConfig(), DecodeConfig, lambda params: None)


class Chat:
    """A service whose messages can be waited for."""

    def __init__(self, chat_model, home=None):
        self.messages = queue.Queue()
        self.chat_model = chat_model
        self.service = ChatService(home, NoTraining(), self.messages.put, opener=self.opened)

    def opened(self, home, training, reference, cancelled):
        if isinstance(self.chat_model, Exception):
            raise self.chat_model
        return self.chat_model

    def next(self, kind):
        while True:
            message = self.messages.get(timeout=120)
            if isinstance(message, kind):
                return message

    def until_end(self):
        found = []
        while not found or not isinstance(found[-1], ReplyEnded):
            found.append(self.messages.get(timeout=120))
        return found


@pytest.fixture
def chat():
    made, before = [], set(threading.enumerate())

    def make(chat_model):
        one = Chat(chat_model)
        made.append(one)
        return one

    yield make
    for one in made:
        one.service.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()


def test_a_reply_from_beginning_to_end(chat):
    chat_model = FakeModel()
    one = chat(chat_model)
    one.service.open("fake")
    opened = one.next(ModelOpened)
    assert (opened.name, opened.parameters, opened.context, opened.decode.temperature) == ("fake@1", 1234, 64, 0.5)
    number = one.service.ask("Once")
    messages = one.until_end()
    assert isinstance(messages[0], ReplyStarted) and messages[0].reply == number
    assert "".join(message.text for message in messages if isinstance(message, ReplyUpdated)) == "one two three"
    end = messages[-1]
    pace = end.pace
    assert (end.reason, pace.tokens, pace.tokens_per_second, pace.context_used) == ("length", 3, 20.0, 7)
    assert chat_model.prompts[0][0] == "Once" and chat_model.updates == 1


def test_pieces_are_collected_between_two_messages():
    now = [0.0]
    posted = []
    poster = ReplyPoster(1, posted.append, requested=-0.5, params=UNCHANGED, clock=lambda: now[0])
    for number in range(50):
        now[0] += 0.01
        poster.add(Piece(0, number, "x"))
    assert len(posted) == 5 and posted[0].text == "x"
    poster.end(Done(("stop",), 50, 1, 1.0, 0.1, 2.0, 9, 0, 0))
    assert "".join(message.text for message in posted[:-1]) == "x" * 50
    assert posted[-1].reason == "stop"
    assert posted[-1].pace.first == pytest.approx(0.51), "counted from the asking on"


def test_further_samples_come_with_the_end():
    posted = []
    poster = ReplyPoster(1, posted.append, requested=0.0, params=UNCHANGED)
    for sample, text in ((0, "a"), (1, "p"), (2, "x"), (0, "b"), (1, "q")):
        poster.add(Piece(sample, 1, text))
    poster.end(Done(("stop",) * 3, 5, 1, 1.0, 0.1, 2.0, 9, 0, 0))
    assert "".join(message.text for message in posted[:-1]) == "ab" and posted[-1].others == ("pq", "x")


def test_stopping_ends_a_reply_within_one_token(chat):
    gate = threading.Semaphore(2)
    one = chat(FakeModel(words=["w"] * 100, gate=gate))
    one.service.open("fake")
    one.service.ask("Once")
    one.next(ReplyUpdated)
    one.service.stop()
    gate.release(2)
    end = one.next(ReplyEnded)
    assert end.reason == "cancelled" and end.pace.tokens <= 3


def test_parameters_apply_from_the_next_token(chat):
    gate = threading.Semaphore(0)
    chat_model = FakeModel(words=["a", "b"], gate=gate)
    one = chat(chat_model)
    one.service.params = DecodeConfig(temperature=1.0)
    one.service.open("fake")
    one.service.ask("Once")
    gate.release()
    one.next(ReplyUpdated)
    one.service.params = replace(one.service.params, temperature=0.25)
    gate.release()
    one.next(ReplyEnded)
    assert [params.temperature for params in chat_model.params_used] == [1.0, 0.25]


def test_turns_are_written_as_the_corpus_writes_them(chat):
    chat_model = FakeModel()
    chat_model.context = 200
    one = chat(chat_model)
    one.service.open("fake")
    one.service.ask("Who?", history=[("What?", "A cat.")], template=STORIES_TEMPLATE)
    one.next(ReplyEnded)
    prompt, params = chat_model.prompts[0]
    assert prompt == "Question: What?\nAnswer: A cat.\n\nQuestion: Who?\nAnswer:"
    assert params.stop == ("\n\nQuestion:",) and chat_model.params_used[0].stop == params.stop


def test_the_oldest_turns_are_dropped_first():
    chat_model = FakeModel()
    history = [(f"q{number}", "a" * 20) for number in range(3)]
    start = resolve_start(chat_model, Request(1, "now", DecodeConfig(), history, STORIES_TEMPLATE))
    assert start.dropped_turns == 3 and start.context == "Question: now\nAnswer:"
    chat_model.context = 150
    start = resolve_start(chat_model, Request(1, "now", DecodeConfig(), history, STORIES_TEMPLATE))
    assert start.dropped_turns == 1 and start.context.startswith("Question: q1\n")
    request = Request(1, "now", DecodeConfig(), history, STORIES_TEMPLATE, system="Be brief.")
    start = resolve_start(chat_model, request)
    assert start.dropped_turns == 2 and start.context.startswith("Question: Be brief.\n\nq2\n"), "it is never dropped"


def test_an_answer_ends_before_the_oldest_tokens_leave_the_context():
    chat_model = FakeModel()
    chat_model.context = 40
    post = []
    write_reply(chat_model, Request(1, "q", DecodeConfig(), template=STORIES_TEMPLATE), DecodeConfig, post.append)
    assert chat_model.params_used[-1].max_total_tokens == 40
    write_reply(chat_model, Request(2, "q" * 80, DecodeConfig(), template=STORIES_TEMPLATE), DecodeConfig, post.append)
    write_reply(chat_model, Request(3, "a text", DecodeConfig()), DecodeConfig, post.append)
    assert [params.max_total_tokens for params in chat_model.params_used[-2:]] == [0, 0]


def test_prompts_from_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("from a file")
    requested = Request(1, f"FILE:{tmp_path}/p.txt", DecodeConfig())
    assert resolve_start(FakeModel(), requested) == Start("from a file", file_text="from a file")
    (tmp_path / "p.txt").unlink()
    assert resolve_start(FakeModel(), replace(requested, file_text="from a file")).context == "from a file"


def test_invalid_parameters_are_ignored():
    def check(params):
        if params.order:
            raise UserError("no such transformation")

    now = [DecodeConfig(top_k=1), DecodeConfig(order=("t",)), DecodeConfig(top_k=1), DecodeConfig(top_k=2)]
    wanted = iter(now)
    params = ParamsRecorder(DecodeConfig(), lambda: next(wanted), check)
    assert [params().top_k, params().top_k] == [1, 1] and params.problem == "no such transformation"
    assert [params().top_k, params().top_k] == [1, 2] and params.problem == ""
    assert params.changes == [(0, now[0]), (3, now[3])]


def test_a_continuation_starts_from_the_exact_tokens():
    reply = Exchange(
        1, 0, "text", "ab", context="ab", reply="c\ufffd", tokens=[9, 228], reason="length", model="fake@1"
    )
    on = Request(2, "", DecodeConfig(), continues=reply)
    start = resolve_start(FakeModel(), on)
    assert (start.context, list(start.begun)) == ("abc\ufffd", [0, 0, 9, 228])
    again = replace(reply, begun=[7, 7], context="later")
    assert list(resolve_start(FakeModel(), replace(on, continues=again)).begun) == [7, 7, 9, 228]
    for other in (replace(reply, reason="stop"), replace(reply, model="other@1")):
        assert resolve_start(FakeModel(), replace(on, continues=other)) == Start("abc\ufffd")


@pytest.mark.parametrize(
    ("error", "words"), [(UserError("no such run."), "no such run."), (ValueError("boom"), "ValueError: boom")]
)
def test_a_model_that_cannot_be_opened(chat, error, words, monkeypatch):
    monkeypatch.setattr("workbench.chat.service.write_log", lambda text: None)
    one = chat(error)
    one.service.open("gone")
    assert words in one.next(ModelOpenFailed).problem
    one.service.ask("Once")
    end = one.next(ReplyEnded)
    assert end.reason == "failed" and "No model is open" in end.problem


def test_a_failing_reply_leaves_the_thread_alive(chat, monkeypatch):
    monkeypatch.setattr("workbench.chat.service.write_log", lambda text: None)
    chat_model = FakeModel()
    one = chat(chat_model)
    one.service.open("fake")
    chat_model.update = lambda cancelled: 1 / 0
    one.service.ask("Once")
    assert "ZeroDivisionError" in one.next(ReplyEnded).problem
    chat_model.update = lambda cancelled: None
    one.service.ask("Once")
    assert one.next(ReplyEnded).reason == "length"


def test_a_real_checkpoint_says_the_same_twice(trained_run):
    home = trained_run.path.parent.parent
    chat_model = open_model(home, NoTraining(), "tiny-1@10", lambda: False)
    assert chat_model.name == "tiny-1@10" and chat_model.context == 32 and chat_model.template is None
    params = replace(chat_model.decode, max_tokens=40, seed=7)

    def text():
        items = chat_model.stream("Ada saw", params, cancel=lambda: False, params_source=lambda: params)
        return "".join(item.text for item in items if isinstance(item, Piece))

    assert text() == text() != ""


def test_a_reply_uses_the_weights_of_its_parameters(trained_run):
    home = trained_run.path.parent.parent
    chat_model = open_model(home, NoTraining(), "tiny-1@10", lambda: False)
    kinds = []
    for weights in ("int8", "int4", "auto"):
        params = replace(chat_model.decode, max_tokens=5, weights=weights)
        list(chat_model.stream("Ada", params, cancel=lambda: False, params_source=lambda params=params: params))
        kinds.append((chat_model.engine.weights, isinstance(chat_model.engine.model, PackedTransformer)))
    assert kinds == [("int8", True), ("int4", True), ("auto", False)]
    served = open_source(home, "tiny-1@10", NoTraining(), kind="int8").load()
    assert isinstance(served.model, PackedTransformer)


def test_live_of_a_run_that_is_over_is_its_last_checkpoint(trained_run):
    home = trained_run.path.parent.parent
    assert open_model(home, NoTraining(), "tiny-1@live", lambda: False).name == "tiny-1@20"


def test_the_model_in_training_is_copied_again_for_every_reply(trained_run):
    home = trained_run.path.parent.parent
    kept = open_model(home, NoTraining(), "tiny-1@10", lambda: False)

    class Live:
        step, tokenizer = 3, kept.engine.tokenizer
        snapshots = 0

        def snapshot(self):
            self.snapshots += 1
            return kept.engine.model, self.step

    class Training:
        live = Live()

        def live_model(self, run_name):
            return self.live

    training = Training()
    chat_model = open_model(home, training, "tiny-1@live", lambda: False)
    assert chat_model.name == "tiny-1@3"
    chat_model.update(lambda: False)
    assert training.live.snapshots == 1, "nothing is copied while no step was made"
    training.live.step = 4
    chat_model.update(lambda: False)
    assert chat_model.name == "tiny-1@4" and training.live.snapshots == 2


def test_a_model_in_another_process_is_asked_for_its_weights(trained_run, tmp_path, monkeypatch):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    run = Run.open(tmp_path, "tiny-1")
    elsewhere(monkeypatch)
    Trainer(run).start()
    chat_model = open_model(tmp_path, NoTraining(), "tiny-1@live", lambda: False)
    assert chat_model.name == "tiny-1@10"
    Trainer(run, reason="the disk is full").start()
    with pytest.raises(UserError, match="disk is full"):
        chat_model.update(lambda: False)


def test_a_trainer_that_does_not_answer(trained_run, tmp_path, monkeypatch):
    shutil.copytree(trained_run.path, tmp_path / "runs" / "tiny-1")
    run = Run.open(tmp_path, "tiny-1")
    elsewhere(monkeypatch)
    with pytest.raises(UserError, match="did not answer"):
        request_snapshot(run, lambda: False, timeout=0.1)
    monkeypatch.setattr(Run, "holder", lambda run: None)
    with pytest.raises(UserError, match="just ended"):
        request_snapshot(run, lambda: False)


def test_list_models(trained_run, tmp_path):
    home = trained_run.path.parent.parent
    assert [choice.reference for choice in list_models(home)] == ["tiny-1@20", "tiny-1@10"]
    assert "last" in list_models(home)[0].description
    assert default_reference(home, None) == "tiny-1" and default_reference(home, "x") == "x@live"
    assert default_reference(tmp_path, None) == "" and list_models(tmp_path) == []
