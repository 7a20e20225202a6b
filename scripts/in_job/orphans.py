"""Artifacts that no row refers to: of traces that were deleted, of runs that a restore has replaced.

Only what MLflow itself lays out is looked at: below an experiment's location the folder of a run, a model or
a trace, by its id. It is orphaned where no text in the database has the id or leads into the folder, and old
where nothing has been written into it for an hour at least: a client may still be uploading.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from in_job import durable
from in_job.artifact_location import Artifacts
from in_job.queries import rows
from in_job.sql import table_names, transaction
from in_job.store import Store
from in_job.words import Problem, Progress, say

AGE = 3600.0  # seconds
ID = re.compile(r"tr-[0-9A-Za-z-]+|m-[0-9a-f]{32}|[0-9a-f]{32}")
NUMBERS = {"metrics", "latest_metrics", "params", "spans", "span_metrics", "trace_metrics"}
"""Tables that are large, and have no other ids than those that runs and traces have."""


def neighbours(store: Store) -> list[Path]:
    """Return other databases of MLflow in SQLite, beside the store: they may refer to the same artifacts."""
    folders = {store.path.parent} if store.path else set()
    if store.artifacts:
        folders |= {Path(store.destination).absolute(), Path(store.destination).absolute().parent}
    found = {file.resolve(): file for folder in folders if folder.is_dir() for file in folder.glob("*.db")}
    if store.path:
        found.pop(store.path.resolve(), None)
    return [file for file in found.values() if file.is_file() and is_of_mlflow(file)]


def is_of_mlflow(file: Path) -> bool:
    """Tell whether a file is an MLflow database in SQLite; Problem where that cannot be seen."""
    try:
        # A `?` or `%` may be in the name.
        return bool(rows(f"sqlite:///file:{quote(str(file))}", "SELECT count(*) FROM experiments"))
    except sqlite3.Error as error:
        if "not a database" in str(error):
            return False
        raise Problem(f"what {file} refers to cannot be read ({error}): mend it, or move it away") from error


def all_references(store: Store) -> tuple[set[str], set[str]]:
    """Return what `references` finds in the store's database, and in others that lie beside."""
    ids, paths = references(store, store.uri)
    for file in neighbours(store):
        say(f"what {file} refers to stays as well: move it away once nobody needs it")
        url = importlib.import_module("sqlalchemy.engine").URL.create("sqlite", database=str(file))
        more, further = references(store, url)  # of a text, SQLAlchemy's versions decode a name differently
        ids, paths = ids | more, paths | further
    return ids, paths


def references(store: Store, uri: Any) -> tuple[set[str], set[str]]:
    """Return all ids that are in any text of a database, and all paths below the artifacts destination."""
    alchemy = importlib.import_module("sqlalchemy")
    places = f"mlflow-artifacts:(?://[^/\\s\"']*)?|(?:file://)?{re.escape(store.destination.rstrip('/'))}"
    path = re.compile(f"(?:{places})(/[^\\s\"']*)")
    ids: set[str] = set()
    paths: set[str] = set()
    isolation = "SERIALIZABLE" if str(uri).startswith("sqlite") else "READ COMMITTED"
    with transaction(uri, isolation) as session:
        metadata = alchemy.MetaData()
        metadata.reflect(session, only=[name for name in table_names(session) if name not in NUMBERS])
        progress = Progress("rows read that may refer to artifacts")
        for table in metadata.tables.values():
            texts = [
                alchemy.cast(column, alchemy.Text) if isinstance(column.type, alchemy.JSON) else column
                for column in table.columns
                if isinstance(column.type, (alchemy.String, alchemy.JSON))
            ]
            if not texts:
                continue
            rows = session.execution_options(stream_results=True).execute(alchemy.select(*texts))
            for row in rows:
                progress(1)
                for value in filter(None, map(str, filter(None, row))):
                    ids.update(ID.findall(value))
                    paths.update(unquote(found).strip("/") for found in path.findall(value))
    return ids, paths


class Tree:
    """The folders at an artifacts destination, on a volume or in an object store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.remote = None if store.artifacts else Artifacts(store, "mlflow-artifacts:/x").repository()

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders in a folder; none where it is not there."""
        if self.remote:
            entries = self.remote.list_artifacts(path or None)
            return [PurePosixPath(entry.path).name for entry in entries if entry.is_dir]
        with suppress(FileNotFoundError, NotADirectoryError):
            found = (self.store.artifacts or Path()) / path
            return [entry.name for entry in os.scandir(found) if entry.is_dir(follow_symlinks=False)]
        return []

    def candidates(self, locations: set[str]) -> Iterator[tuple[str, str]]:
        """Yield the id and the path of each folder of a run, a model or a trace."""
        tops = ["", *(f"workspaces/{name}" for name in self.folders("workspaces"))]
        numbered = {
            f"{top}/{name}".strip("/") for top in tops for name in self.folders(top) if name.isdigit()
        }
        for location in sorted(numbered | locations):
            for name in self.folders(location):
                if re.fullmatch("[0-9a-f]{32}", name):
                    yield name, f"{location}/{name}".strip("/")
            for kind, begin in (("models", "m-"), ("traces", "tr-")):
                for name in self.folders(f"{location}/{kind}".strip("/")):
                    if name.startswith(begin):
                        yield name, f"{location}/{kind}/{name}".strip("/")

    def written(self, path: str) -> float | None:
        """Return when something was last written into a folder; None where the store does not say."""
        if self.remote:
            return None
        top = (self.store.artifacts or Path()) / path
        times = [top.lstat().st_mtime]
        for root, folders, files in os.walk(top):
            for name in [*folders, *files]:
                with suppress(FileNotFoundError):
                    times.append(Path(root, name).lstat().st_mtime)
        return max(times)


def at(store: Store, path: str) -> Artifacts:
    """Return the artifacts at a path below the destination."""
    return Artifacts(store, f"mlflow-artifacts:/{quote(path)}")


def find(store: Store, backups: Path, older_than: float, *, note: bool = True) -> list[dict[str, Any]]:
    """Return what is orphaned: its path, its size in bytes, and whether it is old enough to be removed.

    An object store does not say when something was written. There a clean-up that long ago has to have found
    it as it is, size and all; what was found is noted beside the backups.
    """
    if store.mixed():
        say("artifacts lie beside the database: `make mlflow-upgrade` first, then orphaned ones are found")
        return []
    try:
        ids, paths = all_references(store)
    except Problem as problem:
        say(f"WARNING: {problem}; until then no artifacts count as orphaned")
        return []
    above = {str(parent) for path in paths for parent in (PurePosixPath(path), *PurePosixPath(path).parents)}
    tree, now, found = Tree(store), time.time(), []
    notes = backups / f".orphans-{store.token}.json"
    seen = json.loads(notes.read_text("utf-8")) if notes.exists() else {}
    noted: dict[str, Any] = {}
    own = 0
    for identifier, path in tree.candidates({path for path in paths if not ID.search(path)}):
        if identifier in ids or path in above:
            own += 1
            continue
        size, written = at(store, path).size(), tree.written(path)
        if written is None:
            size_then, since = seen.get(path, (None, now))
            noted[path] = (size, since if size_then == size else now)
            written = noted[path][1]
        found.append({"path": path, "bytes": size, "old": now - written >= max(older_than, AGE)})
    if tree.remote and note:
        backups.mkdir(parents=True, exist_ok=True)
        part = notes.with_name(f"{notes.name}.part")
        durable.write(json.dumps(noted), part)
        durable.replace(part, notes)
    if found and not own:
        say(f"WARNING: {store.destination} has {len(found):,} folders of runs, models and traces, but none")
        say("of this store, so they may be another's: none counts as orphaned")
        return []
    return found


def remove(store: Store, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove orphaned artifacts, and the folders that become empty by that; return what has been removed."""
    ids = references(store, store.uri)[0] if found else set()  # what has come back meanwhile stays
    gone = [orphan for orphan in found if PurePosixPath(orphan["path"]).name not in ids]
    progress = Progress("orphaned artifacts removed")
    for orphan in gone:
        place = at(store, orphan["path"])
        place.delete(place.entries())
        progress(1)
        top, parents = store.artifacts, list(PurePosixPath(orphan["path"]).parents)[:-1]
        with suppress(OSError):  # one is not empty
            for parent in parents if top else []:
                Path(str(top), parent).rmdir()
    return gone
