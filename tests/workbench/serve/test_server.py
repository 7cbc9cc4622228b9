"""The server as a process, asked over sockets by the official client, which takes a second to import."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llm.config import from_toml
from llm.engine import Engine
from llm.run import Run
from llm.training.run import run_training
from llm.weights import load_model
from tests.conftest import TINY

HOME_OF_TESTS = Path(__file__).parents[3]
LONG = 20_000
"""Tokens of a reply that no test waits for."""


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a context so long that a reply can take minutes."""
    home = tmp_path_factory.mktemp("serve-home")
    text = TINY.replace("context = 32", "context = 30000").replace("steps = 20", "steps = 3\nseq_len = 32")
    run = Run.create(home, "talker", from_toml(text + f"[data]\ncorpus = {str(corpus)!r}\nboundary = 'none'\n"))
    run_training(run, home)
    return run


class Served:
    """A server process."""

    def __init__(self, run: Run, *options: str) -> None:
        command = [sys.executable, "-m", "workbench", "--home", str(run.path.parent.parent), "serve", run.name]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=HOME_OF_TESTS,
        )
        assert self.process.stdout is not None
        text = b""
        while not text.endswith(b"}\n"):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1].decode()
            text += line
        self.url: str = json.loads(text)["url"]
        import openai

        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60)

    def connect(self) -> http.client.HTTPConnection:
        where = urlsplit(self.url)
        return http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)

    def post(self, body: bytes, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
        """The status and the JSON of an answer, without the client."""
        connection = self.connect()
        connection.request("POST", path, body, {"content-type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Served]:
    server = Served(run, "--max-requests", "3")
    yield server
    server.process.kill()
    server.process.communicate()


def ask(served: Served, **fields: Any) -> Any:
    return served.client.completions.create(**({"model": "talker", "prompt": "Ada saw", "max_tokens": 12} | fields))


def test_a_completion_is_the_text_of_the_engine(served: Served, run: Run) -> None:
    assert [model.id for model in served.client.models.list().data] == ["talker"]
    assert served.client.models.retrieve("talker").id == "talker"
    model, tokenizer = load_model(run, run.checkpoint())
    params = replace(run.config().decode, max_tokens=12, seed=4, num_samples=2, temperature=0.8, presence_penalty=0.5)
    expected = Engine(model, tokenizer).complete(["Ada saw", "Béla"], params)
    answer = ask(
        served, prompt=["Ada saw", "Béla"], seed=4, n=2, temperature=0.8, presence_penalty=0.5, logprobs=2
    )  # fmt: skip
    assert [choice.text for choice in answer.choices] == [text for one in expected for text in one.texts]
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 4
    assert answer.system_fingerprint == "talker@3"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 48)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 12
    assert all(len(top) == 2 and max(top.values()) >= value - 1e-6 for top, value in zip(
        logprobs.top_logprobs, logprobs.token_logprobs, strict=True))  # fmt: skip


def test_an_echo_begins_with_the_prompt(served: Served) -> None:
    answer = ask(served, prompt="Ada saw", max_tokens=2, echo=True, logprobs=1, extra_body={"ban_end": True})
    choice = answer.choices[0]
    assert choice.text.startswith("Ada saw")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    assert "".join(choice.logprobs.tokens[:7]) == "Ada saw"
    assert choice.logprobs.text_offset[:8] == list(range(8))
    assert (choice.logprobs.token_logprobs[0], choice.logprobs.top_logprobs[0]) == (None, None)
    assert len(choice.logprobs.token_logprobs) == 9
    only = ask(served, prompt="Ada saw", max_tokens=0, echo=True, logprobs=1).choices[0]
    assert (only.text, only.finish_reason) == ("Ada saw", "length")
    assert only.logprobs.token_logprobs[1:] == pytest.approx(choice.logprobs.token_logprobs[1:7])


def test_a_stream_brings_the_same_text(served: Served) -> None:
    whole = ask(served, seed=7, stop=["a"], max_tokens=200).choices[0]
    chunks = list(ask(served, seed=7, stop=["a"], max_tokens=200, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.text
    assert chunks[-2].choices[0].finish_reason == whole.finish_reason
    assert chunks[-1].usage.completion_tokens > 0


def test_a_chat_with_log_probabilities(served: Served) -> None:
    messages: Any = [{"role": "user", "content": "Ada saw"}]
    whole = served.client.chat.completions.create(
        model="talker", messages=messages, seed=3, max_tokens=9, logprobs=True, top_logprobs=3
    )
    tokens = whole.choices[0].logprobs.content
    assert (
        bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace").lstrip()
        == whole.choices[0].message.content
    )
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    chunks = list(
        served.client.chat.completions.create(model="talker", messages=messages, seed=3, max_tokens=9, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content


def test_errors_have_the_shape_of_the_api(served: Served) -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as caught:
        ask(served, model="gpt-4")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(served, prompt="x" * 30_000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="token 999999 does not exist"):
        ask(served, logit_bias={"999999": 1})
    with pytest.raises(openai.NotFoundError, match="Unknown request URL: POST /v1/embeddings"):
        served.client.embeddings.create(model="talker", input="x")
    status, body = served.post(b'{"model": "talker", ')
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    status, body = served.post(b"x" * 100_000_000)
    assert (status, body["error"]["code"]) == (413, "request_too_large")


def test_only_names_of_this_machine_are_answered(served: Served) -> None:
    foreign = ("evil.example", "evil.example:80", "localhost.evil.example", "[", "")
    for host, status in {**dict.fromkeys(foreign, 400), "localhost:9": 200, "[::1]": 200}.items():
        connection = served.connect()
        connection.request("GET", "/v1/models", headers={"host": host})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == status, host
        assert status == 200 or body["error"]["type"] == "invalid_request_error"


CLIENT = """
import http.client, json, sys
body = {"model": "talker", "prompt": "Ada", "max_tokens": int(sys.argv[2]), "ban_end": True}
body["stream"] = sys.argv[3] == "stream"
print("began", flush=True)
while True:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 429:
        break
    answer.read()
sys.stdin.read()
"""


def test_a_killed_client_frees_its_place(served: Served) -> None:
    import openai

    port = str(urlsplit(served.url).port)
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, port, str(LONG), kind], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        for kind in ("stream", "stream", "whole")
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == b"began\n"
    with pytest.raises(openai.RateLimitError) as caught:
        until(lambda: ask(served, max_tokens=1) is None)
    assert caught.value.code == "rate_limit_exceeded"
    for client in clients:
        client.send_signal(signal.SIGKILL)
        client.communicate()
    until(lambda: is_free(served))


def until(condition: Any, seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def is_free(served: Served) -> bool:
    """Whether all three places can be taken at once."""
    import openai

    found: list[bool] = []

    def take() -> None:
        try:
            ask(served, max_tokens=300, extra_body={"ban_end": True})
            found.append(True)
        except openai.RateLimitError:
            found.append(False)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return all(found)


def test_a_stop_finishes_what_streams(served: Served) -> None:
    stream = ask(served, max_tokens=800, stream=True, seed=1, extra_body={"ban_end": True})
    first = next(iter(stream))
    served.process.send_signal(signal.SIGINT)
    until(lambda: refuses_connections(served))
    texts = [first.choices[0].text, *(chunk.choices[0].text for chunk in stream)]
    assert len("".join(texts).encode()) >= 700
    assert served.process.wait(30) == 130
    assert served.process.stderr is not None
    said = served.process.stderr.read().decode()
    assert "stopped." in said
    assert "Traceback" not in said


def refuses_connections(served: Served) -> bool:
    connection = served.connect()
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    connection.close()
    return False
