"""`llm-workbench bench serve`: tokens per second of many clients at once, compared with one after the other.

The server is a separate process with a model of quickstart's size; the clients are threads of this one, which send
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
    """Tokens per second in `rounds` rounds of each way, and the ratio of the medians."""
    command = [sys.executable, "-m", "workbench", "--home", str(home)]
    train = [*command, "train", "quickstart", "--name", "served", "--train.steps", "1", "--evaluate.every", "0"]
    if subprocess.run(train, capture_output=True, check=False).returncode:
        raise UserError("the model to serve could not be trained; run llm-workbench train quickstart to see why.")
    found: dict[str, list[float]] = {"one after the other": [], "at once": [], "at once, streaming": []}
    with serving([*command, "serve", "served", "--port", "0", "--json"]) as url:
        complete(url, False)
        for _ in range(rounds):
            found["one after the other"].append(speed(url, workers=1, stream=False))
            found["at once"].append(speed(url, workers=CLIENTS, stream=False))
            found["at once, streaming"].append(speed(url, workers=CLIENTS, stream=True))
    ratio = median(found["at once"]) / median(found["one after the other"])
    return {"clients": CLIENTS, "new_tokens": NEW_TOKENS, "tokens_per_second": found, "ratio": ratio}


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """The URL of a server process, which ends with the block."""
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


def speed(url: str, *, workers: int, stream: bool) -> float:
    """Tokens per second of `CLIENTS` requests from `workers` threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for job in [pool.submit(complete, url, stream, seed) for seed in range(CLIENTS)]:
            job.result()
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
    """The result as text: median, lowest and highest."""
    lines = [f"{result['clients']} requests of {result['new_tokens']} tokens, tokens per second"]
    for name, values in result["tokens_per_second"].items():
        lines.append(f"{name:<22} {median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})")
    return [*lines, f"{'ratio':<22} {result['ratio']:.1f}"]
