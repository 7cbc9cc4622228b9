"""`serve`: answer the OpenAI API from a checkpoint, or from a run in training."""

from __future__ import annotations

import argparse
import os
from typing import Any, get_args

from llm.config import WeightFormat
from llm.errors import UserError, WrongUse
from llm.run import list_runs
from workbench.commands.options import add_command, add_device
from workbench.commands.output import print_json, say
from workbench.serve.server import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_REQUESTS, HttpServer

TOKEN_VARIABLE = "LLM_WORKBENCH_TOKEN"


def register(subparsers: Any) -> None:
    help = "answer the OpenAI API over HTTP from a checkpoint, or from the model in training"
    parser = add_command(subparsers, "serve", help, serve, json=True)
    parser.add_argument(
        "run", nargs="?", default="", metavar="RUN[@STEP|@last|@best|@live]", help="the model (default: the newest run)"
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on (default: only this machine)")
    help = f"the port (default: {DEFAULT_PORT}; 0 = any free one)"
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=help)
    help = f"requests at a time; more are refused (default: {DEFAULT_REQUESTS})"
    parser.add_argument("--max-requests", type=int, default=DEFAULT_REQUESTS, metavar="N", help=help)
    help = "auto, int8 or int4, as decode.weights (default: as in the run)"
    parser.add_argument("--weights", choices=get_args(WeightFormat), help=help)
    add_device(parser)
    parser.epilog = (
        f"Clients must send the token in ${TOKEN_VARIABLE} as their API key, if it is set. On an address that other "
        "machines can reach, a token is always needed; without the variable, a new one is printed."
    )


def serve(options: argparse.Namespace) -> int:
    """Print the base URL once the server listens, and answer until an interrupt."""
    if options.max_requests < 1:
        raise WrongUse("--max-requests must be at least 1.")
    reference = options.run or newest_run(options)
    server = HttpServer(
        options.home,
        reference,
        host=options.host,
        port=options.port,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        device=options.device,
        weights=options.weights,
        max_requests=options.max_requests,
        on_damage=say,
    )
    what = f"{server.name}, which is in training" if server.is_live else reference
    say(f"serving {what}; press ctrl+c to stop. API key: {server.token or 'none needed'}")
    if options.json:
        print_json({"url": server.url, "model": server.model, "token": server.token})
    else:
        print(server.url, flush=True)
    try:
        server.run()
    finally:
        say("stopped.")
    return 0


def newest_run(options: argparse.Namespace) -> str:
    """The newest run that has a checkpoint or is in training."""
    for run in list_runs(options.home):
        if any(run.checkpoint_directory.glob("step-*")) or run.holder() is not None:
            return run.name
    raise UserError(f"there is no trained run in {options.home / 'runs'}; train one: llm-workbench train quickstart")
