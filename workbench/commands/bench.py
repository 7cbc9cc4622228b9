"""`bench`: the benchmarks behind the numbers in the documentation."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm.errors import WrongUse
from workbench.commands.options import add_command
from workbench.commands.output import print_json, print_table, say


def register(subparsers: Any) -> None:
    parser = add_command(
        subparsers, "bench", "run the benchmarks of the documentation", bench, json=True, takes_fields=True
    )
    parser.add_argument(
        "what",
        choices=("quickstart", "train", "data", "decode", "ui", "save"),
        help="quickstart: train the first preset and score its replies; "
        "train: training throughput compared with transformers (and nanoGPT) on the same weights; "
        "data: BPE training and tokenization compared with rustbpe and tiktoken, and memory for a large file; "
        "decode: decoding throughput compared with transformers' generate on the same weights; "
        "ui: response times of the screens, and their cost during training; "
        "save: cost of saving a 124M model during training, compared with torch.save",
    )
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="quickstart: number of replies (default 20)")
    parser.add_argument("--sizes", default="10M,124M", metavar="LIST", help="decode: model sizes (default 10M,124M)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="decode, ui, save: repetitions (default 3)")
    parser.add_argument(
        "--part",
        default="",
        metavar="LIST",
        help="ui: first-screen, long-run, keys, memory, training; data: bpe, tokenize, prepare (default: all)",
    )
    parser.add_argument("--shapes", default="char", metavar="LIST", help="train: char, 6x384, gpt2-124m (default char)")
    parser.add_argument(
        "--pairs", type=int, default=8, metavar="N", help="train, data: repetitions of each side (default 8)"
    )
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="train: a checkout of nanoGPT to compare with")
    parser.add_argument("--text", type=Path, metavar="FILE", help="data: the text (default: Python's standard library)")
    parser.add_argument(
        "--megabytes", type=int, default=200, metavar="N", help="data: size of the large file (default 200)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="decode, train: threads (default: the fastest number; train: all)",
    )
    parser.add_argument("--device", default="cpu", help="decode, train: cpu, cuda, cuda:N or auto (default cpu)")


def bench(options: argparse.Namespace) -> int:
    kinds = {
        "train": bench_train,
        "data": bench_data,
        "decode": bench_decode,
        "ui": bench_ui,
        "quickstart": bench_quickstart,
        "save": bench_save,
    }
    return kinds[options.what](options)


def bench_ui(options: argparse.Namespace) -> int:
    """Measure the screens, in a temporary home."""
    from workbench.bench.ui import PARTS, lines_of, measure

    parts = [part for part in options.part.split(",") if part] or list(PARTS)
    unknown = next((part for part in parts if part not in PARTS), None)
    if unknown is not None:
        raise WrongUse(f"--part: there is no part {unknown!r}; name some of {', '.join(PARTS)}.")
    if options.rounds < 1 or options.threads < 0:
        raise WrongUse("--rounds must be at least 1, and --threads at least 0.")
    with tempfile.TemporaryDirectory(prefix="llm-workbench-bench-") as home:
        result = measure(Path(home), parts, options.rounds)
    if options.json:
        print_json(result)
    else:
        print("\n".join(lines_of(result)))
    return 0


def bench_save(options: argparse.Namespace) -> int:
    """Measure saving, in a temporary home."""
    from workbench.bench.save import lines_of, measure

    if options.rounds < 1:
        raise WrongUse("--rounds must be at least 1.")
    say("training and saving a 124M model; this takes about two minutes and 6 GB of disk")
    with tempfile.TemporaryDirectory(prefix="llm-workbench-bench-") as home:
        result = measure(Path(home), options.rounds, options.overrides)
    if options.json:
        print_json(result)
    else:
        print("\n".join(lines_of(result)))
    return 0


def bench_quickstart(options: argparse.Namespace) -> int:
    """Train quickstart in a temporary home, as a new user does."""
    from workbench.bench.quickstart import measure

    say("training quickstart; this takes about two minutes on two idle cores")
    with tempfile.TemporaryDirectory(prefix="llm-workbench-bench-") as home:
        result = measure(Path(home), options.overrides, options.seeds)
    if options.json:
        print_json(result)
        return 0
    replies = result.pop("replies")
    for name, value in result.items():
        print(f"{name:<22} {value:.4f}" if isinstance(value, float) else f"{name:<22} {value}")
    print(f"\na typical reply, seed 1:\n{replies[0]['text']}")
    return 0


def bench_train(options: argparse.Namespace) -> int:
    """Measure the training step, one shape after the other."""
    from workbench.bench.train import SHAPES, lines_of, machine, measure

    shapes = parse_names("--shapes", options.shapes, SHAPES) or ["char"]
    if options.pairs < 1 or options.threads < 0:
        raise WrongUse("--pairs must be at least 1, and --threads at least 0.")
    about = machine(options.device, options.threads)
    say("comparing training; on two idle cores this takes a minute or two per shape, ten for gpt2-124m")
    results = []
    for result in measure(options.device, shapes, options.pairs, options.threads, options.nanogpt):
        results.append(result)
        if not options.json:
            print("\n".join(lines_of(result)))
    if options.json:
        print_json({"machine": about, "results": results})
    else:
        print("  ".join(f"{name}: {value}" for name, value in about.items()))
    return 0


def bench_data(options: argparse.Namespace) -> int:
    """Measure BPE training, tokenization and preparation."""
    from workbench.bench.data import PARTS, lines_of, machine, measure

    parts = parse_names("--part", options.part, PARTS) or PARTS
    if options.pairs < 1 or options.megabytes < 1:
        raise WrongUse("--pairs and --megabytes must be at least 1.")
    say("comparing tokenization; this takes about two minutes on two idle cores")
    results = {}
    for part, result in measure(options.text, parts, options.pairs, options.megabytes):
        results[part] = result
        if not options.json:
            print("\n".join(lines_of(part, result)))
    if options.json:
        print_json({"machine": machine(), **results})
    else:
        print("  ".join(f"{name}: {value}" for name, value in machine().items()))
    return 0


def parse_names(option: str, given: str, known: Iterable[str]) -> list[str]:
    """The names in a comma-separated list. WrongUse for an unknown one."""
    names = [name for name in given.split(",") if name]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise WrongUse(f"{option}: there is no {unknown!r}; name some of {', '.join(known)}.")
    return names


def bench_decode(options: argparse.Namespace) -> int:
    """Measure decoding, one size after the other."""
    from workbench.bench.decode import machine, measure
    from workbench.bench.peers import SIZES

    sizes = [size for size in options.sizes.split(",") if size]
    unknown = next((size for size in sizes if size not in SIZES), None)
    if unknown is not None:
        raise WrongUse(f"--sizes: there is no model {unknown!r}; name some of {', '.join(SIZES)}.")
    if options.rounds < 1 or options.threads < 0:
        raise WrongUse("--rounds must be at least 1, and --threads at least 0.")
    about = machine(options.device)
    say("comparing decoding; this takes about a minute and a half on two idle cores")
    results = []
    for result in measure(options.device, sizes, options.rounds, options.threads):
        results.append(result)
        if not options.json:
            print_decode(result)
    if options.json:
        print_json({"machine": about, "results": results})
    else:
        print("  ".join(f"{name}: {value}" for name, value in about.items()))
    return 0


def print_decode(result: dict[str, Any]) -> None:
    """Print the comparisons of one size: medians, lowest and highest."""
    print(f"{result['size']}: {result['parameters']:,} parameters, batch 1, tokens per second")
    rows = []
    for match in result["matches"]:
        speeds = [match["first_speed"], match["second_speed"]]
        cells = [f"{speed['median']:.1f} ({speed['low']:.1f}–{speed['high']:.1f})" for speed in speeds]
        ratio = match["ratio"]
        rows.append([match["first"], cells[0], match["second"], cells[1],
                     f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"])  # fmt: skip
    print_table(["first", "median (low–high)", "second", "median (low–high)", "ratio"], rows)
    threads = ", ".join(f"{rival['name']} {rival['dtype']}: {rival['threads']}" for rival in result["rivals"])
    print(f"threads  {threads}\nfp32 tokens equal to transformers'  {result['same_tokens_in_fp32']}")
    if result["bandwidth_share"] is not None:
        print(f"share of the memory bandwidth  {result['bandwidth_share']:.0%}")
    print()
