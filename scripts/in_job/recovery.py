"""Finishing or undoing what a job that was killed has left."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from in_job.artifact_folder import MOVING, move_artifacts
from in_job.backup_file import Backup
from in_job.restore import put_all
from in_job.schema import is_current
from in_job.staging import drop_staged
from in_job.store import Store
from in_job.upgrade import put_back_all
from in_job.words import Problem, explain, say


def is_interrupted(store: Store) -> bool:
    """Tell whether a job that was killed has left something to be finished or undone."""
    moving = bool(store.around and (store.around / MOVING).is_dir())
    return moving or bool(store.is_database and store.mark.read())


def recover(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any] | None:
    """Finish or undo what a job that was killed has left; return the result if that was this very task."""
    if store.around and store.path and (store.around / MOVING).is_dir():
        say("an upgrade was interrupted: moving the rest of the artifacts")
        move_artifacts(store.around, store.path)
    left = store.mark.read() if store.is_database else {}
    if not left:
        drop_staged(store)
        return None
    if left["do"] == "upgrade" and is_current(store.revision(), store):
        store.mark.clear()
        return None
    name, restoring = left["backup"], left["do"] == "restore"
    what = f"a restore of {name} was interrupted" if restoring else "an upgrade was interrupted"
    say(f"{what}: {'finishing it' if restoring else f'putting {name} back'}")
    try:
        with tempfile.TemporaryDirectory(prefix="mlflow-recover-") as work:
            backup = Backup(folder / name, Path(work))
            if not restoring:
                put_back_all(store, backup)
                store.mark.clear()
                return None
            backup.upgrade()
            result = put_all(store, backup)
        return result if task == {**task, "do": "restore", "from": name} else None
    except (Problem, OSError) as error:
        if not restoring:
            raise Problem(f"{what}, and {name} cannot be put back: {explain(error)}") from error
        if task["do"] != "restore":
            raise Problem(f"{what} and cannot be finished ({error}): restore another backup") from error
        drop_staged(store)
        store.mark.clear()
        return None
