"""Looking at a store and changing nothing: what a task would have to do with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from in_job.backup_file import Backup
from in_job.schema import is_current
from in_job.store import Store
from in_job.upgrade import fixed_places


def size(path: Path) -> int:
    """Return the bytes of a store's file, with its log, or of its folder."""
    if path.is_dir():
        return sum(Path(base, name).lstat().st_size for base, _, names in os.walk(path) for name in names)
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


def look(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return what is in the store, what an upgrade would do to it, and what the backup `from` holds."""
    found: dict[str, Any] = {"store": str(store), "bytes": store.path and size(store.path), "new": True}
    found["unfinished"] = bool(store.mark.read())
    if store.is_database:
        revision, counts = store.revision(), store.counts()
        found["new"] = store.is_new(counts)
        found["holds"] = store.holds(counts)
        stayed = fixed_places(store)
        found["upgrade"] = revision is not None and not is_current(revision, store)
        found["moves"] = bool(store.mixed()) and not stayed
    else:
        found["holds"] = "a file store"
        found["upgrade"] = bool(store.path and store.path.is_dir())
        found["moves"] = False
    if task.get("from"):
        with tempfile.TemporaryDirectory(prefix="mlflow-look-") as work:
            backup = Backup(folder / task["from"], Path(work))
            found["backup"] = backup.holds
            found["artifacts"] = len(backup.artifacts)
    return found
