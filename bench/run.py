"""`make bench`: measures the contenders side by side, then writes results.json, BENCHMARKS.md and the plots.

Contenders take turns in each round, so that what else the machine does hits all of them alike. Nothing is
asserted on time; a server that does not start ends the run, and the old results stay.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import machine
import models
import plots
import report
from contenders import CONTENDERS, MLFLOW, ROOT, Contender, Server
from figures import OPERATIONS, dumps, percentile
from machine import MemoryLimit, Unable, program
from stores import Postgres, Sqlite, Store
from toolkit import TARGETS, Workspace

HERE = Path(__file__).parent
WRITES = OPERATIONS[:3]
PRESETS = (256, 384, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 8192)
"""MB of memory that presets are tried with."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 2
    seconds: float = 1.0  # for each operation, number of clients and disk
    runs: int = 10_000  # that are listed
    growth: tuple[int, ...] = (0, 1_000, 10_000, 100_000)
    steady_seconds: float = 34.0  # longer than a connection pool waits
    workers: tuple[int, ...] = (1, 2, 4)
    clients: tuple[int, ...] = (1, 16, 64)
    slow_clients: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"SQLite": (1, 16, 64), "PostgreSQL": (1, 16, 64)}
    )
    stores: tuple[str, ...] = ("SQLite", "PostgreSQL")
    targets: int = 5
    contenders: tuple[str, ...] = ("toolkit", "plain", "tuned", "older")
    slowed: tuple[str, ...] = ("toolkit", "plain", "older")  # by the disk, and by a steady load
    limited: tuple[str, ...] = ("toolkit", "plain", "older")  # in memory
    fresh: bool = True
    deployed: tuple[str, ...] = tuple(
        models.STATES
    )  # what there is of the environment of a model that is served
    served: tuple[str, ...] = tuple(models.SERVED)


QUICK = Plan(
    rounds=1, seconds=0.4, runs=1_000, growth=(0, 1_000), steady_seconds=0, workers=(), clients=(1, 16),
    slow_clients={"SQLite": (16,)}, stores=("SQLite",), targets=1,
    contenders=("toolkit", "plain", "older"), limited=(), fresh=False,
    deployed=("nothing", "cached"), served=("toolkit", "plain"),
)  # fmt: skip


class Bench:
    """A run: `samples` are what results.json holds."""

    def __init__(self, plan: Plan, folder: Path, stack: ExitStack) -> None:
        self.plan = plan
        self.folder = folder
        self.begun = time.monotonic()
        self.samples: list[dict[str, Any]] = []
        self.contenders = [contender for contender in CONTENDERS if contender.name in plan.contenders]
        self.flag = folder / "slow"
        library = folder / "slow_fsync.so"
        gcc = program("gcc", "apt-get install gcc libc6-dev")
        subprocess.run(
            [gcc, "-shared", "-fPIC", "-O1", "-o", library, HERE / "slow_fsync.c", "-ldl"], check=True
        )
        self.env = {"LD_PRELOAD": str(library), "SLOW_FSYNC_FLAG": str(self.flag)}
        kinds = {"SQLite": Sqlite, "PostgreSQL": Postgres}
        self.stores: list[Store] = []
        for kind in plan.stores:
            (folder / kind).mkdir()
            self.stores.append(kinds[kind](folder / kind, self.env))
            stack.callback(self.stores[-1].close)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        print(f"bench: {time.monotonic() - self.begun:5.0f} s: {text}", file=sys.stderr, flush=True)

    def note(self, metric: str, value: float, **of: Any) -> None:
        """Keep a sample; those that differ only in their value become one record."""
        for sample in self.samples:
            if {name: text for name, text in sample.items() if name != "values"} == {"metric": metric, **of}:
                sample["values"].append(round(value, 4))
                return
        self.samples.append({"metric": metric, **of, "values": [round(value, 4)]})

    def start(self, contender: Contender, uri: str, **options: Any) -> Server:
        """Start a contender's server; its log is in the folder of this run."""
        return Server(contender, uri, self.folder, self.env, **options)

    def session(self, contender: Contender, store: Store, steady: bool) -> None:
        """Measure one server on a store that exists: start, memory, and loads, also with a slow disk."""
        of = {"contender": contender.name, "store": store.kind}
        server = self.start(contender, store.filled(contender.python, self.plan.runs))
        try:
            self.note("start", server.start_seconds, existing=True, **of)
            server.settle()
            self.note("memory", server.memory(), loaded=False, **of)
            self.note("processes", server.processes(), **of)
            self.say(f"{contender.name} on {store.kind}: up in {server.start_seconds:.1f} s")
            for operation in OPERATIONS:
                for clients in self.plan.clients:
                    self._cell(server, operation, clients, slow=False, of=of)
            self.note("memory", server.memory(), loaded=True, **of)
            self.flag.touch()
            for operation in WRITES if contender.name in self.plan.slowed else ():
                for clients in self.plan.slow_clients.get(store.kind, ()):
                    self._cell(server, operation, clients, slow=True, of=of)
            self.flag.unlink()
            if steady and self.plan.steady_seconds and contender.name in self.plan.slowed:
                found = server.load("log-batch", 64, self.plan.steady_seconds)
                self.note("steady", found["ok"], **of)
                self.note("steady errors", sum(found["errors"].values()), **of)
                self.note("steady p99", percentile(found["latencies"], 99), **of)
                for kind, number in found["errors"].items():
                    self.note("errors", number, kind=kind, clients=64, steady=True, **of)
        finally:
            self.flag.unlink(missing_ok=True)
            server.stop()

    def _cell(self, server: Server, operation: str, clients: int, *, slow: bool, of: dict[str, Any]) -> None:
        found = server.load(operation, clients, self.plan.seconds)
        of = {**of, "operation": operation, "clients": clients, "slow": slow}
        self.note("throughput", found["ok"], **of)
        for rank in (50, 99):
            if found["latencies"]:
                self.note(f"p{rank}", percentile(found["latencies"], rank), **of)
        for kind, number in found["errors"].items():
            self.note("errors", number, kind=kind, steady=False, **of)

    def warm_up(self) -> None:
        """Start each contender once, so that its bytecode is there, as in an image, and cached."""
        for contender in self.contenders:
            self.start(contender, self.stores[0].empty()).stop()

    def fresh(self, contender: Contender, store: Store) -> None:
        """Measure a start on a database without tables."""
        server = self.start(contender, store.empty())
        self.note("start", server.start_seconds, contender=contender.name, store=store.kind, existing=False)
        server.stop()

    def growth(self, store: Store) -> None:
        """Measure how the toolkit's server grows with its runs."""
        contender = CONTENDERS[0]
        uri, before = store.filled(contender.python, 0), 0
        for runs in self.plan.growth:
            store.fill(uri, before + 1, runs)
            before = runs
            server = self.start(contender, uri)
            try:
                of = {"store": store.kind, "runs": runs}
                self.note("growth start", server.start_seconds, **of)
                server.settle()
                for operation in ("search-runs", "create-run"):
                    found = server.load(operation, 1, 2 * self.plan.seconds)
                    self.note(f"growth {operation}", percentile(found["latencies"], 50), **of)
                self.note("growth memory", server.memory(), **of)
                self.note("growth size", store.size(uri) / 2**20, **of)
                self.say(f"{runs} runs on {store.kind}")
            finally:
                server.stop()

    def workers(self, store: Store) -> None:
        """Measure what more workers bring and take."""
        for workers in self.plan.workers:
            contender = Contender("toolkit", "", MLFLOW, None, {"MLFLOW_WORKERS": str(workers)})
            server = self.start(contender, store.filled(contender.python, self.plan.runs))
            try:
                server.settle()
                of = {"store": store.kind, "workers": workers}
                for operation in ("log-batch", "search-runs"):
                    found = server.load(operation, 16, 2 * self.plan.seconds)
                    self.note(f"workers {operation}", found["ok"], **of)
                self.note("workers memory", server.memory(), **of)
                self.say(f"{workers} workers on {store.kind}")
            finally:
                server.stop()

    def overhead(self, workspace: Workspace) -> None:
        """Measure what the toolkit adds to neuro-flow."""
        for _ in range(self.plan.rounds):
            self.note("mlflow-up", workspace.up())
            self.note("neuro-flow run", workspace.bare())
        for target in TARGETS:
            for _ in range(self.plan.targets):
                self.note(target, workspace.timed("make", "-s", target))
        self.say("mlflow-up against neuro-flow run")

    def models(self, workspace: Workspace) -> None:
        """Measure how a registered model is served."""
        served = models.Models(workspace, self.folder, self.note)
        contenders = [each for each in served.contenders if each.name in self.plan.served]
        served.warm_up()
        self.say("a model is there to be served")
        for _ in range(self.plan.rounds):
            for state in self.plan.deployed:
                served.deploy(state)
                self.say(f"mlflow-deploy, {models.STATES[state]}")
            for contender in contenders:
                seconds = served.serve(contender, 2 * self.plan.seconds)
                self.say(f"{contender.title}: a prediction after {seconds:.1f} s")

    def cost(self, contender: Contender) -> None:
        """Find the smallest preset in which 16 clients get every answer and no process is ended."""
        store = self.stores[0]
        if not MemoryLimit.available():
            peak = 1.25 * max(value for value in self._peaks(contender))
            fits = next((size for size in PRESETS if size >= peak), PRESETS[-1])
            self.note("preset", fits, contender=contender.name, enforced=False)
            return
        low, high = -1, len(PRESETS) - 1  # the first is too small or unknown, the last is taken for enough
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(contender, store, PRESETS[middle]):
                high = middle
            else:
                low = middle
        self.note("preset", PRESETS[high], contender=contender.name, enforced=True)
        self.say(f"{contender.name} holds 16 clients in {PRESETS[high]} MB")

    def _peaks(self, contender: Contender) -> list[float]:
        of = {"metric": "memory", "contender": contender.name}
        return [v for s in self.samples if all(s.get(k) == t for k, t in of.items()) for v in s["values"]]

    def _holds(self, contender: Contender, store: Store, megabytes: int) -> bool:
        limit = MemoryLimit(f"mlflow-bench-{os.getpid()}", megabytes)
        try:
            server = self.start(contender, store.filled(contender.python, self.plan.runs), limit=limit)
            try:
                server.settle(30)
                for operation in OPERATIONS:
                    if limit.kills() or server.load(operation, 16, 2 * self.plan.seconds)["errors"]:
                        return False
                return limit.kills() == 0
            finally:
                server.stop()
        except Unable:
            return False
        finally:
            limit.close()

    def run(self) -> dict[str, Any]:
        """Measure everything and return the results."""
        self.warm_up()
        for number in range(self.plan.rounds):
            for store in self.stores:
                for contender in self.contenders:
                    self.session(contender, store, steady=number == 0)
                    if self.plan.fresh:
                        self.fresh(contender, store)
        with closing(Workspace(self.folder)) as workspace:
            self.overhead(workspace)
            self.models(workspace)
        for store in self.stores:
            self.growth(store)
            self.workers(store)
        for contender in CONTENDERS:
            if contender.name in self.plan.limited:
                self.cost(contender)
        return self.results()

    def only_models(self) -> dict[str, Any]:
        """Measure only how a registered model is served, and return the results."""
        with closing(Workspace(self.folder)) as workspace:
            self.models(workspace)
        return self.results()

    def results(self) -> dict[str, Any]:
        """Return what results.json holds."""
        versions = {c.name: version_of(c.python) for c in CONTENDERS}
        return {
            "version": (ROOT / "scripts/VERSION").read_text(encoding="utf-8").strip(),
            "machine": machine.describe(),
            "versions": versions,
            "rounds": self.plan.rounds,
            "seconds": self.plan.seconds,
            "runs": self.plan.runs,
            "minutes": round((time.monotonic() - self.begun) / 60, 1),
            "samples": self.samples,
        }


def version_of(python: Path) -> str:
    """Return the version of MLflow that a Python has."""
    code = "import importlib.metadata as m; print(m.version('mlflow'))"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the results and what is made of them, all or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        part = Path(name)
        (part / "results.json").write_text(dumps(results), encoding="utf-8")
        plots.draw(results, part)
        for path in part.iterdir():
            path.replace(folder / path.name)


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer measurements, in .mlflow/bench")
    parser.add_argument("--part", choices=["", "models"], default="", help="only this, printed and not kept")
    arguments = parser.parse_args()
    quick, part = arguments.quick, arguments.part
    plan = QUICK if quick else Plan()
    folder = Path(tempfile.mkdtemp(prefix="mlflow-bench-"))
    folder.chmod(0o755)
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends what has been started, too
    try:
        with ExitStack() as stack:
            if part:
                print(models.section(Bench(replace(plan, stores=()), folder, stack).only_models()))
                return 0
            results = Bench(plan, folder, stack).run()
        target = ROOT / ".mlflow/bench" if quick else HERE
        write(results, target)
        if quick:
            print(report.page(results))
        else:
            subprocess.run([ROOT / ".mlflow/venv-dev/bin/python", ROOT / "dev/docs.py"], check=True)
        print(f"bench: results are in {target}", file=sys.stderr)
        return 0
    except Unable as error:
        print(f"bench: {error}; nothing has been written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing has been written", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
