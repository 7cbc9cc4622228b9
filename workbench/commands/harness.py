"""`eval --harness`: tasks of the lm-evaluation-harness."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm.config import evaluation_batch_size, resolve_seq_len
from llm.errors import UserError, WrongUse
from llm.run import find_checkpoint
from workbench.commands.output import print_json, print_table, say


def evaluate_harness(options: argparse.Namespace) -> int:
    """Print the metrics of the tasks in `options.harness`: names, or folders of task files, separated by commas."""
    if find_spec("lm_eval") is None:
        raise WrongUse("lm_eval is not installed; install it: pip install 'llm-workbench[harness]'.")
    run, info = find_checkpoint(options.home, options.run, say)
    config = run.config()

    from lm_eval.evaluator import simple_evaluate

    from llm.device import choose_device
    from llm.interop.harness import HarnessModel
    from llm.weights import load_model

    names, manager = find_tasks(options.harness)
    model, tokenizer = load_model(run, info, choose_device(options.device))
    batch_tokens = evaluation_batch_size(config.train) * resolve_seq_len(config.train, config.model)
    adapter = HarnessModel(model, tokenizer, batch_tokens=batch_tokens)
    limit = options.examples or None
    try:
        found = simple_evaluate(model=adapter, tasks=names, task_manager=manager, limit=limit, bootstrap_iters=1000)
    except OSError as error:
        raise UserError(f"a task could not be loaded ({error}); its data may need a network.") from error
    results: dict[str, dict[str, Any]] = found["results"]
    if options.json:
        print_json({"name": run.name, "step": info.step, "tasks": results})
        return 0
    rows = [
        (task, metric.partition(",")[0], f"{value:.4f}")
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if isinstance(value, float) and "_stderr" not in metric
    ]
    print_table(("task", "metric", "value"), rows)
    return 0


def find_tasks(text: str) -> tuple[list[str], Any]:
    """The tasks in a comma-separated list of names and folders, and the manager that loads them. WrongUse for an
    unknown one."""
    from lm_eval.tasks import TaskManager

    words = [word.strip() for word in text.split(",") if word.strip()]
    folders = [word for word in words if Path(word).is_dir()]
    names = [word for word in words if word not in folders]
    manager = TaskManager(include_path=folders or None, include_defaults=bool(names))
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise WrongUse(f'the harness has no task "{unknown[0]}"; lm_eval ls tasks lists them.')
    if folders:
        names += TaskManager(include_path=folders, include_defaults=False).all_tasks
    if not names:
        raise WrongUse(f"there is no task in {text}.")
    return names, manager
