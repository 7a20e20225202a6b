"""BENCHMARKS.md and the figures in docs/limits.md, made of results.json; no other figure may be in either."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import cells
import models
from figures import OPERATIONS, TITLES, Results, median, paired, run_counts, spread, table, values


def throughput_ratios(results: Results, slow: bool) -> list[float]:
    """Return the toolkit's throughput on SQLite over plain MLflow's: a median for each operation and load."""
    found = []
    for sample in results["samples"]:
        of = {name: sample.get(name) for name in ("store", "operation", "clients", "slow")}
        toolkit = sample["metric"] == "throughput" and sample["contender"] == "toolkit"
        if toolkit and sample["slow"] == slow and sample["store"] == "SQLite":
            ratios = paired(results, "throughput", "plain", **of)
            found += [statistics.median(ratios)] if ratios else []
    return found


def targets(results: Results) -> list[tuple[str, str, str, bool]]:
    """Return a row for each target: what, the aim, what was measured, whether it is met."""
    rows: list[tuple[str, str, str, bool]] = []

    def add(what: str, limit: float, ratios: list[float], within: Callable[[float, float], bool]) -> None:
        if ratios:
            sign = "≤" if within(0.0, 1.0) else "≥"
            rows.append((what, f"{sign} {limit}", spread(ratios), within(statistics.median(ratios), limit)))

    def most(a: float, b: float) -> bool:
        return a <= b

    def least(a: float, b: float) -> bool:
        return a >= b

    for other, name, start, memory in (("plain", "plain", 0.6, 0.3), ("older", "3.1.4", 1.0, 0.7)):
        for existing in (True, False):
            for store in ("SQLite", "PostgreSQL"):
                ratios = paired(results, "start", other, existing=existing, store=store)
                kind = "existing" if existing else "fresh"
                add(f"start, {kind} store, {store}, against {name}", start, ratios, most)
        for loaded in (False, True):
            ratios = paired(results, "memory", other, loaded=loaded)
            add(f"memory {'after load' if loaded else 'idle'}, against {name}", memory, ratios, most)
    for store in ("SQLite", "PostgreSQL"):
        errors = values(results, "steady errors", contender="toolkit", store=store)
        if errors:
            rows.append((f"errors with 64 clients, {store}", "0", f"{sum(errors):.0f}", not sum(errors)))
    add("throughput on SQLite, against plain", 1.0, throughput_ratios(results, slow=False), least)
    add("throughput on SQLite, slow fsync, against plain", 2.0, throughput_ratios(results, slow=True), least)
    found = cells.cells(results)
    add("throughput against 3.1.4, median cell", 1.3, [cell.throughput for cell in found], least)
    for name, limit, within in (("throughput", 1.0, least), ("p99", 1.0, most)):
        met = sum(within(getattr(cell, name), limit) for cell in found)
        if found:
            text = f"{met} of {len(found)} cells"
            what, aim = f"{name} against 3.1.4, in every cell", "≥ 1.0" if within is least else "≤ 1.0"
            rows.append((what, aim, text, met == len(found)))
    up, bare = values(results, "mlflow-up"), values(results, "neuro-flow run")
    for what, limit, ratios, less in models.targets(results):
        add(what, limit, ratios, most if less else least)
    add("`mlflow-up` against `neuro-flow run`", 1.15, [a / b for a, b in zip(up, bare, strict=True)], most)
    return rows


def _contenders(results: Results) -> list[str]:
    return [name for name in TITLES if values(results, "start", contender=name)]


def _stores(results: Results) -> list[str]:
    return [store for store in ("SQLite", "PostgreSQL") if values(results, "start", store=store)]


def _start_and_memory(results: Results) -> str:
    rows = []
    for name in _contenders(results):
        for store in _stores(results):
            of = {"contender": name, "store": store}
            rows.append(
                [
                    TITLES[name],
                    store,
                    spread(values(results, "start", existing=True, **of), 1),
                    spread(values(results, "start", existing=False, **of), 1),
                    spread(values(results, "memory", loaded=False, **of), 0),
                    spread(values(results, "memory", loaded=True, **of), 0),
                    spread(values(results, "processes", **of)[:1], 0),
                ]
            )
    head = ("", "store", "start, s", "first start, s", "idle, MB", "after load, MB", "processes")
    return table(head, rows)


def _loads(results: Results, store: str, slow: bool) -> str:
    names = _contenders(results)
    rows = []
    for operation in OPERATIONS:
        for clients in (1, 16, 64):
            of = {"store": store, "slow": slow, "operation": operation, "clients": clients}
            if not values(results, "throughput", **of):
                continue
            row = [operation, str(clients)]
            for name in names:
                per_second = spread(values(results, "throughput", contender=name, **of), 0)
                ends = [median(results, p, contender=name, **of) for p in ("p50", "p99")]
                below = " / ".join("-" if e is None else f"{e * 1000:.0f}" for e in ends)
                row.append(f"{per_second}<br>{below}" if per_second != "-" else "-")
            rows.append(row)
    return table(["", "clients", *(TITLES[name] for name in names)], rows) if rows else ""


def _steady(results: Results) -> str:
    rows = []
    for store in _stores(results):
        for name in _contenders(results):
            of = {"contender": name, "store": store}
            answers = values(results, "steady", **of)
            if answers:
                kinds: dict[str, float] = {}
                for sample in results["samples"]:
                    wanted = {"metric": "errors", "steady": True, **of}.items()
                    if all(sample.get(key) == text for key, text in wanted):
                        kinds[sample["kind"]] = kinds.get(sample["kind"], 0) + sum(sample["values"])
                said = "; ".join(f"{number:.0f} times {kind}" for kind, number in kinds.items()) or "none"
                late = spread(values(results, "steady p99", **of), 1)
                rows.append([TITLES[name], store, spread(answers, 0), late, said])
    return table(("", "store", "ok/s", "p99, s", "errors"), rows) if rows else ""


def _growth(results: Results) -> str:
    rows = []
    for store in _stores(results):
        for runs in run_counts(results, store):
            row = [f"{runs:,}", store]
            for metric, scale, digits in (
                ("growth start", 1, 1),
                ("growth search-runs", 1000, 0),
                ("growth create-run", 1000, 0),
                ("growth memory", 1, 0),
                ("growth size", 1, 0),
            ):
                row.append(
                    spread([scale * v for v in values(results, metric, store=store, runs=runs)], digits)
                )
            rows.append(row)
    head = ("runs", "store", "start, s", "list 100, ms", "create, ms", "memory, MB", "database, MB")
    return table(head, rows) if rows else ""


def _workers(results: Results) -> str:
    rows = []
    for store in _stores(results):
        for workers in (1, 2, 4):
            of = {"store": store, "workers": workers}
            if values(results, "workers memory", **of):
                metrics = ("workers log-batch", "workers search-runs", "workers memory")
                rows.append([str(workers), store, *(spread(values(results, m, **of), 0) for m in metrics)])
    return (
        table(("workers", "store", "log-batch, ok/s", "search-runs, ok/s", "memory, MB"), rows)
        if rows
        else ""
    )


def _presets(results: Results) -> str:
    rows = []
    for name in TITLES:
        found = values(results, "preset", contender=name)
        if found:
            enforced = bool(values(results, "preset", contender=name, enforced=True))
            rows.append([TITLES[name], f"{found[0]:.0f}", "tried" if enforced else "peak and a quarter"])
    return table(("", "MB", "how"), rows) if rows else ""


def sizing(results: Results) -> str:
    """Return the account of what a server takes, what limits it next, and what to change then."""

    def figure(metric: str, scale: float = 1, digits: int = 0, **of: Any) -> str:
        found = median(results, metric, **of)
        return "-" if found is None else f"{found * scale:,.{digits}f}"

    batches: dict[str, Any] = {"contender": "toolkit", "operation": "log-batch", "clients": 16}

    def logging(metric: str, scale: float = 1, digits: int = 0, **of: Any) -> str:
        return figure(metric, scale, digits, **batches, **of)

    def growth(metric: str, runs: int, scale: float = 1, digits: int = 0) -> str:
        return figure(f"growth {metric}", scale, digits, store="SQLite", runs=runs)

    def workers(metric: str, number: int) -> str:
        return figure(f"workers {metric}", store="SQLite", workers=number)

    most = run_counts(results, "SQLite")[-1]
    processors = results["machine"]["processors"]
    own = figure("preset", contender="toolkit")
    sqlite, postgresql = (
        median(results, "p99", **batches, store=store, slow=False) or 0 for store in ("SQLite", "PostgreSQL")
    )
    rows = [
        [
            f"up to {most:,} runs, on SQLite",
            f"nothing: it starts in {growth('start', most, digits=1)} s, empty in "
            f"{growth('start', 0, digits=1)} s; takes {growth('memory', most)} MB, empty "
            f"{growth('memory', 0)} MB; lists the newest 100 in {growth('search-runs', most, 1000)} ms, of "
            f"{most // 10:,} in {growth('search-runs', most // 10, 1000)} ms",
            f"a preset with {own} MB of memory will do",
        ],
        [
            "many clients log at once",
            "the writer, whom others wait for: with 16 clients on SQLite, one batch in a hundred takes "
            f"{logging('p99', digits=2, store='SQLite', slow=False)} s, on PostgreSQL "
            f"{logging('p99', digits=2, store='PostgreSQL', slow=False)} s",
            "`backend_store_uri`: PostgreSQL" if postgresql < sqlite else "nothing: PostgreSQL is no faster",
        ],
        [
            "the volume is slow (5 ms more for each fsync)",
            f"{logging('throughput', store='SQLite', slow=True)} batches a second instead of "
            f"{logging('throughput', store='SQLite', slow=False)}; PostgreSQL on such a disk: "
            f"{logging('throughput', store='PostgreSQL', slow=True)} instead of "
            f"{logging('throughput', store='PostgreSQL', slow=False)}",
            "`backend_store_uri`: PostgreSQL",
        ],
        [
            "many people look at once",
            f"the processors: with {processors}, one worker lists 100 runs "
            f"{workers('search-runs', 1)} times a second, two {workers('search-runs', 2)} times, four "
            f"{workers('search-runs', 4)} times",
            "`MLFLOW_WORKERS` in `envs`: one for each processor",
        ],
        [
            "memory is short",
            f"after load, one worker takes {workers('memory', 1)} MB, two {workers('memory', 2)} MB, four "
            f"{workers('memory', 4)} MB",
            "`MLFLOW_WORKERS` in `envs`: 1",
        ],
    ]
    text = f"16 clients at once need a preset with {own} MB of memory; with plain MLflow "
    text += f"{figure('preset', contender='plain')} MB, with the older MLflow "
    text += f"{figure('preset', contender='older')} MB."
    return f"\n{text}\n\n{table(('when', 'what limits it', 'what to change'), rows)}\n"


def page(results: Results) -> str:
    """Return BENCHMARKS.md."""
    about, versions = results["machine"], results["versions"]
    rows = targets(results)
    marked = [[what, aim, found, "met" if met else "**missed**"] for what, aim, found, met in rows]
    database = f", PostgreSQL {about['postgresql'][0]}" if about["postgresql"] else ""
    text = f"""# What it costs, what it gains

Measured by `make bench`, side by side and in turns on one machine: only the ratios mean something elsewhere.
A figure is the median of {results["rounds"]} rounds, with the lowest and the highest in brackets.

{about["processors"]} processors ({about["model"]}), {about["memory_gb"]} GB, {about["system"]}, Python
{about["python"]}, MLflow {versions["toolkit"]} and {versions["older"]}{database}.
It took {results["minutes"]:.0f} minutes.

- **this toolkit**, version {results["version"]}: the server as `mlflow-up` starts it, two workers
- **plain `mlflow server`**: the same MLflow with no option but the store, as older actions run it
- **tuned by hand**: two workers, no job runner, no access log, larger connection pools
- **MLflow 3.1.4, four gunicorn workers**: what the maintained older action runs

{cells.for_people(results)}
## Targets

Ratios of this toolkit to the other, round by round.

{table(("", "target", "measured", ""), marked)}
## Start and memory

From the command to the first answered API call, and the proportional set size (PSS) of all processes.

{_start_and_memory(results)}
![Start](bench/start.svg)
![Memory](bench/memory.svg)

"""
    text += "## Throughput and latency\n\nAnswers per second, and below them p50 / p99 in milliseconds. "
    text += f"search-runs lists 100 of {results['runs']:,} runs, the newest first.\n"
    for store in _stores(results):
        text += f"\n### {store}\n\n{_loads(results, store, slow=False)}"
        if slow := _loads(results, store, slow=True):
            text += f"\nWith 5 ms added to each fsync:\n\n{slow}"
    text += "\n![Throughput](bench/throughput.svg)\n![The slowest answers](bench/p99.svg)\n"
    text += cells.section(results)
    if steady := _steady(results):
        text += (
            f"\n## Errors\n\n64 clients that log batches for longer than a connection pool waits:\n\n{steady}"
        )
    text += f"""
## Growth

The toolkit's server with runs of 5 metrics, 5 parameters and 2 tags each:

{_growth(results)}
![Growth](bench/growth.svg)

"""
    if workers := _workers(results):
        text += f"16 clients, and what more workers change:\n\n{workers}\n"
    if presets := _presets(results):
        text += "## Cost\n\nThe smallest memory that holds 16 clients of every operation on SQLite, without "
        text += f"an error:\n\n{presets}\n"
    text += models.section(results)
    text += "## The toolkit's own share\n\n"
    shares = [
        [f"`{name}`", spread(values(results, name), 1)]
        for name in ("mlflow-up", "neuro-flow run", "mlflow-render", "mlflow-config", "mlflow-help")
    ]
    text += table(("", "seconds"), shares)
    text += (
        "\n`mlflow-up` and `neuro-flow run` are measured until the server answers, on the local platform.\n"
    )
    return text
