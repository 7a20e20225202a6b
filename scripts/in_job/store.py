"""The store of an MLflow server as a job of its own sees it: what it holds, how to copy and replace it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Dict
from urllib.parse import urlsplit

from in_job import serve
from in_job.serve import Problem, say

LOCK_WAIT = 10.0  # seconds
STAGING = ".mlflow-restore-"  # begins the name of the folder of artifacts that a restore has verified
PROGRESS_EVERY = 5.0  # seconds
BATCH = 2000  # rows
MAIN_TABLES = {
    "experiments": "experiment",
    "runs": "run",
    "metrics": "metric",
    "registered_models": "registered model",
    "model_versions": "model version",
    "trace_info": "trace",
    "logged_models": "logged model",
}
"""The tables that people ask about, with a word for what a row of theirs is."""

Counts = Dict[str, int]
"""Rows by table."""


class Progress:
    """Says how far a long piece of work has come, now and then."""

    def __init__(self, what: str) -> None:
        self.what, self.done, self.next = what, 0, time.monotonic() + PROGRESS_EVERY

    def __call__(self, more: int) -> None:
        """Count `more` units as done."""
        self.done += more
        if time.monotonic() > self.next:
            say(f"{self.what}: {self.done:,}")
            self.next = time.monotonic() + PROGRESS_EVERY


class Store:
    """The backend store and the artifacts of the server whose environment this is."""

    def __init__(self, env: dict[str, str]) -> None:
        self.uri, self.destination = serve.locate(env)
        registry = env.get("MLFLOW_REGISTRY_STORE_URI", "")
        one = registry in ("", self.uri, env.get("MLFLOW_BACKEND_STORE_URI"))
        if not one or "--registry-store-uri" in env.get("MLFLOW_ACTION_EXTRA_PARAMS", ""):
            raise Problem("the model registry has a database of its own, which no backup would hold")
        self.path = serve.store_path(self.uri)
        self.kind = urlsplit(self.uri).scheme.partition("+")[0] if "://" in self.uri else "file"
        if self.kind not in ("sqlite", "postgresql", "mysql", "file"):
            raise Problem(
                f"backend_store_uri {self.uri}: only SQLite, PostgreSQL, MySQL and file stores can be handled"
            )

    def __str__(self) -> str:
        return str(self.path) if self.path else f"the {self.kind} database at {urlsplit(self.uri).hostname}"

    @property
    def is_database(self) -> bool:
        """Tell whether the store is not a file store."""
        return self.kind != "file"

    @property
    def around(self) -> Path | None:
        """The artifacts destination where it holds the store, else None."""
        if serve.is_remote(self.destination) or self.path is None:
            return None
        folder, path = Path(self.destination).absolute(), self.path.resolve()
        return folder if folder.resolve() in (path, *path.parents) else None

    @property
    def artifacts(self) -> Path | None:
        """The folder of the artifacts, None where they are in an object store."""
        if serve.is_remote(self.destination):
            return None
        folder = Path(self.destination).absolute()
        return folder / "artifacts" if self.around and not self.mixed() else folder

    @property
    def token(self) -> str:
        """Tells this store from another one, in names of files."""
        parts = urlsplit(self.uri)
        identity = str(self.path or f"{self.kind}://{parts.hostname}:{parts.port}{parts.path}")
        return hashlib.sha256(identity.encode()).hexdigest()[:12]

    @property
    def staging(self) -> Path | None:
        """Where a restore lays artifacts ready, a rename away from their places; None in an object store."""
        return self.artifacts and self.artifacts / (STAGING + self.token)

    def is_own(self, inside: str) -> bool:
        """Tell whether what has that path below the destination belongs to the store that lies in it."""
        assert self.around
        assert self.path
        return serve.is_ours(inside.split("/")[0], self.around, self.path)

    def mixed(self) -> list[str]:
        """Return the names of artifacts that lie beside the store; none where they are apart."""
        folder = self.around
        if folder is None or self.path is None or (folder / "artifacts").is_dir() or not folder.is_dir():
            return []
        return serve.beside(folder, self.path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store for this job; the lock ends with the job, however that ends."""
        busy = f"another backup, restore, upgrade or clean-up of {self}"
        with contextlib.ExitStack() as stack:
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                path = self.path.with_name(f".{self.path.name}.store")
                if self.path.is_dir():  # the folder above may not be on the volume
                    path = self.path / ".mlflow.store"
                if "vfs=unix-dotfile" in self.uri:
                    stack.enter_context(folder_lock(path, busy))
                    serve.drop_stale_dotlock(self.path, serve.SQLITE_WAIT)
                else:
                    lock = stack.enter_context(path.open("w"))
                    serve.wait(lambda: fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB), LOCK_WAIT, busy)
            else:
                session = stack.enter_context(connect(self.uri))

                def take() -> None:
                    query = {  # each a lock of this database only
                        "postgresql": "SELECT pg_try_advisory_lock(5078)",
                        "mysql": "SELECT GET_LOCK(CONCAT('mlflow ', MD5(DATABASE())), 0)",
                    }[self.kind]
                    if not session.exec_driver_sql(query).scalar():
                        raise OSError("held by another job")

                serve.wait(take, LOCK_WAIT, busy)
            yield

    def mark(self, what: str, backup: str) -> None:
        """Keep servers off the store while it is changed in steps, and tell the next task what to do.

        The mark is in the store, or beside it: where no artifact can be, which clients write. `what` is
        `restore`, which a later task finishes, `upgrade`, which it undoes unless that is done, or `undo`.
        """
        note = json.dumps({"do": what, "backup": backup})
        if self.path:
            path = serve.unfinished(self.path)
            part = path.with_name(f"{path.name}.part")
            with part.open("w", encoding="utf-8") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            return
        text = importlib.import_module("sqlalchemy").text
        with transaction(self.uri, "READ COMMITTED") as session:
            session.execute(text(f"CREATE TABLE IF NOT EXISTS {serve.UNFINISHED} (note VARCHAR(1000))"))
            session.execute(text(f"DELETE FROM {serve.UNFINISHED}"))  # noqa: S608
            session.execute(text(f"INSERT INTO {serve.UNFINISHED} VALUES (:note)"), {"note": note})  # noqa: S608

    def marked(self) -> dict[str, str]:
        """Return what `mark` has written, as `do` and `backup`; nothing where there is no mark."""
        note = None
        if self.path:
            path = serve.unfinished(self.path)
            note = path.read_text(encoding="utf-8") if path.exists() else None
        else:
            with connect(self.uri) as session:
                if serve.UNFINISHED in table_names(session):
                    note = session.exec_driver_sql(f"SELECT note FROM {serve.UNFINISHED}").scalar()  # noqa: S608
                    if not note:  # nothing has been begun
                        self.unmark()
        found: dict[str, str] = json.loads(note) if note else {}
        return found

    def unmark(self) -> None:
        """Let servers in again."""
        if self.path:
            serve.unfinished(self.path).unlink(missing_ok=True)
            return
        with connect(self.uri) as session:
            session.exec_driver_sql(f"DROP TABLE IF EXISTS {serve.UNFINISHED}")

    def revision(self) -> str | None:
        """Return the revision of the schema, "" where tables have none, None where there is no database."""
        if self.kind == "sqlite":
            if not (self.path and self.path.exists()):
                return None
            with closing(open_sqlite(self.uri)) as database:
                return serve.sqlite_revision(database)
        with connect(self.uri) as session:
            return serve.sql_revision(session)

    def counts(self) -> Counts:
        """Return the number of rows in each table; in a database server in each of MLflow's tables."""
        if self.kind == "sqlite":
            if not (self.path and self.path.exists()):
                return {}
            with closing(open_sqlite(self.uri)) as database:
                return count(database)
        with connect(self.uri) as session:
            tables = [t for t in known_tables() if t in table_names(session)]
            return {t: session.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar() for t in tables}  # noqa: S608

    def is_new(self, counts: Counts) -> bool:
        """Tell whether a store with these counts holds nothing but what MLflow itself puts into a new one."""
        if any(rows > (table in ("experiments", "workspaces")) for table, rows in counts.items()):
            return False
        query = "SELECT count(*) FROM experiments WHERE name <> 'Default'"
        if not counts.get("experiments"):
            return True
        if self.kind == "sqlite":
            with closing(open_sqlite(self.uri)) as database:
                return bool(database.execute(query).fetchone() == (0,))
        with connect(self.uri) as session:
            return not session.exec_driver_sql(query).scalar()

    def damage(self) -> str:
        """Return what is wrong with a SQLite file; "" for a sound one, an absent one and database servers."""
        if self.kind != "sqlite" or not (self.path and self.path.exists()):
            return ""
        try:
            with closing(open_sqlite(self.uri)) as database:
                return sqlite_damage(database)
        except sqlite3.OperationalError:  # locked, read-only: nothing that replacing the file would mend
            raise
        except sqlite3.DatabaseError as error:
            return str(error)


@contextlib.contextmanager
def folder_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock where there are no locks of files: a folder, which is touched as long as it is held."""
    folder, end = path.with_name(f"{path.name}.lock"), threading.Event()

    def touch() -> None:
        while not end.wait(LOCK_WAIT / 10):
            os.utime(folder)

    serve.drop_stale_dotlock(path, LOCK_WAIT)
    serve.wait(folder.mkdir, LOCK_WAIT, busy)
    toucher = threading.Thread(target=touch, daemon=True)
    toucher.start()
    try:
        yield
    finally:
        end.set()
        toucher.join()
        folder.rmdir()


def open_sqlite(uri: str) -> sqlite3.Connection:
    """Open an existing SQLite database, without implicit transactions."""
    name = serve.sqlite_file(uri)[1]
    target = name + ("&" if "?" in name else "?") + "mode=rw"
    return sqlite3.connect(target, serve.SQLITE_WAIT, uri=True, isolation_level=None)


def connect(uri: str, isolation: str = "AUTOCOMMIT") -> Any:
    """Return a connection to a database through SQLAlchemy: a context manager."""
    alchemy = importlib.import_module("sqlalchemy")
    engine = alchemy.create_engine(uri, future=True, poolclass=alchemy.pool.NullPool)
    try:
        return engine.connect().execution_options(isolation_level=isolation)
    except alchemy.exc.DBAPIError as error:
        raise Problem(f"the {engine.dialect.name} database at {engine.url.host}: {error.orig}") from None


@contextlib.contextmanager
def transaction(uri: str, isolation: str) -> Iterator[Any]:
    """Yield a connection in a transaction, which an exception rolls back."""
    with connect(uri, isolation) as session, session.begin():
        yield session


def table_names(session: Any) -> list[str]:
    """Return the names of the tables that a connection sees."""
    return list(importlib.import_module("sqlalchemy").inspect(session).get_table_names())


def known_tables() -> list[str]:
    """Return the names of MLflow's tables: a database may have others, which are not ours to touch."""
    importlib.import_module("mlflow.store.db.utils")
    return list(importlib.import_module("mlflow.store.db.base_sql_model").Base.metadata.tables)


def count(database: sqlite3.Connection) -> Counts:
    """Return the number of rows in each table of an MLflow database in SQLite."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    tables = [row[0] for row in database.execute(query) if row[0] != "alembic_version"]
    return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608


def in_words(counts: Counts) -> str:
    """Return the counts that people ask about, as text."""
    found = [(counts.get(table, 0), word) for table, word in MAIN_TABLES.items()]
    return ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in found if n) or "nothing"


def create_schema(uri: str, revision: str) -> None:
    """Make MLflow's tables as they were at a revision. Imports MLflow, so it runs in a child."""
    logging.disable(logging.CRITICAL)
    utils = importlib.import_module("mlflow.store.db.utils")
    command = importlib.import_module("alembic.command")
    engine = utils.create_sqlalchemy_engine(uri)
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def reflect(session: Any, names: list[str]) -> dict[str, Any]:
    """Return the tables `names` of a database, in the order in which their foreign keys can be met.

    JSON is taken as the text that it is: NULL and JSON's null are two. Floats stay such: MySQL's would become
    decimals with ten digits.
    """
    alchemy = importlib.import_module("sqlalchemy")
    types, strict = alchemy.types, session.dialect.name == "postgresql"
    metadata = alchemy.MetaData()
    metadata.reflect(session, only=names)

    class JSONText(types.TypeDecorator):  # type: ignore[misc, name-defined]
        impl, cache_ok = types.Text, True

        def bind_expression(self, value: Any) -> Any:
            return alchemy.cast(value, types.JSON) if strict else value

        def column_expression(self, column: Any) -> Any:
            return alchemy.cast(column, types.Text) if strict else column

    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, types.JSON):
                column.type = JSONText()
            elif hasattr(column.type, "asdecimal"):
                column.type.asdecimal = False
    return {table.name: table for table in metadata.sorted_tables if table.name in names}


def convert(value: Any, column: Any) -> Any:
    """Return a value as a column of another database wants it: they differ in truth values and JSON."""
    types = importlib.import_module("sqlalchemy").types
    if isinstance(column.type, types.Boolean):
        return None if value is None else bool(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)) and isinstance(column.type, (types.Text, types.TypeDecorator)):
        return json.dumps(value)  # SQLite keeps a number in JSON as one
    return value


def copy_tables(source: Any, target: Any, names: list[str]) -> Counts:
    """Replace the rows of the tables `names` in one database by another's; return how many there are now.

    Both connections are in a transaction; the schemas are of one revision. Columns that the database computes
    itself are left to it.
    """
    alchemy = importlib.import_module("sqlalchemy")
    there, here = reflect(source, names), reflect(target, names)
    kind = target.dialect.name
    if kind == "mysql":  # an id of 0, which the first experiment has, else means "the next one"
        modes = ",NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES"  # the latter refuses what it would change else
        target.exec_driver_sql(f"SET SESSION sql_mode = CONCAT(@@sql_mode, '{modes}')")
        target.exec_driver_sql("SET SESSION foreign_key_checks = 0")
    for table in reversed(list(here.values())):
        target.execute(table.delete())
    copied: Counts = {}
    for name, table in here.items():
        columns = [c for c in table.columns if c.computed is None and c.name in there[name].columns]
        query = alchemy.select(*(there[name].columns[c.name] for c in columns))
        progress, copied[name] = Progress(f"copied rows of {name}"), 0
        for rows in source.execution_options(stream_results=True).execute(query).partitions(BATCH):
            values = [{c.name: convert(v, c) for c, v in zip(columns, row)} for row in rows]
            try:
                target.execute(table.insert(), values)
            except alchemy.exc.DBAPIError as error:  # its own text has the rows in it
                raise Problem(f"{kind} does not take the rows of {name}: {error.orig}") from None
            copied[name] += len(values)
            progress(len(values))
        counter = table.autoincrement_column
        if kind == "postgresql" and counter is not None and copied[name]:
            sequence, last = f"pg_get_serial_sequence('{name}', '{counter.name}')", f"max({counter.name})"
            query = f"SELECT setval({sequence}, greatest({last}, 1), {last} > 0) FROM {name}"  # noqa: S608
            target.exec_driver_sql(query)
    return copied


def snapshot(store: Store, work: Path) -> None:
    """Write the store's database, as it is at one moment, into the new SQLite file `work`."""
    say(f"reading {store}")
    if store.kind == "sqlite":
        with closing(open_sqlite(store.uri)) as database, closing(sqlite3.connect(work)) as copy:
            serve.copy_sqlite(database, copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    elif store.kind == "file":
        serve.in_child(migrate_file_store, store.path, work)
        with closing(sqlite3.connect(work)) as database:  # whose last user is gone with the child
            database.execute("PRAGMA journal_mode = DELETE")
    else:
        serve.in_child(create_schema, f"sqlite:///{work}", store.revision())
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


def sqlite_damage(database: sqlite3.Connection) -> str:
    """Return the first thing that is wrong with a SQLite database, "" when it is sound."""
    state = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if state == "ok" else state


def check_sqlite(path: Path) -> None:
    """Raise Problem unless a file is a sound SQLite database of MLflow."""
    try:
        with closing(sqlite3.connect(path)) as database:
            damage = sqlite_damage(database)
            if damage:
                raise sqlite3.DatabaseError(damage)
            if not serve.sqlite_revision(database):
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
    target = serve.sqlite_file(store.uri)[1]
    with closing(sqlite3.connect(target, serve.SQLITE_WAIT, uri=True, isolation_level=None)) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        with closing(sqlite3.connect(work, isolation_level=None)) as copy:
            if copy.execute("PRAGMA page_size").fetchone()[0] != size:  # a write-ahead log cannot change it
                copy.execute(f"PRAGMA page_size = {size}")
                copy.execute("VACUUM")
            before_commit()
            serve.copy_sqlite(copy, database)


def replace_sqlite(path: Path, work: Path) -> None:
    """Put a SQLite file into the place of a damaged one, and its logs away: they belong to that."""
    new = path.with_name(f".{path.name}.part")
    try:
        with work.open("rb") as source, new.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        new.replace(path)
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
    names = [*known_tables(), "alembic_version"]
    with transaction(store.uri, "READ COMMITTED") as session:
        metadata = importlib.import_module("sqlalchemy").MetaData()
        metadata.reflect(session, only=[table for table in table_names(session) if table in names])
        metadata.drop_all(session)
    serve.in_child(create_schema, store.uri, revision)
    put(store, database)
