"""The store of an MLflow server as a job of its own sees it: where it is, and what it holds."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from in_job import sqlite
from in_job.artifact_folder import beside, is_ours
from in_job.counts import PROMPTS, Counts, count, in_words, prompts
from in_job.database_server import sql_revision
from in_job.in_use import folder_lock, lock_file
from in_job.location import is_remote, locate, store_path
from in_job.schema import is_current
from in_job.sql import connect, table_names, take_lock
from in_job.sqlite import drop_stale_dotlock, open_sqlite, sqlite_damage, sqlite_revision
from in_job.tables import known_tables
from in_job.unfinished import Mark
from in_job.waiting import wait
from in_job.words import Problem

LOCK_WAIT = 10.0  # seconds
DATABASE_WAIT = 120.0  # seconds
STAGING = ".mlflow-restore-"  # begins the name of the folder of artifacts that a restore has verified


class Store:
    """The backend store and the artifacts of the server whose environment this is."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.uri, self.destination = locate(env)
        registry = env.get("MLFLOW_REGISTRY_STORE_URI", "")
        one = registry in ("", self.uri, env.get("MLFLOW_BACKEND_STORE_URI"))
        if not one or "--registry-store-uri" in env.get("MLFLOW_ACTION_EXTRA_PARAMS", ""):
            setting = "MLFLOW_REGISTRY_STORE_URI, or --registry-store-uri in extra_params,"
            what = "gives the model registry a database of its own, which no backup would hold"
            raise Problem(f"{setting} {what}: leave it out, or back up both by their servers' own tools")
        self.path = store_path(self.uri)
        self.mark = Mark(self.uri, self.path)
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
        if is_remote(self.destination) or self.path is None:
            return None
        folder, path = Path(self.destination).absolute(), self.path.resolve()
        return folder if folder.resolve() in (path, *path.parents) else None

    @property
    def artifacts(self) -> Path | None:
        """The folder of the artifacts, None where they are in an object store."""
        if is_remote(self.destination):
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
        return is_ours(inside.split("/")[0], self.around, self.path)

    def mixed(self) -> list[str]:
        """Return the names of artifacts that lie beside the store; none where they are apart."""
        folder = self.around
        if folder is None or self.path is None or (folder / "artifacts").is_dir() or not folder.is_dir():
            return []
        return beside(folder, self.path)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store for this job; the lock ends with the job, however that ends."""
        busy = f"another backup, restore, upgrade or clean-up of {self}"
        with contextlib.ExitStack() as stack:
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                path = lock_file(self.path, "store")
                if "vfs=unix-dotfile" in self.uri:
                    stack.enter_context(folder_lock(path, 2 * LOCK_WAIT, busy, LOCK_WAIT))
                    drop_stale_dotlock(self.path, sqlite.SQLITE_WAIT)
                else:
                    lock = stack.enter_context(path.open("w"))
                    wait(lambda: fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB), LOCK_WAIT, busy)
            else:
                session = stack.enter_context(connect(self.uri))
                take_lock(session, 5078, "mlflow", LOCK_WAIT, busy)
            yield

    def revision(self) -> str | None:
        """Return the revision of the schema, "" where tables have none, None where there is no database."""
        if self.kind == "sqlite":
            if not (self.path and self.path.exists()):
                return None
            with closing(open_sqlite(self.uri)) as database:
                return sqlite_revision(database)
        with connect(self.uri) as session:
            return sql_revision(session)

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

    def holds(self, counts: Counts) -> str:
        """Return these counts of the store in words."""
        if not counts.get("registered_model_tags"):
            return in_words(counts)
        if self.kind == "sqlite":
            with closing(open_sqlite(self.uri)) as database:
                return in_words(counts, prompts(database))
        with connect(self.uri) as session:
            return in_words(counts, session.exec_driver_sql(PROMPTS).scalar())

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


def require_tables(store: Store) -> str:
    """Return the revision of the store's schema; Problem when there is nothing in the store yet."""
    revision = store.revision() if store.is_database else "file store"
    if revision is None or (store.kind == "file" and not (store.path and store.path.is_dir())):
        raise Problem(f"there are no runs yet: {store} is not there or has no tables")
    return revision


def require_current(store: Store, revision: str | None) -> None:
    """Raise Problem unless a database has the schema of the installed MLflow."""
    if not is_current(revision, store):
        raise Problem(f"{store} has the schema {revision} of an older MLflow: `make mlflow-upgrade` first")
