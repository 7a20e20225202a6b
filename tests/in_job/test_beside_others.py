"""Tasks on a store that others have open, or write to, and one task beside another."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import MakePlace
from .harness import old_database, wait_for
from .places import content, with_backup

pytestmark = pytest.mark.e2e
QUICKLY = "from in_job import sqlite; sqlite.SQLITE_WAIT = 0.2"


def test_a_locked_database_is_no_damaged_one(backup: Path, filled: Path, place: MakePlace) -> None:
    store = place()
    shutil.copyfile(filled, store.path)
    name = with_backup(store, backup)
    with closing(sqlite3.connect(store.path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        error = store.refused("restore", QUICKLY, source=name, force=True, check=False)
        assert "database is locked" in error
    assert content(store.path) == content(filled)
    assert [path.name for path in store.backups.iterdir()] == [name]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("task", ["restore", "upgrade"])
def test_a_writer_ends_a_task_instead_of_holding_it_up(
    task: str, mode: str, backup: Path, place: MakePlace
) -> None:
    store = place()
    old_database(store.path)
    store.query(f"PRAGMA journal_mode = {mode}")
    before = content(store.path)
    name = with_backup(store, backup)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        error = store.refused(task, QUICKLY, source=name, force=True, check=False)
        assert "database is locked" in error
    assert content(store.path) == before
    assert not list(store.folder.glob("artifacts/.*"))
    assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_who_writes_during_a_restore_is_asked_for(backup: Path, filled: Path, place: MakePlace) -> None:
    store = place()
    write = """
import contextlib, os, sqlite3
from in_job import restore
place_artifacts = restore.place_artifacts
def write(store):
    place_artifacts(store)
    with contextlib.closing(sqlite3.connect(store.path)) as database, database:
        database.execute("INSERT INTO experiments (experiment_id, name) VALUES (99, 'written')")
restore.place_artifacts = write
"""
    error = store.refused("restore", write, source=with_backup(store, backup), force=True, check=False)
    assert "now holds 8 experiments" in error
    assert "the backup 7 experiments" in error
    assert error.endswith("what else writes to it?; run the same again when that is over")
    assert store.query("SELECT name FROM experiments WHERE experiment_id = 99") == [("written",)]
    assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_only_one_task_at_a_time(filled: Path, place: MakePlace) -> None:
    store = place()
    shutil.copyfile(filled, store.path)
    hold = """
import time
from in_job import store_job
store_job.TASKS["backup"] = lambda *_: time.sleep(60)
"""
    job = store.start("backup", hold, artifacts=False)
    wait_for(lambda: (store.folder / ".mlflow.db.store").exists(), "the lock")
    time.sleep(0.1)
    error = store.refused("backup", "from in_job import store; store.LOCK_WAIT = 0.1", artifacts=False)
    assert error.startswith(f"another backup, restore, upgrade or clean-up of {store.path}")
    job.signal()
    job.wait()
    assert store.backup()


def test_only_one_task_at_a_time_where_files_have_no_locks(filled: Path, place: MakePlace) -> None:
    """What a task that was killed has held is not held any more: the folder, and the one of SQLite's."""
    store = place()
    shutil.copyfile(filled, store.path)
    store.env["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///file:{store.path}?vfs=unix-dotfile&uri=true"
    hold = """
import sqlite3, time
from in_job import location, store, store_job
store.LOCK_WAIT = 0.2
def hold(store, *_):
    database = sqlite3.connect(location.sqlite_file(store.uri)[1], uri=True, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    time.sleep(60)
store_job.TASKS["backup"] = hold
"""
    job = store.start("backup", hold, artifacts=False)
    wait_for(lambda: "held" in job.said, "the lock")
    quick = "from in_job import sqlite, store; store.LOCK_WAIT = sqlite.SQLITE_WAIT = 1.0"
    error = store.refused("backup", quick, artifacts=False)
    assert error.startswith(f"another backup, restore, upgrade or clean-up of {store.path}")
    assert job.code is None
    job.signal()
    job.wait()
    assert {path.name for path in store.folder.glob("*.lock")} == {".mlflow.db.store.lock", "mlflow.db.lock"}
    assert store.run("backup", quick, artifacts=False)["name"]
    assert not list(store.folder.glob("*.lock"))
