"""The toolkit against MLflow 3.1.4 under gunicorn, cell by cell, and what people who log notice of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from figures import OPERATIONS, Results, median, paired, table, values

THREADS = (
    "an answer takes as much of a processor as there, nine tenths of it in MLflow, SQLAlchemy and the "
    "driver, and both use the whole machine. A worker begins with three answers at once, where ten "
    "threads that take turns at one Python had slowest answers of up to 1.6 times as long. Two and four "
    "at once, a hand-over of Python every 1 and 0.2 ms in place of 5, the oldest request first between "
    "its statements, and fewer collections of garbage were no better."
)
WRITER = (
    "one write is done at a time, so that all wait for one writer, who spends most of it in MLflow's own "
    "statements. Fewer threads (five, three, two) changed less than two runs differ."
)
REASONS: dict[str, str] = {
    **{f"{operation}, PostgreSQL": THREADS for operation in ("log-batch", "log-metric", "create-run")},
    **{f"{operation}, SQLite": WRITER for operation in ("log-batch", "log-metric", "create-run")},
    "search-runs": (
        "with its JSON written straight from the messages, most of the time is SQLAlchemy's, which makes "
        "1,300 objects for 100 runs. Five threads had fewer answers with 16 clients on both stores."
    ),
}
"""Why a target is missed, by operation, or by `operation, store`; what was tried was of OF_VERSION."""
OF_VERSION = "1.1.0"
DOINGS = (
    ("your training loop logs a metric", "log-metric"),
    ("it logs ten metrics at once", "log-batch"),
    ("it starts a run", "create-run"),
    ("the UI lists 100 runs", "search-runs"),
)


@dataclass(frozen=True)
class Cell:
    """A load, and the medians of the toolkit's ratios to 3.1.4 in it."""

    store: str
    slow: bool
    operation: str
    clients: int
    throughput: float
    p99: float

    @property
    def met(self) -> bool:
        """Tell whether nothing is worse than with 3.1.4."""
        return self.throughput >= 1.0 and self.p99 <= 1.0


def cells(results: Results) -> list[Cell]:
    """Return every cell in which both have been measured."""
    found = []
    for store in ("SQLite", "PostgreSQL"):
        for slow in (False, True):
            for operation in OPERATIONS:
                for clients in (1, 16, 64):
                    of = {"store": store, "slow": slow, "operation": operation, "clients": clients}
                    answers = paired(results, "throughput", "older", **of)
                    slowest = paired(results, "p99", "older", **of)
                    if answers and slowest:
                        medians = statistics.median(answers), statistics.median(slowest)
                        found.append(Cell(store, slow, operation, clients, *medians))
    return found


def section(results: Results) -> str:
    """Return the section with every cell, and the reasons where one misses."""
    found = cells(results)
    if not found:
        return ""
    rows = []
    for cell in found:
        place = f"{cell.store}, slow fsync" if cell.slow else cell.store
        judged = "met" if cell.met else "**missed**"
        ratios = [f"{cell.throughput:.2f}", f"{cell.p99:.2f}"]
        rows.append([place, cell.operation, str(cell.clients), *ratios, judged])
    text = """
## Against MLflow 3.1.4

Ratios of this toolkit to MLflow 3.1.4 under four gunicorn workers, the medians of all rounds. A cell is met
where throughput is 1.0 or more and p99 1.0 or less. Reads do no fsync.

"""
    text += table(("store", "", "clients", "throughput", "p99", ""), rows)
    missed = [cell for cell in found if not cell.met]
    names = dict.fromkeys(name for c in missed for name in (c.operation, f"{c.operation}, {c.store}"))
    reasons: dict[str, list[str]] = {}
    for name in names if results["version"] == OF_VERSION else ():
        if name in REASONS:
            reasons.setdefault(REASONS[name], []).append(name)
    lines = [f"- {'; '.join(which)}: {reason}" for reason, which in reasons.items()]
    return text + ("\nWhere it is missed:\n\n" + "\n".join(lines) + "\n" if lines else "")


def for_people(results: Results) -> str:
    """Return how long people wait for what they do."""
    head = ["", "alone", "MLflow 3.1.4", "16 at once, 99 of 100 within", "MLflow 3.1.4"]
    rows = []
    for doing, operation in DOINGS:
        row = [doing]
        for clients, metric in ((1, "p50"), (16, "p99")):
            for contender in ("toolkit", "older"):
                of = {"store": "SQLite", "slow": False, "operation": operation, "clients": clients}
                found = median(results, metric, contender=contender, **of)
                row.append("-" if found is None else f"{found * 1000:.0f} ms")
        rows.append(row)
    if not values(results, "p50", contender="toolkit"):
        return ""
    return f"## How long you wait\n\nOn SQLite, at the median if you are alone:\n\n{table(head, rows)}"
