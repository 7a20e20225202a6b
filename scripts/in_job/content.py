"""The content of a store's database: read as a SQLite file, and replaced by one."""

from __future__ import annotations

import contextlib
import importlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from in_job import durable, sqlite
from in_job.counts import count, in_words
from in_job.location import sqlite_file
from in_job.schema import create_schema
from in_job.sql import drop_tables, transaction
from in_job.sqlite import copy_sqlite, copy_to, sqlite_damage, sqlite_revision
from in_job.store import Store
from in_job.tables import copy_tables, known_tables
from in_job.waiting import in_child
from in_job.words import Problem, say


def snapshot(store: Store, work: Path) -> None:
    """Write the store's database, as it is at one moment, into the new SQLite file `work`."""
    say(f"reading {store}")
    if store.kind == "sqlite":
        copy_to(work, store.uri)
    elif store.kind == "file":
        in_child(migrate_file_store, store.path, work)
        with closing(sqlite3.connect(work)) as database:  # whose last user is gone with the child
            database.execute("PRAGMA journal_mode = DELETE")
    else:
        in_child(create_schema, f"sqlite:///{work}", store.revision())
        with closing(sqlite3.connect(work)) as database:
            names = list(count(database))
        new = f"sqlite:///{work}"
        with transaction(store.uri, "REPEATABLE READ") as source, transaction(new, "SERIALIZABLE") as copy:
            copy_tables(source, copy, names)
    check_sqlite(work)


def migrate_file_store(source: Path, work: Path) -> None:
    """Write a file store into a new SQLite file, with MLflow's own converter. Runs in a child."""
    try:
        fs2db = importlib.import_module("mlflow.store.fs2db")
    except ImportError:
        raise Problem("only MLflow 3.10 and newer convert a file store: take a newer image") from None
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        fs2db.migrate(source, f"sqlite:///{work}")


def check_sqlite(path: Path) -> None:
    """Raise Problem unless a file is a sound SQLite database of MLflow."""
    try:
        with closing(sqlite3.connect(path)) as database:
            damage = sqlite_damage(database)
            if damage:
                raise sqlite3.DatabaseError(damage)
            if not sqlite_revision(database):
                raise Problem(f"{path.name} has no tables of MLflow")
    except sqlite3.Error as error:
        raise Problem(f"{path.name} is damaged: {error}") from error


def put(store: Store, work: Path, before_commit: Callable[[], object] = lambda: None) -> None:
    """Replace the content of the store's database by that of the SQLite file `work`, in one transaction."""
    (put_sqlite if store.kind == "sqlite" else put_sql)(store, work, before_commit)


def put_sqlite(store: Store, work: Path, before_commit: Callable[[], object]) -> None:
    """Do it in SQLite, schema and all."""
    assert store.path
    if store.damage():  # it could not even be opened
        before_commit()
        replace_sqlite(store.path, work)
        return
    store.path.parent.mkdir(parents=True, exist_ok=True)
    target = sqlite_file(store.uri)[1]
    with closing(sqlite3.connect(target, sqlite.SQLITE_WAIT, uri=True, isolation_level=None)) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        with closing(sqlite3.connect(work, isolation_level=None)) as copy:
            if copy.execute("PRAGMA page_size").fetchone()[0] != size:  # a write-ahead log cannot change it
                copy.execute(f"PRAGMA page_size = {size}")
                copy.execute("VACUUM")
            before_commit()
            copy_sqlite(copy, database)


def replace_sqlite(path: Path, work: Path) -> None:
    """Put a SQLite file into the place of a damaged one, and its logs away: they belong to that."""
    new = path.with_name(f".{path.name}.part")
    try:
        durable.copy(work, new)
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        durable.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def put_sql(store: Store, work: Path, before_commit: Callable[[], object]) -> None:
    """Do it in a database server, whose schema is that of `work`; tables of others stay as they are."""
    with closing(sqlite3.connect(work)) as database:
        expected = count(database)
    foreign = sorted(expected.keys() - set(known_tables()))
    if foreign:
        say(f"left out, because MLflow has no such tables: {', '.join(foreign)}")
    names = [name for name in expected if name not in foreign]
    old = f"sqlite:///{work}"
    with transaction(old, "SERIALIZABLE") as source, transaction(store.uri, "READ COMMITTED") as target:
        copied = copy_tables(source, target, names)
        if copied != {name: expected[name] for name in names}:
            raise Problem(f"only {in_words(copied)} could be written; nothing changed")
        before_commit()


def put_back(store: Store, database: Path, revision: str | None) -> None:
    """Make the store what the SQLite file `database` is, schema and all: the way back from an upgrade.

    On a database server that is not one transaction: the store has to be marked.
    """
    if store.kind == "sqlite":
        put(store, database)
        return
    drop_tables(store.uri, [*known_tables(), "alembic_version"])
    in_child(create_schema, store.uri, revision)
    put(store, database)
