"""Signals to ranks and deaths of ranks, with real processes under torchrun."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from safetensors.torch import load_file

from llm.events import Finished, Started, StepLogged, Warned
from llm.run.checkpoints import MODEL, verify
from llm.training.rank_watch import Peer, RankWatch, describe_wait_status
from tests.forking import complete_on_ranks

from .conftest import MakeRun
from .ranks_for_tests import SETTINGS, finish, last_event, rank_processes, running, torchrun, wait_for_step

KILLS_WITHIN = 3000.0
ENDS_WITHIN = 300.0  # on a busy machine; torchrun kills ranks 30 s after one has died


SLOW = pytest.mark.slow


def test_sigterm_to_one_rank_saves_and_stops_all(make_run: MakeRun) -> None:
    """Without torchrun, whose start takes seconds."""
    run = make_run("signaled", **SETTINGS)
    with ThreadPoolExecutor(1) as thread:
        ranks = thread.submit(complete_on_ranks, 2, str(run.path))
        wait_for_step(run, 5, ranks)
        holder = run.holder()
        assert holder is not None
        (other,) = (rank for rank in psutil.Process(holder.pid).parent().children() if rank.pid != holder.pid)
        other.terminate()
        assert [ended.returncode for ended in ranks.result()] == [0, 0]
    end = last_event(run)
    assert isinstance(end, Finished) and end.status == "stopped" and "SIGTERM" in end.reason
    assert run.checkpoint().step == end.step >= 5
    verify(run.checkpoint())


@SLOW
@pytest.mark.parametrize("target", ["torchrun", "rank 0", "rank 1"])
def test_sigterm_to_torchrun_or_to_any_rank_saves_and_stops_all(make_run: MakeRun, target: str) -> None:
    run = make_run("signaled", **SETTINGS)
    with running(run, 2) as process:
        first, others = rank_processes(run, process)
        pid = {"torchrun": process.pid, "rank 0": first.pid, "rank 1": others[0].pid}[target]
        os.kill(pid, signal.SIGTERM)
        said = finish(process, ENDS_WITHIN)
    end = last_event(run)
    assert isinstance(end, Finished) and end.status == "stopped" and "SIGTERM" in end.reason, said
    assert run.checkpoint().step == end.step >= 5
    verify(run.checkpoint())
    assert process.returncode == (1 if target == "torchrun" else 0)


@SLOW
def test_each_of_ten_sigterms_to_torchrun_saves(make_run: MakeRun) -> None:
    """Stopped and resumed ten times; torchrun, which got the signal, ends with status 1 (torch 2.13.0). On a busy
    machine it aborted once, after its ranks had saved and ended ("terminate called without an active exception").
    """
    run = make_run("terminated", **SETTINGS)
    saved = 0
    for _ in range(10):
        with running(run, 2, step=saved + 3) as process:
            process.terminate()
            said = finish(process, ENDS_WITHIN)
        end = last_event(run)
        assert process.returncode in (1, -signal.SIGABRT), said
        assert isinstance(end, Finished) and end.status == "stopped", said
        assert run.checkpoint().step == end.step > saved
        verify(run.checkpoint())
        saved = end.step


@pytest.mark.parametrize("which", ["the first", pytest.param("another", marks=SLOW)])
def test_what_a_dead_rank_leaves_is_saved_and_it_is_named(make_run: MakeRun, which: str) -> None:
    run = make_run("bereft", **SETTINGS)
    with running(run, 2) as process:
        first, others = rank_processes(run, process)
        victim, rank = (first, 0) if which == "the first" else (others[0], 1)
        victim.kill()
        said = finish(process, ENDS_WITHIN)
    assert process.returncode == 1
    end = last_event(run)
    assert isinstance(end, Finished) and end.status == "failed"
    assert f"rank {rank} of 2 (process {victim.pid} on " in end.reason and "was ended by SIGKILL" in end.reason, said
    assert f"step {end.step} is saved, and llm-workbench resume bereft continues" in end.reason
    logged = max(event.step for event in run.events() if isinstance(event, StepLogged))
    assert run.checkpoint().step == end.step >= logged
    verify(run.checkpoint())


@SLOW
def test_after_a_restart_the_ranks_resume_from_what_was_saved(make_run: MakeRun) -> None:
    run = make_run("again", **SETTINGS | {"train__steps": "400"})
    with running(run, 2, launcher=("--max-restarts=1",)) as process:
        rank_processes(run, process)[1][0].kill()
        said = finish(process, ENDS_WITHIN)
    assert process.returncode == 0, said
    starts = [event for event in run.events() if isinstance(event, Started)]
    assert len(starts) == 2 and starts[1].resumed_from == f"step-{starts[1].step:08d}" and starts[1].step >= 5
    end = last_event(run)
    assert isinstance(end, Finished) and (end.status, end.step) == ("finished", 400)


@SLOW
def test_ranks_whose_torchrun_was_killed_say_so_and_are_stopped_by_a_command(make_run: MakeRun) -> None:
    run = make_run("orphaned", **SETTINGS)
    with running(run, 2) as process:
        pids = [child.pid for child in psutil.Process(process.pid).children()]
        tail = run.tail()
        process.kill()
        deadline = time.monotonic() + ENDS_WITHIN
        while not any(isinstance(event, Warned) and "torchrun was killed" in event.message for event in tail.poll()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.send("stop")
        while any(map(psutil.pid_exists, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    end = last_event(run)
    assert isinstance(end, Finished) and end.status == "stopped" and run.checkpoint().step == end.step


def test_a_wait_status_in_words() -> None:
    assert describe_wait_status(1 << 8) == "ended with exit status 1"
    assert describe_wait_status(signal.SIGTERM) == "was ended by SIGTERM"
    assert describe_wait_status(signal.SIGKILL).startswith("was ended by SIGKILL (the system sends it")


def test_a_dead_process_is_found_with_its_signal() -> None:
    """As a rank sees it: the process has not been reaped yet by its parent."""
    process = subprocess.Popen(["sleep", "60"])
    watch = RankWatch([Peer(3, process.pid, socket.gethostname()), Peer(1, os.getpid(), "elsewhere")], 4)
    process.send_signal(signal.SIGABRT)
    death = watch.first_death()
    process.wait()
    assert death == f"rank 3 of 4 (process {process.pid} on {socket.gethostname()}) was ended by SIGABRT"


@SLOW
def test_twenty_kills_at_random_moments_leave_the_same_weights(make_run: MakeRun) -> None:
    """Any rank, anywhere in a step, a save or a start; with restarts the end is bit for bit that of a quiet run."""
    steps, kills = "6000", 20
    settings = SETTINGS | {
        "train__steps": steps,
        "model__dropout": "0.1",
        "checkpoint__every": "50",
        "train__log_every": "10",
    }
    quiet, disturbed = make_run("quiet", **settings), make_run("disturbed", **settings)
    process = torchrun(quiet, 2)
    assert process.wait(KILLS_WITHIN) == 0
    chance = random.Random(5)
    process = torchrun(disturbed, 2, launcher=(f"--max-restarts={kills}",))
    killed = 0
    try:
        while process.poll() is None and killed < kills:
            tail, deadline = disturbed.tail(), time.monotonic() + ENDS_WITHIN
            tail.poll()
            while process.poll() is None and time.monotonic() < deadline:
                if any(isinstance(event, StepLogged) for event in tail.poll()):
                    break
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            ranks = psutil.Process(process.pid).children() if process.poll() is None else []
            if len(ranks) == 2:
                chance.choice(ranks).kill()
                killed += 1
                psutil.wait_procs(ranks, timeout=ENDS_WITHIN)
        process.communicate(timeout=KILLS_WITHIN)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0 and killed == kills
    one, other = (load_file(run.checkpoint().path / MODEL) for run in (quiet, disturbed))
    assert all(torch.equal(one[name], other[name]) for name in one)
