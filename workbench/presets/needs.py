"""What training would need on many GPUs, as a table of text."""

from __future__ import annotations

from llm.scale import Machine, Needs
from workbench.formatting import format_count, format_size


def table_rows(found: list[Needs]) -> list[tuple[str, ...]]:
    """A row for each quantity and a column for each number of GPUs."""
    return [
        ("parameters", *(format_count(each.parameters) for each in found)),
        ("sharding", *(each.sharding for each in found)),
        ("recompute", *(each.recompute for each in found)),
        ("tokens per step", *(f"{each.tokens_per_step:,}" for each in found)),
        ("micro-batch × accumulation", *(f"{each.micro_batch} × {each.grad_accum_steps}" for each in found)),
        ("memory per rank", *(format_size(each.memory_bytes) for each in found)),
        ("weights, gradients, optimizer", *(format_size(each.state_bytes) for each in found)),
        ("fits", *("yes" if each.fits else "no" for each in found)),
        ("bytes moved per rank and step", *(format_size(each.moved_bytes) for each in found)),
        ("computation", *(f"{each.compute_seconds * 1e3:,.0f} ms" for each in found)),
        ("communication", *(f"{each.communication_seconds * 1e3:,.0f} ms" for each in found)),
        ("step", *(f"{each.step_seconds * 1e3:,.0f} ms" for each in found)),
        ("tokens per second", *(format_count(each.tokens_per_second, digits=3) for each in found)),
        ("checkpoint size", *(format_size(each.checkpoint_bytes) for each in found)),
        ("checkpoint write time", *(f"{each.checkpoint_seconds:,.1f} s" for each in found)),
    ]


def assumptions(machine: Machine) -> str:
    """The assumptions as a sentence."""
    return (
        f"assumes {machine.peak_flops / 1e12:,.0f} TFLOP/s × {machine.mfu:g}, {machine.memory_bytes / 1e9:,.0f} GB of "
        f"which {machine.usable:.0%} can be used, {machine.within / 1e9:,.0f} GB/s within a machine of "
        f"{machine.per_machine} GPUs and {machine.between / 1e9:,.0f} GB/s between machines, communication overlapped "
        f"with computation, and a disk of {machine.disk / 1e9:,.0f} GB/s that rank 0 writes; nothing here is measured"
    )
