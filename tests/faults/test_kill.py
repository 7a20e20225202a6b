"""kill -9 while 16 clients write: what was acknowledged stays, and the next start needs no hand."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from local_platform import client
from tests.in_job.harness import Database, Server, StartServer, descendants, wait_for
from tests.local_platform.harness import Platform

from .conftest import Fault, MakeFault
from .harness import (
    Address,
    Ledger,
    PostgreSQL,
    Processes,
    SQLite,
    Store,
    namespaces,
    start_server,
    until_gone,
    until_serving,
    writing,
)

pytestmark = pytest.mark.e2e
Mount = Callable[..., Path]
VICTIMS = {"delete": ["server"], "wal": ["workers", "serve.py"], "postgresql": ["server"]}
"""The kinds of stores, and what is killed on each in the short form; in the full one all are."""


@pytest.fixture
def store(request: pytest.FixtureRequest, mount: Mount, volume: Path, template: Path) -> Store:
    """A store of the kind that the parameter names."""
    if request.param == "postgresql":
        server: Database = request.getfixturevalue("postgresql")
        return PostgreSQL(server, f"kill_{os.getpid()}_{time.time_ns()}")
    # serve.py writes no log ahead where it does not know the file system as local.
    folder = mount("mode=755", "ramfs") if request.param == "delete" else volume
    shutil.copyfile(template, folder / "mlflow.db")
    return SQLite(folder / "mlflow.db", f"SQLite {request.param}")


class Served:
    """A server on a store in namespaces of its own, as the platform's jobs have them; it can be killed."""

    def __init__(self, start: StartServer, store: Store, artifacts: Path) -> None:
        self.server: Server = start(
            artifacts, prefix=namespaces(), MLFLOW_BACKEND_STORE_URI=store.uri
        ).wait_until_up()
        self.address = "127.0.0.1", self.server.port
        self.serve = self.server.pid
        wait_for(lambda: len(self.processes.workers) == 2, "both workers")

    @property
    def processes(self) -> Processes:
        """The processes as they are now."""
        return Processes(self.serve, self.server.port)

    def kill(self, pids: list[int]) -> None:
        """Kill processes of it; unless these are workers, all of it has to end."""
        before = self.processes
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if set(pids) <= set(before.workers):
            until_gone(pids)
            wait_for(lambda: len(self.processes.workers) == 2, "new workers")
        else:
            until_gone(before.all)
            assert self.server.process.wait(30) != 0


def victims(kind: str, served: Served, fault: Fault) -> list[int]:
    """Choose what to kill."""
    processes = served.processes
    if kind == "workers":
        return fault.random.sample(processes.workers, fault.random.choice([1, 2]))
    return [processes.serve] if kind == "serve.py" else [fault.random.choice(processes.server)]


@pytest.mark.parametrize(("store", "short"), VICTIMS.items(), indirect=["store"], ids=VICTIMS)
def test_a_server_is_killed(
    store: Store, short: list[str], start: StartServer, tmp_path: Path, full: bool, fault: MakeFault
) -> None:
    artifacts, ledger = tmp_path / "artifacts", Ledger()
    served = Served(start, store, artifacts)
    if isinstance(store, SQLite):
        assert store.query("PRAGMA journal_mode") == [(store.name.removeprefix("SQLite "),)]
    for kind in ["workers", "server", "serve.py"] if full else short:
        with fault(f"kill -9 of {kind}, {store.name}") as row:
            for _ in row.tries():
                with writing(ledger, served.address) as clients:
                    clients.until(20)
                    time.sleep(row.random.uniform(0, 1))
                    served.kill(victims(kind, served, row))
                    if kind == "workers":
                        clients.until(20)
                if kind != "workers":
                    served = Served(start, store, artifacts)
                lost = ledger.lost(store, artifacts)
                row.lost += len(lost)
                assert (lost, store.damage()) == ([], [])
            row.ended = (
                "serves again by itself" if kind == "workers" else "no process left, next start serves"
            )


def test_the_platform_is_killed(
    request: pytest.FixtureRequest, mount: Mount, template: Path, tmp_path: Path, full: bool, fault: MakeFault
) -> None:
    platform = Platform(tmp_path)
    storage = platform.state / "storage"
    stores: dict[str, Store] = {}
    for name in ("delete", "wal") if full else ("wal",):
        mount("mode=755", "ramfs" if name == "delete" else "tmpfs", storage / name)
        shutil.copyfile(template, storage / name / "mlflow.db")
        stores[name] = SQLite(storage / name / "mlflow.db")
    if full:
        server = request.getfixturevalue("postgresql")
        stores["postgresql"] = PostgreSQL(server, f"platform_{os.getpid()}")
    artifacts = {name: storage / name / "artifacts" for name in stores}
    artifacts["postgresql"] = storage / "postgresql"
    ledgers = {name: Ledger() for name in stores}
    started: dict[str, tuple[str, Address]] = {}

    def start_all() -> None:
        before = [address for _, address in started.values()]
        for name in stores:
            env = {"MLFLOW_BACKEND_STORE_URI": stores[name].uri} if name == "postgresql" else {}
            started[name] = start_server(platform, name, False, **env)
        assert before in ([], [address for _, address in started.values()])
        for job, address in started.values():
            until_serving(platform, job, address)

    try:
        start_all()
        for name in stores.keys() - {"postgresql"}:
            assert stores[name].query("PRAGMA journal_mode") == [(name,)]
        with fault(f"kill -9 of the local platform, {', '.join(stores)}") as row:
            for _ in row.tries():
                with ExitStack() as stack:
                    for name, (_, address) in started.items():
                        stack.enter_context(writing(ledgers[name], address)).until(10)
                    time.sleep(row.random.uniform(0, 1))
                    tree = descendants(platform.pid)
                    platform.kill()
                    until_gone(tree)
                platform.restart()
                start_all()
                for name, store in stores.items():
                    lost = ledgers[name].lost(store, artifacts[name])
                    row.lost += len(lost)
                    assert (name, lost, store.damage()) == (name, [], [])
            row.ended = "no process left, next start serves at the same addresses"
    finally:
        client.stop(platform.state)
