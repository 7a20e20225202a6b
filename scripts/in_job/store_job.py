"""Back up, restore, upgrade or clean up the store of an MLflow server, in a job of its own.

The job has the image, the volumes and the environment of the server's, so that it sees the same store.
MLFLOW_STORE_TASK says what to do, in JSON; the last line printed is the result, after RESULT.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from in_job import serve
from in_job.backup_file import Backup, drop_staged, part_of, place_artifacts, stage_artifacts, write_backup
from in_job.serve import Problem, say
from in_job.store import Progress, Store, count, in_words, open_sqlite, put, put_back

RESULT = "mlflow-store-result: "
DATABASE_WAIT = 120.0  # seconds
SHOWN = 50


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal that ends the job wait until the block is done."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def recover(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any] | None:
    """Finish or undo what a job that was killed has left; return the result if that was this very task."""
    if store.around and store.path and (store.around / serve.MOVING).is_dir():
        say("an upgrade was interrupted: moving the rest of the artifacts")
        serve.move_artifacts(store.around, store.path)
    left = store.marked() if store.is_database else {}
    if not left:
        drop_staged(store)
        return None
    if left["do"] == "upgrade" and serve.is_current(store.revision(), store):
        store.unmark()
        return None
    name, restoring = left["backup"], left["do"] == "restore"
    what = f"a restore of {name} was interrupted" if restoring else "an upgrade was interrupted"
    say(f"{what}: {'finishing it' if restoring else f'putting {name} back'}")
    try:
        with tempfile.TemporaryDirectory(prefix="mlflow-recover-") as work:
            backup = Backup(folder / name, Path(work))
            if not restoring:
                put_back(store, backup.database, backup.revision)
                store.unmark()
                return None
            backup.upgrade()
            result = put_all(store, backup)
        return result if task == {**task, "do": "restore", "from": name} else None
    except (Problem, OSError) as error:
        if not restoring:
            raise Problem(f"{what}, and {name} cannot be put back: {serve.explain(error)}") from error
        if task["do"] != "restore":
            raise Problem(f"{what} and cannot be finished ({error}): restore another backup") from error
        drop_staged(store)
        store.unmark()
        return None


def require_tables(store: Store) -> str:
    """Return the revision of the store's schema; Problem when there is nothing in the store yet."""
    revision = store.revision() if store.is_database else "file store"
    if revision is None or (store.kind == "file" and not (store.path and store.path.is_dir())):
        raise Problem(f"there are no runs yet: {store} is not there or has no tables")
    return revision


def require_current(store: Store, revision: str | None) -> None:
    """Raise Problem unless a database has the schema of the installed MLflow."""
    if not serve.is_current(revision, store):
        raise Problem(f"{store} has the schema {revision} of an older MLflow: `make mlflow-upgrade` first")


def back_up(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Make a backup."""
    revision = require_tables(store)
    if store.is_database:
        serve.is_current(revision, store)  # a newer one is not ours to copy
    return write_backup(store, folder, "", task["artifacts"])


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
            what = f"cannot be read ({damage})" if damage else f"holds {in_words(present)}"
            if not task["force"]:
                raise Problem(f"{store} {what}: MLFLOW_FORCE=yes replaces it, and keeps it in {folder}")
            if damage and not task["check"]:
                kept = set_aside(store, folder)
            elif not task["check"]:
                kept = write_backup(store, folder, "before-restore", backup.has_artifacts)["name"]
        if task["check"]:
            return {}
        if store.kind != "sqlite":
            revision = store.revision()
            if revision is None:
                serve.in_child(serve.prepare_sql, store.uri, DATABASE_WAIT)
            else:
                require_current(store, revision)
        keep = folder / f"{Path(kept).stem}-artifacts" if damage else None
        return {**put_all(store, backup, keep), "kept": kept}


def put_all(store: Store, backup: Backup, keep: Path | None = None) -> dict[str, Any]:
    """Put a backup into the store, its artifacts too, and count. `keep` is as in `stage_artifacts`."""
    with closing(sqlite3.connect(backup.database)) as database:
        expected = count(database)
    begun = bool(store.marked())
    with contextlib.ExitStack() as stack:
        try:
            if backup.has_artifacts:
                stage_artifacts(store, backup, keep)
            say(f"writing {in_words(expected)} into {store}")
            put(store, backup.database, lambda: stack.enter_context(uninterrupted()))
        except BaseException:
            if not begun:  # else the database may be the new one already
                drop_staged(store)
                store.unmark()
            raise
        place_artifacts(store)
    found = store.counts()
    if any(found[table] != expected.get(table, 0) for table in found):
        raise Problem(
            f"{store} now holds {in_words(found)}, the backup {in_words(expected)}: what else writes to it?"
        )
    return {"kept": "", "holds": in_words(found), "artifacts": len(backup.artifacts)}


def set_aside(store: Store, folder: Path) -> str:
    """Copy a SQLite database that cannot be read to the backups; return its name there."""
    assert store.path
    name = f"{store.path.stem}-damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", "-shm", "-journal"):
        file = store.path.with_name(store.path.name + suffix)
        if file.exists():
            shutil.copyfile(file, folder / (name + suffix))
    return name


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
    current = store.is_database and serve.is_current(revision, store)
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
                serve.move_artifacts(Path(store.destination).absolute(), store.path)
            if not current and store.kind == "sqlite":
                backup = Backup(folder / result["backup"], work)
                backup.upgrade()
                put(store, backup.database, require_no_writes)
            elif not current:
                if store.kind == "mysql":  # which cannot roll tables back
                    store.mark("upgrade", result["backup"])
                serve.in_child(serve.prepare_sql, store.uri, DATABASE_WAIT, True)
            if not serve.is_current(store.revision(), store):
                raise Problem(f"{store} still has the schema {store.revision()}")
            store.unmark()
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


def undo(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Put back what there was before the upgrade whose result `task` is; not when it is in use since.

    What there is now is backed up before that: it may have been changed without a row more or less.
    """
    root = Path(store.destination).absolute()
    moving, moved = root / serve.MOVING, root / "artifacts"
    kept = ""
    if "counts" in task:
        names = [path.name for path in moved.iterdir()] if task["moved"] and store.path else []
        # One that would lie on the store, or pass for a log or a mark of it, has been put there since.
        new = any((root / n).exists() or serve.is_ours(n, root, store.path or root) for n in names)
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
            if store.marked() or store.revision() != backup.revision:
                if not store.path:
                    store.mark("undo", task["backup"])
                put_back(store, backup.database, backup.revision)
        store.unmark()
    if task["moved"] and (moving.is_dir() or moved.is_dir()):  # else it failed before anything was moved
        if not moving.is_dir():  # from here on it is a move that was interrupted, and can be finished
            moved.rename(moving)
        for entry in list(moving.iterdir()):
            entry.rename(root / entry.name)
        moving.rmdir()
    return {"kept": kept}


class Artifacts:
    """The artifacts at a location, which clients choose; of a proxied one without the proxy.

    The path in it is decoded once, as the server does. One that leads out of the destination has none.
    """

    def __init__(self, store: Store, uri: str) -> None:
        self.path: str | None = None
        """Below the artifacts destination, where it is there."""
        self.folder: Path | None = None
        """On a volume."""
        self.where = uri
        """Where MLflow's own access to it begins; "" for a location without any artifacts of ours."""
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            inside = PurePosixPath(unquote(parts.path).strip("/"))
            self.path = str(inside)
            self.folder = store.artifacts and store.artifacts / inside
            self.where = store.destination
            if ".." in inside.parts or not inside.parts:
                say(f"the artifact location {uri} leads out of the artifacts: what is there stays")
                self.where, self.folder = "", None

    def repository(self) -> Any:
        """Return MLflow's access to them."""
        registry = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
        return registry.get_artifact_repository(self.where)

    def files(self) -> Iterator[tuple[Any, str, int]]:
        """Yield MLflow's access to them, the path of each file by that, and its size in bytes."""
        repository, waiting = self.repository(), [self.path]
        while waiting:
            for entry in repository.list_artifacts(waiting.pop()):
                if entry.is_dir:
                    waiting.append(entry.path)
                else:
                    yield repository, entry.path, entry.file_size or 0

    def size(self) -> int:
        """Return their size in bytes."""
        if self.folder:
            files = (Path(root, name) for root, _, names in os.walk(self.folder) for name in names)
            return sum(path.lstat().st_size for path in files)
        return sum(size for _, _, size in self.files()) if self.where else 0

    def delete(self) -> None:
        """Delete them; file by file in an object store, where older MLflows take 1 and 10 for one folder."""
        if self.folder and self.folder.exists():
            shutil.rmtree(self.folder)
        elif self.where and not self.folder:
            for repository, path, _ in list(self.files()):
                repository.delete_artifacts(path)


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield what a search of MLflow finds, page by page."""
    token: str | None = ""
    while token is not None:
        page = search(token or None)
        yield from page
        token = page.token or None


def clean_up(store: Store, _: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return what has been deleted for `older_than` seconds; with `force` remove it for good.

    Not by `mlflow gc`, which wants a server that runs for proxied artifacts, but by what it calls.
    """
    revision = require_tables(store)
    if store.is_database:
        require_current(store, revision)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    tracking = importlib.import_module("mlflow.cli")._get_store(store.uri, store.destination)
    views = importlib.import_module("mlflow.entities").ViewType
    refused = importlib.import_module("mlflow.exceptions").MlflowException
    milliseconds = task["older_than"] * 1000
    before = time.time() * 1000 - milliseconds

    # Clients restore what is deleted at any time, so each is looked at once more right before it goes.
    def run_is_deleted(run: str) -> bool:
        return bool(tracking.get_run(run).info.lifecycle_stage == "deleted")

    def model_is_deleted(model: str) -> bool:
        with contextlib.suppress(refused):
            tracking.get_logged_model(model)
            return False
        return True

    def experiment_is_deleted(identifier: str) -> bool:
        if tracking.get_experiment(identifier).lifecycle_stage != "deleted":
            return False
        active = tracking.search_runs([identifier], "", views.ACTIVE_ONLY, max_results=1)
        if active:
            say(
                f"the deleted experiment {identifier} stays: run {active[0].info.run_id} in it is not deleted"
            )
        return not active

    experiments = [
        experiment
        for experiment in pages(
            lambda token: tracking.search_experiments(views.DELETED_ONLY, page_token=token)
        )
        if not milliseconds or (experiment.last_update_time or 0) <= before
        if experiment_is_deleted(experiment.experiment_id)
    ]
    runs = list(tracking._get_deleted_runs(older_than=milliseconds))
    if experiments:
        ids = [experiment.experiment_id for experiment in experiments]
        found = pages(lambda token: tracking.search_runs(ids, "", views.DELETED_ONLY, page_token=token))
        runs += [run.info.run_id for run in found]
    models: list[str] = getattr(tracking, "_get_deleted_logged_models", lambda **_: [])(
        older_than=milliseconds
    )
    still_deleted = {"run": run_is_deleted, "model": model_is_deleted, "experiment": experiment_is_deleted}
    shown: list[dict[str, Any]] = []
    totals = {"run": 0, "model": 0, "experiment": 0, "bytes": 0}
    counted: dict[str, int] = {}  # bytes in an experiment that its runs and models have been shown with
    progress = Progress("removed" if task["force"] else "looked at")

    def handle(kind: str, identifier: str, name: str, experiment: str, location: str) -> None:
        artifacts = Artifacts(store, location) if location else None
        size = artifacts.size() if artifacts else 0
        if not still_deleted[kind](identifier):
            return
        if task["force"]:
            if artifacts:
                artifacts.delete()
            getattr(tracking, f"_hard_delete_{'logged_' * (kind == 'model')}{kind}")(identifier)
        elif kind == "experiment":
            size = max(size - counted.get(experiment, 0), 0)
        counted[experiment] = counted.get(experiment, 0) + size
        totals[kind] += 1
        totals["bytes"] += size
        if len(shown) < SHOWN:
            shown.append({"kind": kind, "id": identifier, "name": name, "bytes": size})
        progress(1)

    for info in (tracking.get_run(run).info for run in dict.fromkeys(runs)):
        handle("run", info.run_id, info.run_name or "", info.experiment_id, info.artifact_uri)
    for model in (tracking.get_logged_model(model, allow_deleted=True) for model in models):
        handle("model", model.model_id, model.name, model.experiment_id, model.artifact_location)
    for experiment in experiments:
        identifier, location = experiment.experiment_id, experiment.artifact_location or ""
        # Where it has a folder of its own, that goes whole, with what its traces and other models have in it.
        own = location.startswith("mlflow-artifacts:") and location.endswith(f"/{identifier}")
        handle("experiment", identifier, experiment.name, identifier, location if own else "")
    return {"found": shown, "totals": totals}


TASKS: dict[str, Callable[[Store, Path, dict[str, Any]], dict[str, Any]]] = {
    "backup": back_up,
    "restore": restore,
    "upgrade": upgrade,
    "undo": undo,
    "gc": clean_up,
}


def main() -> int:
    """Do the task; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        task = json.loads(os.environ["MLFLOW_STORE_TASK"])
        store, folder = Store(dict(os.environ)), Path(task["backups"])
        with store.alone():
            part_of(store, folder).unlink(missing_ok=True)  # a job that was killed has left it
            result = recover(store, folder, task) or TASKS[task["do"]](store, folder, task)
    except Exception as error:
        result = {"error": serve.redact(serve.explain(error))}
    except SystemExit as error:
        if error.code != 1:  # else a child has failed, and said why
            raise
        result = {"error": "it failed for the reason above"}
    print(RESULT + json.dumps(result), flush=True)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
