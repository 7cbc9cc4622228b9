"""`llm-workbench bench ui`: response times and costs of the screens. One function per part."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from llm.config import from_mapping, load_preset, save_preset, with_overrides
from llm.events import Started, StepLogged, to_line
from llm.run import Run
from workbench.bench.pseudo import PseudoTerminal
from workbench.bench.report import Result, alternate, machine, ratios, spread

LOGGED_STEPS = 1_000_000
EVENTS = 100_000
KEY_PRESSES = 500
TRAINING_STEPS = 120
FIRST_PRESET = b"quickstart"

Value = TypeVar("Value")


def first_screen(home: Path, rounds: int) -> Result:
    """Seconds from the command to the list of presets on the terminal."""
    seconds, cpu = [], []
    for _ in range(max(3, 2 * rounds)):
        with PseudoTerminal(home) as terminal:
            seconds.append(terminal.wait_for(FIRST_PRESET))
            cpu.append(terminal.cpu_seconds())
    return {"seconds": spread(seconds), "cpu_seconds": spread(cpu)}


def long_run(home: Path, rounds: int) -> Result:
    """Seconds to open a run of a million logged steps without and with a cache, and to redraw its charts."""
    from workbench.charts.curve_cache import cache_path, load_cache, save_cache
    from workbench.charts.curves import RunCurves

    run = write_long_run(home, LOGGED_STEPS)
    uncached, cached = [], []

    def open_run() -> RunCurves:
        curves = load_cache(run)
        curves.catch_up()
        return curves

    for _ in range(rounds):
        cache_path(load_cache(run)).unlink(missing_ok=True)
        curves, seconds = time_call(open_run)
        uncached.append(seconds)
        save_cache(curves)
        cached.append(time_call(open_run)[1])
    redraw = asyncio.run(redraw_seconds(home, run.name, max(5, rounds)))
    return {
        "log_bytes": (run.path / "events.jsonl").stat().st_size,
        "first_open_seconds": spread(uncached),
        "cached_open_seconds": spread(cached),
        "redraw_seconds": spread(redraw),
    }


async def redraw_seconds(home: Path, name: str, count: int) -> list[float]:
    """Seconds to fill and draw every visible chart of the Train screen."""
    from workbench.app import WorkbenchApp
    from workbench.charts.chart import Chart
    from workbench.train.screen import TrainScreen

    app, seconds = WorkbenchApp(home, watch=name), []
    async with app.run_test(size=(160, 50)) as pilot:
        while not (isinstance(app.screen, TrainScreen) and app.screen.curves and len(app.screen.curves.steps)):
            await pilot.pause(0.05)
        screen = app.screen

        def redraw() -> None:
            screen.view.draw_again()
            for chart in screen.query(Chart):
                if chart.display:
                    chart.render_line(0)

        redraw()
        for _ in range(count):
            seconds.append(time_call(redraw)[1])
            await pilot.pause(0)
    return seconds


def keys(home: Path, rounds: int) -> Result:
    """Seconds from a key to its effect on the terminal while a model trains in the workbench: on the axis of a chart,
    and on the list of presets."""
    save_preset(home, "zz-bench", bench_config(home, 1_000_000))
    found: Result = {}
    with PseudoTerminal(home) as terminal:
        start_training(terminal)
        found |= percentiles("train", [terminal.response_time(b"y", b"smooth") for _ in range(KEY_PRESSES)])
        terminal.press(b"1")
        terminal.wait_for(b"zz-bench")
        presses = (b"k" if press % 2 == 0 else b"j" for press in range(KEY_PRESSES))
        found |= percentiles("presets", [terminal.response_time(key, b"zz-bench") for key in presses])
    return found


def percentiles(screen: str, seconds: list[float]) -> Result:
    ordered = sorted(seconds)
    return {
        f"{screen}_p50_seconds": ordered[len(ordered) // 2],
        f"{screen}_p99_seconds": ordered[int(len(ordered) * 0.99)],
        f"{screen}_worst_seconds": ordered[-1],
    }


def memory(home: Path, rounds: int) -> Result:
    """Growth of the process in bytes while it shows 100,000 events, and the size of the arrays that hold them."""
    return asyncio.run(growth(home))


async def growth(home: Path) -> Result:
    from workbench.app import WorkbenchApp
    from workbench.train.screen import TrainScreen

    run = write_long_run(home, 1000, name="growing-1")
    app, process = WorkbenchApp(home, watch=run.name), psutil.Process()
    held: list[int] = []
    async with app.run_test(size=(160, 50)) as pilot:
        for turn in range(3):  # the first is a warm-up
            for begin in range(0, EVENTS, 5000):
                first = 1001 + turn * EVENTS + begin
                with (run.path / "events.jsonl").open("ab") as log:
                    log.write(b"".join(to_line(logged_step(step)) for step in range(first, first + 5000)))
                await pilot.pause(0.15)
            screen = app.screen
            wanted = 1000 + (turn + 1) * EVENTS
            while not (isinstance(screen, TrainScreen) and screen.curves and screen.curves.step >= wanted):
                await pilot.pause(0.1)
                screen = app.screen
            held.append(process.memory_info().rss)
        assert isinstance(screen, TrainScreen)
        assert screen.curves is not None
        row = 8 * len(screen.curves.steps.columns)
    return {"events": EVENTS, "grown_bytes": held[2] - held[1], "bytes_in_arrays": EVENTS * row}


def training(home: Path, rounds: int) -> Result:
    """Steps per second in the workbench relative to the same run without it, in alternating pairs."""
    save_preset(home, "zz-bench", bench_config(home, TRAINING_STEPS))
    headless_rate(home)  # prepares the data and warms up
    headless, with_screens, screens = [], [], []
    for is_headless in alternate((True, False), rounds):
        if is_headless:
            headless.append(headless_rate(home))
        else:
            rate, screen = workbench_rate(home)
            with_screens.append(rate)
            screens.append(screen)
    return {
        "share": spread(ratios(with_screens, headless)),
        "headless_steps_per_second": spread(headless),
        "workbench_steps_per_second": spread(with_screens),
        "screens_share_of_one_core": spread(screens),
    }


def headless_rate(home: Path, preset: str = "zz-bench", *options: str) -> float:
    """Steps per second of a new run of `preset` in a separate process."""
    before = set((home / "runs").glob("*"))
    command = [sys.executable, "-m", "workbench", "train", preset, "--home", str(home), *options]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return rate_of(new_run(home, before))


def workbench_rate(home: Path) -> tuple[float, float]:
    """Steps per second with the Train screen open, and the CPU time of the screen as a share of one core."""
    before = set((home / "runs").glob("*"))
    with PseudoTerminal(home) as terminal:
        start_training(terminal)
        run = new_run(home, before)
        began, screen = time.perf_counter(), terminal.screen_seconds()
        while run.status().name not in ("finished", "failed"):
            terminal.read(0.1)
        share = (terminal.screen_seconds() - screen) / (time.perf_counter() - began)
    return rate_of(run), share


def start_training(terminal: PseudoTerminal) -> None:
    """Start the last preset of the list and wait for its first steps."""
    terminal.wait_for(FIRST_PRESET)
    terminal.drain(0.5)
    terminal.press(b"G")
    terminal.drain(0.5)
    terminal.press(b"\r")
    terminal.wait_for(b"tokens/s")


def new_run(home: Path, before: set[Path]) -> Run:
    (path,) = set((home / "runs").glob("*")) - before
    return Run(path)


def rate_of(run: Run) -> float:
    """Steps per second between the tenth logged step and the last, without evaluations."""
    steps = [event for event in run.events() if isinstance(event, StepLogged)]
    first, last = steps[min(10, len(steps) - 2)], steps[-1]
    return (last.step - first.step) / (last.elapsed - first.elapsed)


def bench_config(home: Path, steps: int) -> Any:
    overrides = [("train.steps", str(steps)), ("evaluate.every", "0"), ("sample.every", "0"), ("checkpoint.every", "0")]
    return with_overrides(load_preset("quickstart", home), overrides)


def logged_step(step: int) -> StepLogged:
    loss = 1.4 + 6.0 / (1 + step / 90) + 0.01 * (step * 7919 % 101)
    return StepLogged(
        step=step,
        elapsed=step * 0.05,
        tokens_seen=step * 2048,
        loss=loss,
        lr=3e-3 / (1 + step / 1e5),
        lr_multiplier=1.0,
        grad_norm=0.5 + 0.01 * (step * 31 % 97),
        step_ms=50.0 + step % 7,
        tokens_per_second=40_960.0 - step % 211,
        total_flops=step * 1e10,
        memory_bytes=800_000_000,
    )


def write_long_run(home: Path, steps: int, name: str = "long-1") -> Run:
    """A run directory with that many logged steps."""
    if (home / "runs" / name).exists():
        return Run.open(home, name)
    run = Run.create(home, name, from_mapping({"train": {"steps": steps}}))
    began = Started(
        step=0,
        total_steps=steps,
        parameters=1,
        tokens_per_step=2048,
        device="cpu",
        precision="fp32",
        threads=1,
        compiled=False,
        pid=os.getpid(),
        host=platform.node(),
    )
    with (run.path / "events.jsonl").open("wb") as log:
        log.write(to_line(began))
        log.writelines(to_line(logged_step(step)) for step in range(1, steps + 1))
    return run


PARTS: dict[str, Callable[[Path, int], Result]] = {
    "first-screen": first_screen,
    "long-run": long_run,
    "keys": keys,
    "memory": memory,
    "training": training,
}


def measure(home: Path, parts: Sequence[str], rounds: int) -> Result:
    """The results of `parts`, with versions and hardware."""
    cpu = platform.processor() or platform.machine()
    about = machine("textual", "torch", "numpy", cpu=cpu, load=os.getloadavg()[0])
    return {"machine": about} | {part: PARTS[part](home, rounds) for part in parts}


def time_call(work: Callable[[], Value]) -> tuple[Value, float]:
    """The result of `work`, and its seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def lines_of(result: Result) -> list[str]:
    """A line for each number."""
    found = []
    for part, values in result.items():
        for name, value in values.items():
            if isinstance(value, dict):
                value = f"{value['median']:.4g} (from {value['least']:.4g} to {value['most']:.4g}, n={value['count']})"
            elif isinstance(value, float):
                value = f"{value:.4g}"
            found.append(f"{part:<13} {name:<26} {value if isinstance(value, str) else json.dumps(value)}")
    return found
