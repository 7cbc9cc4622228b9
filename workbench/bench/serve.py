"""`llm-workbench bench serve`: throughput of the server with concurrent requests, compared with sequential ones.

The server is a separate process with a model of quickstart's size. The clients are threads of this process that send
requests over sockets. The weights are nearly random, and every reply has the same length.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from llm.errors import UserError

CLIENTS = 32
NEW_TOKENS = 128


def measure(home: Path, rounds: int) -> dict[str, Any]:
    """Tokens per second of each kind of requests in each of `rounds` rounds, and the ratio of the medians."""
    command = [sys.executable, "-m", "workbench", "--home", str(home)]
    train = [*command, "train", "quickstart", "--name", "served", "--train.steps", "1", "--evaluate.every", "0"]
    if subprocess.run(train, capture_output=True, check=False).returncode:
        raise UserError("the model to serve could not be trained; run llm-workbench train quickstart to see why.")
    sequential, concurrent, streaming = [], [], []
    with run_server([*command, "serve", "served", "--port", "0", "--json"]) as url:
        complete(url, False)
        for _ in range(rounds):
            sequential.append(tokens_per_second(url, workers=1, stream=False))
            concurrent.append(tokens_per_second(url, workers=CLIENTS, stream=False))
            streaming.append(tokens_per_second(url, workers=CLIENTS, stream=True))
    return {
        "clients": CLIENTS,
        "new_tokens": NEW_TOKENS,
        "tokens_per_second": {
            "one after the other": sequential,
            "at once": concurrent,
            "at once, streaming": streaming,
        },
        "ratio": median(concurrent) / median(sequential),
    }


@contextmanager
def run_server(command: list[str]) -> Iterator[str]:
    """Run a server process inside the block; yields its URL."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        text = b""
        while b"}" not in text:
            line = process.stdout.readline()
            if not line:
                raise UserError("the server did not start; run llm-workbench serve to see why.")
            text += line
        yield json.loads(text)["url"]
    finally:
        process.terminate()
        process.wait()


def tokens_per_second(url: str, *, workers: int, stream: bool) -> float:
    """Tokens per second of `CLIENTS` requests from `workers` threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for request in [pool.submit(complete, url, stream, seed) for seed in range(CLIENTS)]:
            request.result()
    return CLIENTS * NEW_TOKENS / (time.perf_counter() - began)


def complete(url: str, stream: bool, seed: int = 0) -> None:
    """Send one request, and read its answer to the end."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port)
    body = {"model": "served", "prompt": "Once", "max_tokens": NEW_TOKENS, "seed": seed, "ban_end": True}
    headers = {"content-type": "application/json"}
    connection.request(
        "POST", f"{where.path}/completions", json.dumps(body | {"stream": stream, "stop": None}), headers
    )
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise UserError(f"the server answered {answer.status}: {text[:200].decode(errors='replace')}")


def lines_of(result: dict[str, Any]) -> list[str]:
    """The printed result: median, lowest and highest."""
    lines = [f"{result['clients']} requests of {result['new_tokens']} tokens, tokens per second"]
    for name, values in result["tokens_per_second"].items():
        lines.append(f"{name:<22} {median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})")
    return [*lines, f"{'ratio':<22} {result['ratio']:.1f}"]
