"""The mark of a store that is changed in steps: it keeps servers off, and tells the next task what to do.

It is in a table of a database server, else in a file beside the store: where no client can put artifacts.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from in_job import durable
from in_job.sql import connect, table_names, transaction
from in_job.words import Problem

TABLE = "mlflow_unfinished"


def mark_file(path: Path) -> Path:
    """Return the file that is beside a store while more than the store is changed."""
    return path.with_name(f".{path.name}.unfinished")


def refuse_unfinished(is_there: bool, where: object) -> None:
    """Raise Problem where a restore or an upgrade has been interrupted."""
    if is_there:
        raise Problem(f"a restore or an upgrade of {where} was interrupted: run the same target again")


class Mark:
    """The mark of the store at `uri`, whose file or folder is `path`: None for a database server."""

    def __init__(self, uri: str, path: Path | None) -> None:
        self.uri, self.file = uri, path and mark_file(path)

    def set(self, what: str, backup: str) -> None:
        """Set it. `what` is `restore`, which a later task finishes, or `upgrade` or `undo`, after which
        it puts the backup back unless the upgrade is done.
        """
        note = json.dumps({"do": what, "backup": backup})
        if self.file:
            part = self.file.with_name(f"{self.file.name}.part")
            durable.write(note, part)
            durable.replace(part, self.file)
            return
        text = importlib.import_module("sqlalchemy").text
        with transaction(self.uri, "READ COMMITTED") as session:
            session.execute(text(f"CREATE TABLE IF NOT EXISTS {TABLE} (note VARCHAR(1000))"))
            session.execute(text(f"DELETE FROM {TABLE}"))  # noqa: S608
            session.execute(text(f"INSERT INTO {TABLE} VALUES (:note)"), {"note": note})  # noqa: S608

    def read(self) -> dict[str, str]:
        """Return what `set` has written, as `do` and `backup`; nothing where there is no mark."""
        note = None
        if self.file:
            note = self.file.read_text(encoding="utf-8") if self.file.exists() else None
        else:
            with connect(self.uri) as session:
                if TABLE in table_names(session):
                    note = session.exec_driver_sql(f"SELECT note FROM {TABLE}").scalar()  # noqa: S608
                    if not note:  # nothing has been begun
                        self.clear()
        found: dict[str, str] = json.loads(note) if note else {}
        return found

    def clear(self) -> None:
        """Let servers in again."""
        if self.file:
            self.file.unlink(missing_ok=True)
            return
        with connect(self.uri) as session:
            session.exec_driver_sql(f"DROP TABLE IF EXISTS {TABLE}")
