"""`bench`: the benchmarks behind the numbers in the documentation."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm.errors import UserError, WrongUse
from llm.files import write_json
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say

Result = dict[str, Any]
COUNTS = (
    ("seeds", 20, "quickstart: number of replies"),
    ("rounds", 3, "decode, ui, save, serve, cost: repetitions"),
    ("pairs", 8, "train, data, ranks, track: repetitions of each side"),
    ("megabytes", 200, "data: size of the large file"),
)


def register(subparsers: Any) -> None:
    parser = add_command(
        subparsers, "bench", "run the benchmarks of the documentation", bench, json=True, takes_fields=True
    )
    parser.add_argument(
        "what",
        choices=tuple(BENCHES),
        help="quickstart: train the first preset and score its replies; "
        "train: training throughput compared with transformers (and nanoGPT) on the same weights; "
        "data: BPE training and tokenization compared with rustbpe and tiktoken, and memory for a large file; "
        "decode: decoding throughput compared with transformers' generate on the same weights; "
        "ui: response times of the screens, and their cost during training; "
        "save: cost of saving a 124M model during training, compared with torch.save; "
        "serve: throughput of 32 concurrent requests, compared with sequential ones; "
        "cost: CPU time by model size, context, batch, corpus size and run length; "
        "ranks: memory, speed and control traffic of several ranks, and activation recomputation; "
        "track: steps per second of quickstart with trackers at work, compared with suspended ones",
    )
    for name, default, help in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{help} (default {default})")
    parser.add_argument("--sizes", default="10M,124M", metavar="LIST", help="decode: model sizes (default 10M,124M)")
    help = (
        "ui: first-screen, long-run, keys, memory, training; data: bpe, tokenize, prepare; "
        "ranks: memory, speed, host, recompute, control (default: all); "
        "track: trackers (default: tensorboard,trackio,csv)"
    )
    parser.add_argument("--part", default="", metavar="LIST", help=help)
    parser.add_argument("--shapes", default="char", metavar="LIST", help="train: char, 6x384, gpt2-124m (default char)")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="train: a checkout of nanoGPT to compare with")
    parser.add_argument("--compile", action="store_true", help="train: also nanoGPT compiled (needs a C++ compiler)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="data: the text (default: Python's standard library)")
    help = "decode, train: threads (default: the fastest number; train: all)"
    parser.add_argument("--threads", type=int, default=0, metavar="N", help=help)
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the results to a file, as JSON")
    parser.add_argument("--device", default="cpu", help="decode, train: cpu, cuda, cuda:N or auto (default cpu)")


def bench(options: argparse.Namespace) -> int:
    for name, _, _ in COUNTS:
        if getattr(options, name) < 1:
            raise WrongUse(f"--{name} must be at least 1.")
    if options.threads < 0:
        raise WrongUse("--threads must be at least 0.")
    BENCHES[options.what](options)
    return 0


def bench_ui(options: argparse.Namespace) -> None:
    """Measure the screens, in a temporary home."""
    from workbench.bench.ui import PARTS, lines_of, measure

    parts = parse_names("--part", options.part, PARTS) or list(PARTS)
    with temporary_home() as home:
        print_result(options, measure(home, parts, options.rounds), lines_of)


def bench_save(options: argparse.Namespace) -> None:
    """Measure saving, in a temporary home."""
    from workbench.bench.save import lines_of, measure

    say("training and saving a 124M model; this takes about two minutes and 6 GB of disk")
    with temporary_home() as home:
        print_result(options, measure(home, options.rounds, options.overrides), lines_of)


def bench_serve(options: argparse.Namespace) -> None:
    """Measure the server, in a temporary home."""
    from workbench.bench.serve import lines_of, measure

    with temporary_home() as home:
        print_result(options, measure(home, options.rounds), lines_of)


def bench_track(options: argparse.Namespace) -> None:
    """Measure tracking, in a temporary home."""
    from workbench.bench.track import DEFAULT_TRACKERS, lines_of, measure
    from workbench.trackers.tracker import TRACKERS

    trackers = parse_names("--part", options.part, TRACKERS) or list(DEFAULT_TRACKERS)
    say(f"training quickstart {2 * options.pairs + 1} times, about ten minutes in all on two idle cores")
    with temporary_home() as home:
        print_result(options, measure(home, trackers, options.pairs, options.overrides), lines_of)


def bench_quickstart(options: argparse.Namespace) -> None:
    """Train quickstart in a temporary home, as a new user does."""
    from workbench.bench.quickstart import lines_of, measure

    say("training quickstart; this takes about two minutes on two idle cores")
    with temporary_home() as home:
        print_result(options, measure(home, options.overrides, options.seeds), lines_of)


def bench_train(options: argparse.Namespace) -> None:
    """Measure the training step, one shape after the other."""
    from workbench.bench.train import SHAPES, lines_of, machine, measure

    shapes = parse_names("--shapes", options.shapes, SHAPES) or ["char"]
    about = machine(options.device, options.threads)
    say("comparing training; on two idle cores this takes a minute or two per shape, ten for gpt2-124m")
    results = measure(
        options.device, shapes, options.pairs, options.threads, options.nanogpt, compile_nanogpt=options.compile
    )
    found = print_each(options, results, lambda result: print("\n".join(lines_of(result))))
    print_end(options, about, {"results": found})


def bench_data(options: argparse.Namespace) -> None:
    """Measure BPE training, tokenization and preparation."""
    from workbench.bench.data import PARTS, lines_of, measure
    from workbench.bench.report import machine

    parts = parse_names("--part", options.part, PARTS) or PARTS
    say("comparing tokenization; this takes about two minutes on two idle cores")
    results = measure(options.text, parts, options.pairs, options.megabytes)
    found = print_each(options, results, lambda named: print("\n".join(lines_of(*named))))
    print_end(options, machine("tiktoken", "rustbpe", "numpy"), dict(found))


def bench_decode(options: argparse.Namespace) -> None:
    """Measure decoding, one size after the other."""
    from workbench.bench.decode import machine, measure
    from workbench.bench.peers import SIZES

    sizes = parse_names("--sizes", options.sizes, SIZES)
    about = machine(options.device)
    say("comparing decoding; this takes about a minute and a half on two idle cores")
    found = print_each(options, measure(options.device, sizes, options.rounds, options.threads), print_decode)
    print_end(options, about, {"results": found})


def bench_cost(options: argparse.Namespace) -> None:
    """Measure how costs grow with the size of the work, in a temporary home."""
    from workbench.bench.cost import about, lines_of, measure

    say("measuring costs by size; this takes about two minutes on an idle core")
    with temporary_home() as home:
        found = print_each(options, measure(home, options.rounds), lambda named: print("\n".join(lines_of(*named))))
    print_end(options, about(), dict(found))


def bench_ranks(options: argparse.Namespace) -> None:
    """Measure several ranks on this machine, in a temporary home."""
    from workbench.bench.ranks import PARTS, lines_of, measure
    from workbench.bench.report import device_name, machine

    parts = parse_names("--part", options.part, PARTS) or PARTS
    say("training on several ranks; memory needs 12 GB, and all parts take about twenty minutes on two idle cores")
    with temporary_home() as home:
        results = measure(home, parts, options.pairs)
        found = print_each(options, results, lambda named: print("\n".join([named[0], *lines_of(*named), ""])))
    print_end(options, machine("torch", device=device_name("cpu")), dict(found))


BENCHES: dict[str, Callable[[argparse.Namespace], None]] = {
    "quickstart": bench_quickstart,
    "train": bench_train,
    "data": bench_data,
    "decode": bench_decode,
    "ui": bench_ui,
    "save": bench_save,
    "serve": bench_serve,
    "cost": bench_cost,
    "ranks": bench_ranks,
    "track": bench_track,
}


@contextmanager
def temporary_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="llm-workbench-bench-") as home:
        yield Path(home)


def parse_names(option: str, given: str, known: Iterable[str]) -> list[str]:
    """The names in a comma-separated list. Raises WrongUse for an unknown one."""
    names = [name for name in given.split(",") if name]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise WrongUse(f"{option}: there is no {unknown!r}; name some of {', '.join(known)}.")
    return names


def print_result(options: argparse.Namespace, result: Result, lines_of: Callable[[Result], list[str]]) -> None:
    save_result(options, result)
    if options.json:
        print_json(result)
    else:
        print("\n".join(lines_of(result)))


def save_result(options: argparse.Namespace, result: Result) -> None:
    """Write `result` as JSON to the file of `--output`. Raises UserError if that fails."""
    if options.output is None:
        return
    try:
        write_json(options.output, result)
    except OSError as error:
        raise UserError(f"{options.output} cannot be written ({error.strerror}); name another file.") from error


def print_each(options: argparse.Namespace, results: Iterable[Any], show: Callable[[Any], object]) -> list[Any]:
    """All results. Without `--json`, shows each as soon as it is measured."""
    found = []
    for result in results:
        found.append(result)
        if not options.json:
            show(result)
    return found


def print_end(options: argparse.Namespace, about: Result, results: Result) -> None:
    """Print the machine below the results, or everything as JSON."""
    save_result(options, {"machine": about, **results})
    if options.json:
        print_json({"machine": about, **results})
    else:
        print("  ".join(f"{name}: {value}" for name, value in about.items()))


def print_decode(result: Result) -> None:
    """Print the comparisons of one size: medians, lowest and highest."""
    from workbench.bench.report import ratio_text

    print(f"{result['size']}: {result['parameters']:,} parameters, batch 1, tokens per second")
    rows = []
    for match in result["matches"]:
        first, second = (
            f"{speed['median']:.1f} ({speed['low']:.1f}–{speed['high']:.1f})"
            for speed in (match["first_speed"], match["second_speed"])
        )
        rows.append([match["first"], first, match["second"], second, ratio_text(match["ratio"])])
    print_table(["first", "median (low–high)", "second", "median (low–high)", "ratio [interval] (range)"], rows)
    threads = ", ".join(f"{rival['name']} {rival['dtype']}: {rival['threads']}" for rival in result["rivals"])
    print(f"threads  {threads}\nfp32 tokens equal to transformers'  {result['same_tokens_in_fp32']}")
    if result["bandwidth_use"] is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["bandwidth_use"].items())
        print(f"share of the memory bandwidth of {result['memory_bandwidth'] / 1e9:.1f} GB/s (MBU)  {shares}")
    print()
