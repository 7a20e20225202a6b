"""Restoring a store from a backup."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from in_job import companions, durable
from in_job.backup_file import Backup, write_backup
from in_job.content import put
from in_job.counts import count, in_words, prompts
from in_job.database_server import prepare_sql
from in_job.fitting import require_fit
from in_job.staging import drop_staged, place_artifacts, stage_artifacts
from in_job.store import DATABASE_WAIT, Store, require_current
from in_job.users import upgrade_users
from in_job.waiting import in_child
from in_job.words import Problem, say


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal that ends the job wait until the block is done."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def restore(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Replace what is in the store by a backup: all of it, or nothing."""
    kept = ""
    if not store.is_database:
        raise Problem(
            f"{store} is a file store: set backend_store_uri to a database, such as sqlite:////FOLDER/mlflow.db"
        )
    with tempfile.TemporaryDirectory(prefix="mlflow-restore-") as work:
        backup = Backup(folder / task["from"], Path(work))
        backup.upgrade()
        damage = store.damage()
        present = {} if damage else store.counts()
        if damage or not store.is_new(present):
            what = f"cannot be read ({damage})" if damage else f"holds {store.holds(present)}"
            if not task["force"]:
                raise Problem(f"{store} {what}: MLFLOW_FORCE=yes replaces it, and keeps it in {folder}")
        if store.kind != "sqlite":
            require_place(store, backup, check=task["check"])
        if damage or not store.is_new(present):
            if damage and not task["check"]:
                kept = set_aside(store, folder)
            elif not task["check"]:
                kept = write_backup(store, folder, "before-restore", backup.has_artifacts)["name"]
        if task["check"]:
            return {}
        keep = folder / f"{Path(kept).stem}-artifacts" if damage else None
        return {**put_all(store, backup, keep), "kept": kept}


def require_place(store: Store, backup: Backup, *, check: bool) -> None:
    """Make the tables of an empty database, unless it is a `check`; Problem where they cannot hold all."""
    revision = store.revision()
    if revision is not None:
        require_current(store, revision)
    elif not check:
        in_child(prepare_sql, store.uri, DATABASE_WAIT)
    require_fit(store.uri, backup.database, quiet=check)
    users = backup.companions.get(companions.USERS)
    if users:
        if not check:
            in_child(upgrade_users, store.uri)
        require_fit(store.uri, users, quiet=check)


def put_all(store: Store, backup: Backup, keep: Path | None = None) -> dict[str, Any]:
    """Put a backup into the store, its artifacts too, and count. `keep` is as in `stage_artifacts`."""
    with closing(sqlite3.connect(backup.database)) as database:
        expected, number = count(database), prompts(database)
    begun = bool(store.mark.read())
    with contextlib.ExitStack() as stack:
        try:
            if backup.has_artifacts:
                stage_artifacts(store, backup, keep)
            if backup.companions:  # they come after the database: a task killed in between is to be finished
                store.mark.set("restore", backup.path.name)
            say(f"writing {in_words(expected, number)} into {store}")
            put(store, backup.database, lambda: stack.enter_context(uninterrupted()))
        except BaseException:
            if not begun:  # else the database may be the new one already
                drop_staged(store)
                store.mark.clear()
            raise
        if backup.companions:
            companions.put(store, backup.companions)
        place_artifacts(store)
        store.mark.clear()
    found = store.counts()
    if any(found[table] != expected.get(table, 0) for table in found):
        raise Problem(
            f"{store} now holds {in_words(found)}, the backup {in_words(expected)}: what else writes to it?"
        )
    users = companions.users_in(backup.companions)
    holds = in_words(found, number) + (f", {users}" if users else "")
    return {"kept": "", "holds": holds, "artifacts": len(backup.artifacts)}


def set_aside(store: Store, folder: Path) -> str:
    """Copy a SQLite database that cannot be read to the backups; return its name there."""
    assert store.path
    name = f"{store.path.stem}-damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm", "-journal"):
        file = store.path.with_name(store.path.name + suffix)
        if file.exists():
            durable.copy(file, folder / (name + suffix), 0o600)
    durable.sync_folder(folder)
    return name
