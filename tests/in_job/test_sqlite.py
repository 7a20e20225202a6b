"""SQLite on a volume: made once, upgraded once with a backup, and one clear line for whatever is wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import (
    OLD_REVISION,
    StartServer,
    mlflow_python,
    old_database,
    preparing,
    revision,
    wait_for,
)
from .places import Warm

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("warm")]
Refused = Callable[..., str]

EIGHT_CLIENTS = """
import multiprocessing, sys
from mlflow.tracking import MlflowClient
def client(number):
    tracking = MlflowClient(sys.argv[1], sys.argv[1])
    run = tracking.create_run("0", run_name=str(number)).info.run_id
    tracking.log_metric(run, "loss", number)
    tracking.set_terminated(run)
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.map(client, range(8), chunksize=1)
"""


def test_a_fresh_database_is_made_once_and_eight_clients_find_it_ready(volume: Path) -> None:
    path = volume / "new" / "mlflow.db"
    both = [preparing(path), preparing(path)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    mlflow_python(EIGHT_CLIENTS, f"sqlite:///{path}", cwd=volume)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (8,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not (path.parent / "backups").exists()


def test_an_old_database_is_backed_up_and_upgraded_and_served(volume: Path, start: StartServer) -> None:
    path = old_database(volume / "mlflow.db")
    before = path.read_bytes()
    server = start(volume).wait_until_up()
    found = server.ask("POST", "/runs/search", {"experiment_ids": ["1"]})["runs"]
    assert sorted(run["data"]["params"][0]["value"] for run in found) == ["0.1", "0.2"]
    assert server.ask("GET", "/model-versions/search")["model_versions"][0]["name"] == "old-model"
    assert server.stop() == 0
    [backup] = (volume / "backups").iterdir()
    assert backup.name.startswith(f"mlflow-{OLD_REVISION}-")
    assert revision(backup) == OLD_REVISION
    with sqlite3.connect(backup) as copy, sqlite3.connect(":memory:") as original:
        original.deserialize(before)
        assert list(copy.iterdump()) == list(original.iterdump())
    assert server.lines[0].endswith(f"upgrading the schema from {OLD_REVISION}; backup: {backup}")


def test_an_upgrade_that_somebody_writes_into_changes_nothing(volume: Path) -> None:
    path = old_database(volume / "mlflow.db")
    process = preparing(path)
    wait_for(lambda: (volume / "backups").is_dir() and any((volume / "backups").glob("*.db")), "the backup")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE experiments SET name = 'newer' WHERE name = 'old'")
    assert "was written to during its upgrade; nothing changed" in process.communicate(timeout=60)[1]
    assert revision(path) == OLD_REVISION


def test_nothing_to_prepare_imports_no_mlflow(template: Path, volume: Path) -> None:
    shutil.copyfile(template, volume / "mlflow.db")
    code = (
        "import sys; from in_job import schema, sqlite; schema.in_child = None;"
        "sqlite.prepare_sqlite('sqlite:///' + sys.argv[1], 20.0);"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlflow', 'sqlalchemy')])"
    )
    path = str(Path(__file__).parents[2] / "scripts")
    assert mlflow_python(code, str(volume / "mlflow.db"), cwd=volume, PYTHONPATH=path).strip() == "[]"


def test_a_locked_database(ready_volume: Path, refused: Refused) -> None:
    with sqlite3.connect(ready_volume / "mlflow.db") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        line = refused(ready_volume, MLFLOW_ACTION_DATABASE_TIMEOUT="1")
    assert line == f"{ready_volume}/mlflow.db: database is locked; stop whatever else holds the database"


@pytest.mark.parametrize("number", [37, 11, 38], ids=["ENOLCK", "EAGAIN", "ENOSYS"])
def test_no_file_locks(number: int, ready_volume: Path, no_locks: Path, refused: Refused) -> None:
    preload = {"LD_PRELOAD": str(no_locks), "NO_LOCKS_IN": str(ready_volume), "NO_LOCKS_ERRNO": str(number)}
    line = refused(ready_volume, **preload)
    assert line.startswith(f"{ready_volume} has no file locks ({os.strerror(number)})")
    for way in (
        "disk:",
        "postgresql://",
        f"sqlite:///file:{ready_volume}/mlflow.db?vfs=unix-dotfile&uri=true",
    ):
        assert way in line


def test_lock_files_instead_of_locks(ready_volume: Path, no_locks: Path, start: StartServer) -> None:
    path = ready_volume / "mlflow.db"
    (ready_volume / "mlflow.db.lock").mkdir()
    server = start(
        ready_volume,
        LD_PRELOAD=str(no_locks),
        NO_LOCKS_IN=str(ready_volume),
        NO_LOCKS_ERRNO="37",
        MLFLOW_BACKEND_STORE_URI=f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true",
        MLFLOW_ACTION_DATABASE_TIMEOUT="1",
    ).wait_until_up()
    run = server.ask("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    assert server.ask("GET", f"/runs/get?run_id={run}")["run"]
    assert "to see whether a crash has left it" in server.lines[0]
    assert server.stop() == 0
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_write_ahead_log_on_a_network_volume_is_switched_off_aloud(ready_volume: Path, warm: Warm) -> None:
    path = ready_volume / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
    warm.python(
        "import sys; from in_job import sqlite; sqlite.file_system = lambda path: 'nfs4';"
        "sqlite.prepare_sqlite('sqlite:///' + sys.argv[1], 20.0)",
        str(path),
    )
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
