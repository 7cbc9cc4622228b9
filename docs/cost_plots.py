"""Draw the page of plots of docs/performance.md from the result of `llm-workbench bench cost --output FILE`.

    .venv/bin/python docs/cost_plots.py FILE [--picture docs/pictures/cost.svg]

Needs the extra `docs`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, LogFormatter, NullFormatter

PICTURE = Path(__file__).parent / "pictures" / "cost.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    draw(json.loads(options.result.read_text(encoding="utf-8")), options.picture)


def draw(result: dict[str, Any], picture: Path) -> None:
    """Write one plot per part, with the interval of each median, and the machine below."""
    plt.rcParams |= {
        "svg.hashsalt": "cost",
        "svg.fonttype": "none",
    }  # the same picture for the same numbers; text as text
    parts = {name: part for name, part in result.items() if name != "machine"}
    figure, axes = plt.subplots((len(parts) + 2) // 3, 3, figsize=(12, 3.4 * ((len(parts) + 2) // 3)), squeeze=False)
    for axis in axes.flat[len(parts) :]:
        axis.set_axis_off()
    for axis, (name, part) in zip(axes.flat, parts.items(), strict=False):
        draw_part(axis, name, part)
    figure.text(0.01, 0.005, "  ".join(f"{key}: {value}" for key, value in result["machine"].items()), fontsize=7)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(picture, metadata={"Date": None})


def draw_part(axis: Any, name: str, part: dict[str, Any]) -> None:
    """CPU time by size, both logarithmic; the dotted line grows in proportion to the size."""
    sizes = [each["size"] for each in part["seconds"]]
    medians = [1e3 * each["median"] for each in part["seconds"]]
    errors = [
        [abs(1e3 * each["interval"][end] - middle) for each, middle in zip(part["seconds"], medians, strict=True)]
        for end in (0, 1)
    ]
    axis.errorbar(sizes, medians, yerr=errors, marker="o", markersize=4, capsize=3, linewidth=1.2)
    axis.plot(sizes, [medians[-1] * size / sizes[-1] for size in sizes], linestyle=":", color="gray", linewidth=1)
    axis.set(xscale="log", yscale="log", title=name, xlabel=part["unit"], ylabel=f"ms of CPU: {part['per']}")
    axis.set_xticks(sizes, [EngFormatter(sep="")(float(f"{size:.2g}")) for size in sizes])
    axis.xaxis.set_minor_formatter(NullFormatter())
    for kind in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        kind(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.8)))
    axis.grid(True, which="both", alpha=0.2)


if __name__ == "__main__":
    main()
