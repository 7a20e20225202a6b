"""Backup files: a zip of `manifest.json`, `tracking.db` and, where asked for, artifacts below `artifacts/`.

`tracking.db` is an MLflow database in SQLite, whatever the store is; the manifest has counts and checksums.
Format 2 has `keys.json`, `users.db` or both as well.
A backup appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from in_job import companions, durable, schema
from in_job.content import check_sqlite, snapshot
from in_job.counts import Counts, count, in_words, prompts
from in_job.installed import mlflow_version
from in_job.schema import is_current
from in_job.sqlite import sqlite_revision
from in_job.store import Store
from in_job.waiting import in_child
from in_job.words import Problem, Progress, say

MANIFEST, DATABASE, ARTIFACTS = "manifest.json", "tracking.db", "artifacts/"
FORMATS = (1, 2)
SQLITE = b"SQLite format 3\0"
"""How a SQLite file begins."""
CHUNK = 1 << 20  # bytes


def checksum(stream: IO[bytes], target: IO[bytes] | None = None, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a stream, which is copied to `target` on the way."""
    digest = hashlib.sha256()
    for chunk in iter(lambda: stream.read(CHUNK), b""):
        digest.update(chunk)
        if target:
            target.write(chunk)
        if progress:
            progress(len(chunk))
    return digest.hexdigest()


def artifact_files(store: Store) -> Iterator[tuple[str, Path]]:
    """Yield the path below the destination, and a file with the content, of each artifact."""
    folder = store.artifacts
    if folder is None:
        repository = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
        remote = repository.get_artifact_repository(store.destination)
        waiting = [""]
        with tempfile.TemporaryDirectory(prefix="mlflow-artifact-") as work:
            while waiting:
                folder_there = waiting.pop()
                for entry in remote.list_artifacts(folder_there or None):
                    if entry.is_dir:
                        waiting.append(entry.path)
                        continue
                    try:
                        path = Path(remote.download_artifacts(entry.path, work))
                    except Exception:
                        if entry.path in [e.path for e in remote.list_artifacts(folder_there or None)]:
                            raise
                        continue  # deleted by a client just now
                    yield entry.path, path
                    path.unlink()
        return

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for top in [folder / name for name in store.mixed()] or [folder]:
        for root, folders, files in os.walk(top, onerror=fail):
            folders.sort()
            for link in (Path(root, name) for name in folders if Path(root, name).is_symlink()):
                say(f"left out: {link} is a link to a folder")
            for path in (Path(root, name) for name in sorted(files)):
                inside = path.relative_to(folder).as_posix()
                if path.is_file():
                    yield inside, path


def write_backup(store: Store, folder: Path, kind: str, artifacts: bool) -> dict[str, Any]:
    """Make a backup in `folder`; return what there is to say of it, the file's size in bytes and SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("mlflow-%Y%m%dT%H%M%SZ", time.gmtime()) + (f"-{kind}" if kind else "")
    part = part_of(store, folder)
    try:
        with tempfile.TemporaryDirectory(prefix="mlflow-backup-") as work:
            copy = Path(work, DATABASE)
            snapshot(store, copy)
            with closing(sqlite3.connect(copy)) as database:
                revision, counts = sqlite_revision(database), count(database)
                said = in_words(counts, prompts(database))
            members: dict[str, str] = {}
            progress = Progress("bytes written to the backup")
            more = companions.collect(store, Path(work))
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # it has secrets in it
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

                def add(member: str, path: Path) -> None:
                    try:
                        member.encode()
                    except UnicodeEncodeError:
                        raise Problem(
                            f"the artifact {member!r} has a name that is not UTF-8: rename it"
                        ) from None
                    with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                        members[member] = checksum(source, target, progress)

                for member, path in {DATABASE: copy, **more}.items():
                    add(member, path)
                for inside, path in artifact_files(store) if artifacts else ():
                    with suppress(FileNotFoundError):  # deleted by a client just now
                        add(ARTIFACTS + inside, path)
                manifest = {
                    "format": 2 if more else 1,
                    "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "mlflow": mlflow_version(),
                    "schema": revision,
                    "backend_store": store.kind,
                    "counts": counts,
                    "artifacts": artifacts,
                    "sha256": members,
                }
                archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
            held, users = companions.in_words(more), companions.users_in(more)
        with part.open("rb+") as file:
            whole = checksum(file)
            os.fsync(file.fileno())
        size = part.stat().st_size
        names = (f"{stem}{number}.zip" for number in ("", *range(-2, -99, -1)))
        name = next(name for name in names if not (folder / name).exists())
        durable.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)
    say(f"backup {folder / name}: {said}{held}")
    return {
        **{key: manifest[key] for key in ("mlflow", "schema")},
        "name": name,
        "size": size,
        "sha256": whole,
        "holds": said + (f", {users}" if users else ""),
        "artifacts": len(members) - 1 - len(more),
    }


def part_of(store: Store, folder: Path) -> Path:
    """Return the file that becomes a backup of a store when it is whole."""
    return folder / f".{store.token}.part"


class Backup:
    """A backup that is to be restored, or a bare SQLite database of MLflow."""

    def __init__(self, path: Path, work: Path) -> None:
        """Verify a file, and take its database into the folder `work`; Problem when it is damaged."""
        self.path, self.database = path, work / DATABASE
        self.artifacts: dict[str, str] = {}
        """The checksum of each artifact by its path."""
        self.has_artifacts = False
        self.companions: dict[str, Path] = {}
        """The files of the keys and the users, by their names in the backup."""
        say(f"verifying {path.name}")
        if not path.is_file():
            raise Problem(f"there is no backup {path}")
        with path.open("rb") as file:
            is_sqlite = file.read(len(SQLITE)) == SQLITE
        if is_sqlite:
            for suffix in ("", "-wal", "-journal"):  # what has been committed may be in there
                if path.with_name(path.name + suffix).exists():
                    shutil.copyfile(path.with_name(path.name + suffix), f"{self.database}{suffix}")
        else:
            try:
                with zipfile.ZipFile(path) as archive:
                    self._verify(archive)
            except (zipfile.BadZipFile, zlib.error, LookupError, TypeError, ValueError, EOFError) as error:
                raise Problem(f"{path.name} is not a whole backup: {error}") from error
        check_sqlite(self.database)
        with closing(sqlite3.connect(self.database)) as database:
            database.execute("PRAGMA journal_mode = DELETE")
            self.revision, counts = sqlite_revision(database), count(database)
            self.holds = in_words(counts, prompts(database))
            """What is in it, in words."""
        if self.counts is None:
            self.counts = counts
        elif self.counts != counts:
            raise Problem(f"{path.name} does not hold what its manifest says: {in_words(self.counts)}")

    counts: Counts | None = None

    def _verify(self, archive: zipfile.ZipFile) -> None:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] not in FORMATS:
            raise ValueError(f"its format is {manifest['format']}, which a newer toolkit has written")
        self.counts, self.has_artifacts = dict(manifest["counts"]), bool(manifest["artifacts"])
        members: dict[str, str] = manifest["sha256"]
        if sorted(archive.namelist()) != sorted([MANIFEST, *members]):
            raise ValueError("it does not hold the files that its manifest names")
        progress = Progress("bytes verified")
        for member, expected in members.items():
            path, own = PurePosixPath(member), member in (DATABASE, companions.KEYS, companions.USERS)
            if not own and (not member.startswith(ARTIFACTS) or ".." in path.parts or str(path) != member):
                raise ValueError(f"{member} is no name of an artifact")
            file = self.database.with_name(member) if own else os.devnull
            with archive.open(member) as source, open(file, "wb") as target:
                if checksum(source, target, progress) != expected:
                    raise ValueError(f"{member} has been changed")
            if own and member != DATABASE:
                self.companions[member] = self.database.with_name(member)
            elif not own:
                self.artifacts[member[len(ARTIFACTS) :]] = expected

    def upgrade(self) -> None:
        """Bring the database to the schema of the installed MLflow."""
        if not is_current(self.revision, self.path.name):
            say(f"upgrading the copy from the schema {self.revision or 'without revision'}")
            in_child(schema.upgrade_schema, f"sqlite:///{self.database}", False)
