"""`submit`: train a run as a SLURM job."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import load_preset
from llm.errors import UserError, WrongUse
from llm.files import write_atomic
from llm.run import Run
from llm.training.batch_plan import resolve_batch_size
from workbench.commands.options import add_command
from workbench.commands.output import print_json, say

TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")
SCRIPT = "submit.sh"
STOP_SECONDS = 120
"""Seconds before the time limit at which SLURM signals the ranks, which then save."""


@dataclass(frozen=True)
class Job:
    """What a SLURM job asks for. `gpus` and `nproc` are per node; `nproc` ranks train on each."""

    nodes: int
    gpus: int
    nproc: int
    time: str
    partition: str = ""
    account: str = ""

    def script(self, run: Run, home: Path) -> str:
        """The batch script that trains `run`. It follows the manuals of sbatch and torchrun."""
        options = {
            "job-name": run.name,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "gpus-per-node": self.gpus,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "signal": f"TERM@{STOP_SECONDS}",
            "output": run.path / "slurm-%j.log",
            "open-mode": "append",
        }
        head = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
        lines = [
            "#!/bin/bash",
            *head,
            "#SBATCH --requeue",
            "# SLURM sends SIGTERM before the time limit and on preemption; the ranks then save and stop.",
            "# A requeued job runs this script again, and the run resumes from its last checkpoint.",
            "set -euo pipefail",
            'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "exec srun --kill-on-bad-exit=1 \\",
            f"  {shlex.quote(sys.executable)} -m torch.distributed.run \\",
            f"  --nnodes={self.nodes} --nproc-per-node={self.nproc} --max-restarts=1 \\",
            '  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \\',
            '  --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 10000))" \\',
            f"  --shutdown-timeout={STOP_SECONDS - 10} \\",
            f"  -m llm.train {shlex.quote(str(run.path))} --home {shlex.quote(str(home))}",
        ]
        return "\n".join(lines) + "\n"


def register(subparsers: Any) -> None:
    command = add_command(subparsers, "submit", "train a run as a SLURM job", submit, json=True, takes_fields=True)
    command.usage = (
        f"{command.prog} PRESET|RUN --time LIMIT [--nodes N] [--gpus G] [--nproc P] [--partition NAME] "
        "[--account NAME] [--print-script] [--home DIR] [--json] [--FIELD VALUE ...]"
    )
    command.add_argument("what", metavar="PRESET|RUN", help="a run to resume, or a preset to train")
    command.add_argument("--name", help="name of a new run (default: the preset's name and a number)")
    command.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: 1)")
    command.add_argument("--gpus", type=int, default=1, metavar="G", help="GPUs of each machine (default: 1; 0: CPU)")
    command.add_argument(
        "--nproc", type=int, default=0, metavar="P", help="ranks on each machine (default: one per GPU)"
    )
    command.add_argument(
        "--time", required=True, metavar="LIMIT", help="time limit of the job: 30, 12:00:00, 2-00:00:00"
    )
    command.add_argument("--partition", default="", metavar="NAME", help="SLURM partition")
    command.add_argument("--account", default="", metavar="NAME", help="SLURM account")
    help = "only write the script and print its path; this is the default without sbatch"
    command.add_argument("--print-script", action="store_true", help=help)


def submit(options: argparse.Namespace) -> int:
    """Write the script into the run directory, and pass it to sbatch."""
    job = job_of(options)
    run = find_or_create(options, job)
    path = run.path / SCRIPT
    write_atomic(path, job.script(run, options.home).encode())
    number = ""
    if not options.print_script and shutil.which("sbatch"):
        number = call_sbatch(path)
    if options.json:
        print_json({"name": run.name, "path": str(run.path), "script": str(path), "job": number})
    else:
        print(number or path)
    if number:
        say(f"submitted {run.name} as job {number}; watch it with llm-workbench attach {run.name}")
    else:
        say(f"wrote {path}; submit it with: sbatch {shlex.quote(str(path))}")
    return 0


def job_of(options: argparse.Namespace) -> Job:
    if not TIME.fullmatch(options.time):
        raise WrongUse(f"--time {options.time} is no time limit of SLURM; write minutes, 12:00:00 or 2-00:00:00.")
    if options.nodes < 1 or options.gpus < 0 or options.nproc < 0:
        raise WrongUse("--nodes must be 1 or more, --gpus and --nproc 0 or more.")
    for flag, value in (("--partition", options.partition), ("--account", options.account)):
        if not re.fullmatch(r"[\w.,-]*", value):
            raise WrongUse(f"{flag} {value!r} is not a name.")
    nproc = options.nproc or max(1, options.gpus)
    return Job(options.nodes, options.gpus, nproc, options.time, options.partition, options.account)


def find_or_create(options: argparse.Namespace, job: Job) -> Run:
    """The run of that name, or a new one of the preset of that name. ConfigError where the ranks cannot divide its
    batch."""
    is_path = "/" in options.what and not options.what.endswith(".toml")
    if is_path or (options.home / "runs" / options.what / "run.toml").is_file():
        run = Run.open(options.home, options.what)
        if options.overrides:
            raise WrongUse(f"{run.name} is a run, whose fields are set; fork it to change them.")
        resolve_batch_size(run.config(), job.nodes * job.nproc)
        return run
    config = load_preset(options.what, options.home, options.overrides)
    resolve_batch_size(config, job.nodes * job.nproc)
    return Run.create_numbered(options.home, Path(options.what).stem, config, name=options.name or "")


def call_sbatch(script: Path) -> str:
    """Submit a script; the number of its job. UserError with what sbatch said where it refuses."""
    ended = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if ended.returncode:
        said = " ".join(ended.stderr.split())[:300] or f"exit status {ended.returncode}"
        raise UserError(f"sbatch refused {script}: {said}")
    return ended.stdout.strip().partition(";")[0]
