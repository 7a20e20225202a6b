"""SQLite files: locks, journals, copies, and what a server needs of its database."""

from __future__ import annotations

import fcntl
import re
import sqlite3
import tempfile
import time
from collections.abc import MutableMapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from in_job import durable
from in_job.location import locate, sqlite_file
from in_job.schema import SCHEMA_QUERY, UPGRADE_WAIT, is_current, run_upgrade
from in_job.unfinished import mark_file, refuse_unfinished
from in_job.waiting import wait
from in_job.words import Problem, explain, say

LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs"}
SQLITE_LOCK = (510, 0x40000002)  # length and start of the bytes that SQLite locks (SHARED_FIRST in its os.h)
SQLITE_WAIT = 20.0  # seconds, as long as MLflow waits for a locked SQLite database
BACKUPS_KEPT = 5
held: Any = bytearray(1)
"""Not 0 while a copy is read: what writes to the database may have to wait."""


def check_folder(path: Path, needs_locks: bool) -> None:
    """Raise an error unless the folder of `path` can be written to and has the locks that SQLite takes."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".mlflow-probe-") as probe:
        probe.write(bytes(4096))
        probe.flush()
        try:
            if needs_locks:
                fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB, *SQLITE_LOCK)
        except OSError as error:
            raise Problem(
                f"{path.parent} has no file locks ({error.strerror}), which SQLite needs. Ways out: a disk: "
                "volume; PostgreSQL (backend_store_uri: postgresql://…); or, as long as nothing but this one "
                f"server uses it, backend_store_uri: sqlite:///file:{path}?vfs=unix-dotfile&uri=true"
            ) from error


def drop_stale_dotlock(path: Path, seconds: float) -> None:
    """Remove the lock of vfs=unix-dotfile that a crash has left: a live holder changes it in time."""
    lock = path.with_name(path.name + ".lock")
    deadline = time.monotonic() + seconds
    with suppress(FileNotFoundError):
        found = lock.stat()
        say(f"{lock} exists: waiting {seconds:.0f} s to see whether a crash has left it")
        while (found.st_ino, found.st_mtime_ns) == (lock.stat().st_ino, lock.stat().st_mtime_ns):
            if time.monotonic() > deadline:
                lock.rmdir()
            time.sleep(0.2)


def file_system(path: Path) -> str:
    """Return the type of the file system of `path`, such as `ext4` or `nfs4`; on macOS `unknown`."""
    table = Path("/proc/self/mounts")
    mounts = [line.split() for line in table.read_text("utf-8").splitlines()] if table.exists() else []
    kinds = {mount[1].encode().decode("unicode_escape"): mount[2] for mount in mounts}
    real = path.resolve()
    return next((kinds[str(folder)] for folder in (real, *real.parents) if str(folder) in kinds), "unknown")


def open_sqlite(uri: str, wait: float = SQLITE_WAIT) -> sqlite3.Connection:
    """Open an existing SQLite database, without implicit transactions; `wait` is in seconds."""
    name = sqlite_file(uri)[1]
    target = name + ("&" if "?" in name else "?") + "mode=rw"
    return sqlite3.connect(target, wait, uri=True, isolation_level=None)


def sqlite_revision(database: sqlite3.Connection) -> str | None:
    """Return the revision of the schema, "" where tables have none, None where there are no tables."""
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    query = SCHEMA_QUERY if "alembic_version" in tables else "SELECT ''"
    found: str = database.execute(query).fetchone()[0]
    return found or ("" if tables - {"alembic_version"} else None)


def sqlite_damage(database: sqlite3.Connection) -> str:
    """Return the first thing that is wrong with a SQLite database, "" when it is sound."""
    state = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if state == "ok" else state


def copy_sqlite(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database in one transaction. Python by itself would wait for ever for one that is locked."""

    def check(status: int, _left: int, _total: int) -> None:
        if status in (5, 6):  # SQLITE_BUSY and SQLITE_LOCKED, after the time that the connection waits
            raise sqlite3.OperationalError("database is locked")

    held[0] = 1
    try:
        source.backup(target, progress=check)
    finally:
        held[0] = 0


def copy_to(new: Path, uri: str) -> None:
    """Write an existing SQLite database, as it is at one moment, into the file `new`."""
    with closing(open_sqlite(uri)) as database, closing(sqlite3.connect(new)) as copy:
        copy_sqlite(database, copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def save_backup(copy: Path, path: Path, revision: str) -> None:
    """Keep `copy` in `backups` beside the database `path`, and the newest BACKUPS_KEPT only."""
    folder = path.parent / "backups"
    folder.mkdir(exist_ok=True)
    backup = folder / f"{path.stem}-{revision or 'none'}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    part = folder / f".{path.stem}.part"  # one name, so that what a crash leaves is overwritten
    try:
        durable.copy(copy, part, 0o600)  # for its owner only: it may have users in it
        durable.replace(part, backup)
    finally:
        part.unlink(missing_ok=True)
    say(f"{path}: upgrading the schema from {revision or 'one without revision'}; backup: {backup}")
    name = re.compile(re.escape(path.stem) + r"-\w+-\d{8}T\d{6}Z\.db")
    found = [entry for entry in folder.iterdir() if name.fullmatch(entry.name)]
    for old in sorted(found, key=lambda entry: entry.stem[-16:])[:-BACKUPS_KEPT]:  # by time
        old.unlink()


def migrate_sqlite(database: sqlite3.Connection, path: Path, revision: str | None) -> None:
    """Upgrade a copy and write it back in one transaction: a crash on the way leaves all as it was."""
    with tempfile.TemporaryDirectory(prefix="mlflow-upgrade-") as folder:
        work = Path(folder, "mlflow.db")
        version = database.execute("PRAGMA data_version").fetchone()
        if revision is not None:
            with closing(sqlite3.connect(work)) as copy:
                copy_sqlite(database, copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                state = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if state != "ok":
                raise sqlite3.DatabaseError(f"corrupt: {state}")
            save_backup(work, path, revision)
        run_upgrade(f"sqlite:///{work}", revision is None)
        if database.execute("PRAGMA data_version").fetchone() != version:
            raise Problem(f"{path} was written to during its upgrade; nothing changed: stop its other users")
        with closing(sqlite3.connect(work)) as copy:
            copy_sqlite(copy, database)


def set_journal(database: sqlite3.Connection, path: Path, local: bool) -> None:
    """Turn the write-ahead log on where it is safe: its shared memory does not work over a network."""
    journal = database.execute("PRAGMA journal_mode").fetchone()[0]
    if local and journal != "wal":
        with suppress(sqlite3.OperationalError):  # others use the database: next time
            database.execute("PRAGMA journal_mode = WAL")
    elif not local and journal == "wal":
        database.execute("PRAGMA journal_mode = DELETE")
        say(f"{path}: write-ahead log switched off, it is unsafe on a network ({file_system(path)})")


def fold(env: MutableMapping[str, str]) -> None:
    """Put what is in the write-ahead log of a server's database into the file, unless others have it open.

    The file alone is whole then, and its header says so: it does without a log until the next start.
    """
    with suppress(Problem, OSError, sqlite3.Error):
        uri = locate(env)[0]
        if uri.startswith("sqlite") and "vfs=" not in uri:
            with closing(open_sqlite(uri, 1.0)) as database:
                database.execute("PRAGMA journal_mode = DELETE")


def prepare_sqlite(uri: str, timeout: float) -> None:
    """Create or upgrade a SQLite database; Problem for whatever would break it later."""
    path, target = sqlite_file(uri)
    dotfile = "vfs=unix-dotfile" in target
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_unfinished(mark_file(path).exists(), path)
        check_folder(path, needs_locks=not dotfile)
        if path.exists():
            path.open("r+b").close()  # SQLite would open one that it may not write to for reading
        if dotfile:
            drop_stale_dotlock(path, timeout)
        with closing(sqlite3.connect(target, timeout, uri=True, isolation_level=None)) as database:
            if not is_current(sqlite_revision(database), path):
                with path.with_name(f".{path.name}.upgrade").open("w") as lock:  # freed when its holder dies
                    if not dotfile:
                        take = fcntl.LOCK_EX | fcntl.LOCK_NB
                        wait(lambda: fcntl.lockf(lock, take), UPGRADE_WAIT, f"another upgrade of {path}")
                    revision = sqlite_revision(database)
                    if not is_current(revision, path):
                        migrate_sqlite(database, path, revision)
            set_journal(database, path, local=not dotfile and file_system(path) in LOCAL_FILE_SYSTEMS)
            database.execute("BEGIN IMMEDIATE")  # fails where the file is read-only or held
            database.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise Problem(f"{path}: {explain(error)}") from error
