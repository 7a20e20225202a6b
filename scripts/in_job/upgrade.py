"""Upgrading a store to the installed MLflow, and undoing that."""

from __future__ import annotations

import contextlib
import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from in_job import companions
from in_job.artifact_folder import MOVING, is_ours, move_artifacts
from in_job.backup_file import Backup, write_backup
from in_job.content import put, put_back
from in_job.counts import count
from in_job.database_server import prepare_sql
from in_job.schema import is_current
from in_job.sqlite import open_sqlite
from in_job.store import DATABASE_WAIT, Store, require_tables
from in_job.waiting import in_child
from in_job.words import Problem, say


def fixed_places(store: Store) -> int:
    """Return how many experiments, runs and models name a place beside the database, where it has to stay."""
    if not store.mixed():
        return 0
    folder = Path(store.destination).absolute()
    columns = {
        "experiments": "artifact_location",
        "runs": "artifact_uri",
        "logged_models": "artifact_location",
        "model_versions": "source",
    }
    found = 0
    with closing(open_sqlite(store.uri)) as database:
        for table in columns.keys() & count(database).keys():
            where = " OR ".join([f"{columns[table]} LIKE ?"] * 3)
            query = f"SELECT count(*) FROM {table} WHERE {where}"  # noqa: S608 - names from above
            places = [f"{folder}/%", f"file://{folder}/%", f"{folder.as_uri()}/%"]
            found += database.execute(query, places).fetchone()[0]
    return found


def upgrade(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Back up, move artifacts away from the database, upgrade the schema; undo all when one fails.

    With `check` only tell whether there is something to do.
    """
    revision = require_tables(store)
    current = store.is_database and is_current(revision, store)
    stayed = fixed_places(store) if store.is_database else 0
    moves = bool(store.mixed()) and not stayed
    if task["check"]:
        return {"needed": not current or moves, "stayed": stayed}
    result: dict[str, Any] = {"backup": "", "moved": False, "created": ""}
    if not store.is_database:
        return upgrade_file_store(store, folder, result)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlflow-upgrade-")))
        watch = stack.enter_context(closing(open_sqlite(store.uri))) if store.path else None
        version = watch and watch.execute("PRAGMA data_version").fetchone()

        def require_no_writes() -> None:
            if watch and watch.execute("PRAGMA data_version").fetchone() != version:
                raise Problem(f"{store} was written to during its upgrade: stop its other users")

        result["backup"] = write_backup(store, folder, "before-upgrade", False)["name"]
        try:
            if moves and store.path:
                say("moving the artifacts beside the database into the folder artifacts")
                result["moved"] = True
                move_artifacts(Path(store.destination).absolute(), store.path)
            if not current and store.kind == "sqlite":
                backup = Backup(folder / result["backup"], work)
                backup.upgrade()
                put(store, backup.database, require_no_writes)
            elif not current:
                if store.kind == "mysql":  # which cannot roll tables back
                    store.mark.set("upgrade", result["backup"])
                in_child(prepare_sql, store.uri, DATABASE_WAIT, True)
            if not is_current(store.revision(), store):
                raise Problem(f"{store} still has the schema {store.revision()}")
            store.mark.clear()
        except BaseException:
            say("the upgrade failed: putting back what was there")
            undo(store, folder, result)
            raise
    return {**result, "schema": store.revision(), "counts": store.counts()}


def upgrade_file_store(store: Store, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Convert a file store to a SQLite database where the server looks for one, else beside it."""
    chosen = not os.environ.get("MLFLOW_BACKEND_STORE_URI", "").strip()
    assert store.path
    target = Path(store.destination).absolute() / "mlflow.db" if chosen else Path(f"{store.path}.db")
    if target.exists():
        raise Problem(
            f"{target} exists: set backend_store_uri to sqlite:///{target} if it holds the runs of {store}"
        )
    result["backup"] = write_backup(store, folder, "before-upgrade", False)["name"]
    try:
        with tempfile.TemporaryDirectory(prefix=".mlflow-upgrade-", dir=target.parent) as work:
            backup = Backup(folder / result["backup"], Path(work))
            backup.database.replace(target)
        new = Store({**os.environ, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{target}"})
        made = upgrade(new, folder, {"check": False}) if chosen and new.mixed() else result
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return {
        **made,
        "backup": result["backup"],
        "created": str(target),
        "adopted": chosen,
        "schema": new.revision(),
        "counts": new.counts(),
    }


def put_back_all(store: Store, backup: Backup) -> None:
    """Make the store what it was when the backup was made, keys and users too."""
    put_back(store, backup.database, backup.revision)
    companions.put_back(store, backup.companions)


def undo(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Put back what there was before the upgrade whose result `task` is; not when it is in use since.

    What there is now is backed up before that: it may have been changed without a row more or less.
    """
    root = Path(store.destination).absolute()
    moving, moved = root / MOVING, root / "artifacts"
    kept = ""
    if "counts" in task:
        names = [path.name for path in moved.iterdir()] if task["moved"] and store.path else []
        # One that would lie on the store, or pass for a log or a mark of it, has been put there since.
        new = any((root / n).exists() or is_ours(n, root, store.path or root) for n in names)
        if new or store.counts() != task["counts"]:
            where = folder / task["backup"]
            raise Problem(f"{store} has been written to since: it stays upgraded; {where} is the backup")
        kept = write_backup(store, folder, "before-undo", False)["name"]
    if task["created"]:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(task["created"] + suffix).unlink(missing_ok=True)
    elif task["backup"]:
        with tempfile.TemporaryDirectory(prefix="mlflow-undo-") as work:
            backup = Backup(folder / task["backup"], Path(work))
            if store.mark.read() or store.revision() != backup.revision:
                if not store.path:
                    store.mark.set("undo", task["backup"])
                put_back_all(store, backup)
            else:
                companions.put_back(store, backup.companions)
        store.mark.clear()
    if task["moved"] and (moving.is_dir() or moved.is_dir()):  # else it failed before anything was moved
        if not moving.is_dir():  # from here on it is a move that was interrupted, and can be finished
            moved.rename(moving)
        for entry in list(moving.iterdir()):
            entry.rename(root / entry.name)
        moving.rmdir()
    return {"kept": kept}
