"""A store is used by servers, or changed by a task that is alone with it: real ones, each kind of store."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import MakePlace, Migrated
from .harness import SCRIPTS, Database, Server, StartServer, descendants, mlflow_python, wait_for
from .places import Place

pytestmark = pytest.mark.e2e
QUICK = "from in_job import in_use; in_use.SERVER_WAIT = 0.5; in_use.STALE = 2.0"
NUMBERS = itertools.count()
KINDS = ["sqlite", "dotfile", "file", "postgresql", "mariadb"]
DOTFILE = "?vfs=unix-dotfile&uri=true"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, place: MakePlace, migrated: Migrated, template: Path) -> Place:
    """A store of each kind, ready for a server."""
    kind = request.param
    if kind in ("postgresql", "mariadb"):
        return place(uri=migrated(request.getfixturevalue(kind), f"mlflow_in_use_{next(NUMBERS)}"))
    made = place()
    if kind == "file":
        (made.folder / "mlruns").mkdir()
        return place(uri=str(made.folder / "mlruns"))
    made.path.write_bytes(template.read_bytes())
    return place(uri=f"sqlite:///file:{made.path}{DOTFILE}") if kind == "dotfile" else made


@pytest.fixture
def serve(start: StartServer) -> Callable[..., Server]:
    """Starts a server on a store."""

    def run(store: Place, **env: str) -> Server:
        return start(store.destination, **{**store.env, "NEURO_JOB_ID": "job-first", **env})

    return run


def end(server: Server, number: int) -> None:
    """End all of a server's processes by a signal, its first one last: that would end them in an order."""
    for pid in reversed([server.pid, *descendants(server.pid)]):
        with suppress(ProcessLookupError):  # it has ended with another
            os.kill(pid, number)
    server.process.wait(60)


@pytest.mark.parametrize(
    ("store", "number"),
    [
        *((kind, signal.SIGKILL) for kind in KINDS),
        *((kind, signal.SIGTERM) for kind in KINDS[:3]),  # a database server sees a lost connection in both
    ],
    indirect=["store"],
)
def test_a_task_that_changes_the_store_is_alone_with_it(
    store: Place, serve: Callable[..., Server], number: int
) -> None:
    server = serve(store).wait_until_up()
    server.ask("POST", "/experiments/create", {"name": "before"})
    if "dotfile" not in store.uri:  # whose SQLite locks keep others off for as long as a connection is open
        assert store.run("gc", older_than=0, force=False)["totals"]["run"] == 0
        name = store.backup()
    else:
        name = "none.zip"
    said = store.refused("restore", QUICK, source=name, force=True, check=False)
    assert said.startswith("the end of the server on ")
    assert "not within" in said
    if store.path.exists():
        assert "job-first has it" in said or "dotfile" in store.uri
    if "mlruns" in store.uri or "dotfile" in store.uri:
        restoring = store.start("upgrade", "from in_job import in_use; in_use.STALE = 2.0", check=False)
    else:
        restoring = store.start("restore", source=name, force=True, check=False)
    wait_for(lambda: "waiting up to 120 s for the end of the server" in restoring.said, "a word on the wait")
    assert server.call("GET", "/version")[0] == 200
    server.signal(number) if number == signal.SIGTERM else end(server, number)
    restoring.wait()
    assert "error" not in restoring.result or "no runs" in restoring.result["error"], restoring.said


def test_no_server_starts_beside_a_task(store: Place, serve: Callable[..., Server]) -> None:
    hold = """
import time
from in_job import store_job
def hold(*_):
    print("held", flush=True)
    time.sleep(600)
store_job.TASKS["undo"] = hold
"""
    task = store.start("undo", hold)
    wait_for(lambda: "held" in task.said, "the task")
    server = serve(store)
    wait_for(lambda: any("waiting up to" in line for line in server.lines), "a word on the wait")
    time.sleep(0.5)
    assert server.process.poll() is None
    assert not any("MLflow" in line for line in server.lines)
    task.signal()
    task.wait()
    server.wait_until_up()


def test_a_second_server_waits_for_the_first_one_and_is_noticed(
    store: Place, serve: Callable[..., Server]
) -> None:
    first = serve(store).wait_until_up()
    second = serve(store, MLFLOW_ACTION_DATABASE_TIMEOUT="1")
    if "dotfile" in store.uri:  # where two servers would undo each other's locks
        assert second.process.wait(60) == 1
        assert "the end of the other server on" in second.lines[-1]
    else:
        second.wait_until_up()
        assert any("WARNING: the end of the other server on" in line for line in second.lines)
        assert second.stop() == 0
    third = serve(store, NEURO_JOB_ID="job-third")
    wait_for(lambda: any("waiting up to" in line for line in third.lines), "a word on the wait")
    first.stop()
    third.wait_until_up()
    assert not any("WARNING" in line for line in third.lines)


def test_one_that_only_shows_runs_is_let_in(store: Place, serve: Callable[..., Server]) -> None:
    if "dotfile" in store.uri:
        pytest.skip("where there are no locks of files only one server may be")
    serve(store).wait_until_up()
    shows = serve(store, MLFLOW_ACTION_MODE="ui").wait_until_up()
    assert not any("waiting" in line or "WARNING" in line for line in shows.lines)


LOST = """
import sys
from in_job import in_use
from in_job.location import sql_uri
from in_job.sql import connect
from in_job.words import Problem

uri = sql_uri(sys.argv[1])
locks = "FROM pg_locks WHERE locktype = 'advisory' AND objid = 5079"
session, other = in_use.Session(uri), connect(uri)
session.take(in_use.USED, alone=False)
other.exec_driver_sql("SELECT pg_terminate_backend(pid) " + locks)

def refuse(_):
    raise Problem("it starts anew")

in_use.connect = refuse
session.look()
in_use.connect = connect
session.look()
print(other.exec_driver_sql("SELECT count(*) " + locks).scalar())
"""


def test_a_database_that_is_away_for_longer_is_held_again(postgresql: Database, tmp_path: Path) -> None:
    postgresql.execute("CREATE DATABASE mlflow_away", "postgres")
    out = mlflow_python(LOST, postgresql.uri("mlflow_away"), cwd=tmp_path, PYTHONPATH=str(SCRIPTS))
    assert out == "1\n"


def test_a_lost_connection_is_made_anew(
    postgresql: Database, place: MakePlace, migrated: Migrated, serve: Callable[..., Server]
) -> None:
    store = place(uri=migrated(postgresql, "mlflow_lost"))
    server = serve(store).wait_until_up()
    held = "SELECT string_agg(objid::text, ' ' ORDER BY objid) FROM pg_locks WHERE locktype = 'advisory'"
    assert postgresql.execute(held, "mlflow_lost") == "5079 5080"
    kill = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 5079"
    postgresql.execute(kill, "mlflow_lost")
    wait_for(lambda: postgresql.execute(held, "mlflow_lost") == "5079 5080", "the locks", 60)
    assert any("the connection that holds the store is lost" in line for line in server.lines)
    assert server.call("GET", "/version")[0] == 200
