"""Backing up a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from in_job.backup_file import write_backup
from in_job.schema import is_current
from in_job.store import Store, require_tables


def back_up(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Make a backup."""
    revision = require_tables(store)
    if store.is_database:
        is_current(revision, store)  # a newer one is not ours to copy
    return write_backup(store, folder, "", task["artifacts"])
