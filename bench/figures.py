"""What the samples of a run say: results.json, its values and ratios, and how they are written."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Results = dict[str, Any]
TITLES = {
    "toolkit": "this toolkit",
    "plain": "plain `mlflow server`",
    "tuned": "tuned by hand",
    "older": "MLflow 3.1.4, four gunicorn workers",
}
OPERATIONS = ("log-batch", "log-metric", "create-run", "search-runs")


def dumps(results: Results) -> str:
    """Return results.json: one sample a line, so that two runs can be compared."""
    samples = ",\n  ".join(json.dumps(sample) for sample in results["samples"])
    rest = {name: value for name, value in results.items() if name != "samples"}
    return json.dumps(rest, indent=1)[:-2] + f',\n "samples": [\n  {samples}\n ]\n}}\n'


def load(path: Path) -> Results:
    """Return what results.json holds."""
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    return found


def values(results: Results, metric: str, **of: Any) -> list[float]:
    """Return the values of all samples of a metric that are as `of` says."""
    want = {"metric": metric, **of}
    return [
        value
        for sample in results["samples"]
        if all(sample.get(name) == text for name, text in want.items())
        for value in sample["values"]
    ]


def median(results: Results, metric: str, **of: Any) -> float | None:
    """Return the median of `values`, None where nothing has been measured."""
    found = values(results, metric, **of)
    return statistics.median(found) if found else None


def paired(results: Results, metric: str, other: str, **of: Any) -> list[float]:
    """Return the ratios of the toolkit to another contender, round by round."""
    own = values(results, metric, contender="toolkit", **of)
    theirs = values(results, metric, contender=other, **of)
    return [a / b for a, b in zip(own, theirs, strict=False) if b]  # without errors, there may be no p99


def run_counts(results: Results, store: str) -> list[int]:
    """Return the numbers of runs in a store with which its growth has been measured."""
    samples = [s for s in results["samples"] if s["metric"] == "growth start" and s["store"] == store]
    return sorted({s["runs"] for s in samples})


def percentile(found: list[float], rank: int) -> float:
    """Return a percentile, by the nearest rank."""
    return sorted(found)[min(len(found) - 1, rank * len(found) // 100)]


def spread(found: list[float], digits: int = 2) -> str:
    """Return a median with the lowest and highest value."""
    if not found:
        return "-"
    middle = f"{statistics.median(found):.{digits}f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"
