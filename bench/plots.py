"""The plots, as SVGs that read well on light and dark pages, and are the same for the same results."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

from figures import OPERATIONS, TITLES, Results, median, run_counts, values

mpl.use("svg")
import matplotlib.pyplot as plt

INK = "#808890"
COLOURS = {"toolkit": "#2f9e6e", "plain": "#c9713a", "tuned": "#5b8dd6", "older": "#9a7bc8"}
STYLE = {
    "svg.hashsalt": "mlflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _bars(axis: Any, results: Results, groups: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Draw a bar for each contender in each group (label, metric, which), with lowest and highest values."""
    names = [name for name in TITLES if values(results, "start", contender=name)]
    for place, name in enumerate(names):
        for position, (_, metric, of) in enumerate(groups):
            found = values(results, metric, contender=name, **of)
            if found:
                middle = statistics.median(found)
                below, above = middle - min(found), max(found) - middle
                x = position + (place - (len(names) - 1) / 2) * 0.2
                label = TITLES[name].replace("`", "") if position == 0 else None
                axis.bar(x, middle, 0.18, color=COLOURS[name], label=label)
                axis.errorbar(x, middle, [[below], [above]], color=INK, capsize=2, linewidth=1)
    axis.set_xticks(range(len(groups)), [label for label, _, _ in groups])


def _legend(axis: Any) -> None:
    """Put the contenders above the plot, where no bar is."""
    axis.legend(frameon=False, fontsize=8, ncol=4, loc="lower center", bbox_to_anchor=(0.5, 1.12))


def _loads(results: Results, stores: list[str], metric: str, label: str, path: Path) -> None:
    """Draw a metric of every load, for each store, without and with slow fsync."""
    wanted = [(s, slow) for s in stores for slow in (False, True)]
    figure, axes = plt.subplots(len(wanted), 1, figsize=(7, 2.4 * len(wanted)), squeeze=False)
    for axis, (store, slow) in zip(axes[:, 0], wanted, strict=True):
        groups = []
        for operation in OPERATIONS:
            for clients in (1, 16, 64):
                of = {"store": store, "slow": slow, "operation": operation, "clients": clients}
                if values(results, metric, **of):
                    name = f"\n{operation}" if clients == 16 else ""  # below the middle one
                    groups.append((f"{clients}{name}", metric, of))
        _bars(axis, results, groups)
        if metric == "p99":
            axis.set_yscale("log")  # from milliseconds to half a minute
        axis.tick_params(axis="x", labelsize=8)
        axis.set_xlabel("clients" if axis is axes[-1, 0] else "")
        axis.set_ylabel(label)
        axis.set_title(f"{store}{', 5 ms more for each fsync' if slow else ''}", fontsize=10)
    figure.tight_layout()
    _legend(axes[0, 0])
    _save(figure, path)


def draw(results: Results, folder: Path) -> None:
    """Write the plots into `folder`."""
    stores = [s for s in ("SQLite", "PostgreSQL") if values(results, "start", store=s)]
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 3))
        kinds = [("existing store", True), ("fresh store", False)]
        _bars(
            axis,
            results,
            [(f"{s},\n{k}", "start", {"store": s, "existing": e}) for s in stores for k, e in kinds],
        )
        axis.set_ylabel("seconds to the first answer")
        _legend(axis)
        _save(figure, folder / "start.svg")

        figure, axis = plt.subplots(figsize=(7, 3))
        states = [("idle", False), ("after load", True)]
        _bars(
            axis,
            results,
            [(f"{s},\n{k}", "memory", {"store": s, "loaded": e}) for s in stores for k, e in states],
        )
        axis.set_ylabel("PSS of all processes, MB")
        _legend(axis)
        _save(figure, folder / "memory.svg")

        _loads(results, stores, "throughput", "answers/s", folder / "throughput.svg")
        _loads(results, stores, "p99", "p99, s", folder / "p99.svg")

        figure, axes = plt.subplots(1, 3, figsize=(9, 2.8))
        shown = [("growth start", 1, "start, s"), ("growth search-runs", 1000, "list 100 runs, ms")]
        for axis, (metric, scale, label) in zip(
            axes, [*shown, ("growth memory", 1, "memory, MB")], strict=True
        ):
            for store, colour in zip(stores, ("#2f9e6e", "#5b8dd6"), strict=False):
                counts = run_counts(results, store)
                heights = [scale * (median(results, metric, store=store, runs=runs) or 0) for runs in counts]
                axis.plot(counts, heights, "o-", color=colour, label=store)
            axis.set_xscale("symlog", linthresh=1000)
            axis.set_xticks(counts, [f"{runs:,}" for runs in counts], fontsize=8)
            axis.set_xlabel("runs")
            axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
            axis.set_title(label, fontsize=10)
        axes[0].legend(frameon=False)
        figure.tight_layout()
        _save(figure, folder / "growth.svg")
