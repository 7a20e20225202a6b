"""Prepare the store of an MLflow tracking server and run the server, below a small parent: PID 1 of the job.

Settings come by environment only: MLFLOW_ACTION_MODE, MLFLOW_ACTION_EXTRA_PARAMS, the platform's NEURO_JOB_*,
MLFLOW_ACTION_DATABASE_TIMEOUT (seconds), and MLflow's own variables, which win over the defaults set here.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import importlib.util
import logging
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

JOBS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
DEFAULTS = {
    "MLFLOW_HOST": "0.0.0.0",  # noqa: S104 - the ingress and other jobs come from outside
    "MLFLOW_WORKERS": "2",
    JOBS: "false",  # GenAI scorers: 8 processes, 1.2 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
OWN_INPUTS = {"--backend-store-uri", "--artifacts-destination", "--port", "-p"}
LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs"}
SQLITE_LOCK = (510, 0x40000002)  # length and start of the bytes that SQLite locks (SHARED_FIRST in its os.h)
SQLITE_WAIT = 20.0  # seconds, as long as MLflow waits for a locked SQLite database
UPGRADE_WAIT = 600.0  # seconds
END = (signal.SIGTERM, signal.SIGINT)
THREADS = 10  # of a worker, that answer API calls; files are sent and received beside them
FORKS = sys.platform == "linux"  # macOS ends a process that has imported MLflow and forks
BACKUPS_KEPT = 5
SCHEMA_QUERY = "SELECT max(version_num) FROM alembic_version"
OURS = {
    "artifacts",
    "backups",
    "lost+found",
    "mlruns",
}  # beside a database: neither artifacts nor in their way
MOVING = ".artifacts.moving"  # what becomes `artifacts` when everything is in it
UNFINISHED = "mlflow_unfinished"  # a table in a database server while it is changed in steps
DRIVERS = {  # SQLAlchemy's name of a driver and its module, in order of preference
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mysql": {"pymysql": "pymysql", "mysqldb": "MySQLdb"},
}
HOPELESS = (
    "authentication failed|access denied|no password|pg_hba|not allowed|does not exist|unknown database"
)
REMEDIES = {  # what the file system or SQLite says, and what to do
    "read-?only|denied": "mount the volume writable (:rw)",
    "no space|is full|quota": "free space on the volume",
    "locked": "stop whatever else holds the database",
    "malformed|not a database|corrupt": "the database is corrupt, restore a backup",
}


class Problem(Exception):
    """What the user has to put right, in one line."""


def redact(text: str) -> str:
    """Return text as one line, without the passwords of the URIs in it."""
    text = re.sub(r"(://[^:/@\s]*:).*@", r"\1***@", text, flags=re.S)  # an @ or blank may be in the password
    text = re.sub(r"([?&][^=&\s]*(?:pass|pwd|token)[^=&\s]*=)[^&\s]+", r"\1***", text)
    return " ".join(text.split())[:1000]


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one redacted line; on stderr unless `stream` is given."""
    print("mlflow-server:", redact(text), file=stream or sys.stderr, flush=True)


def explain(error: Exception) -> str:
    """Return an error in one line, with the way out where it is one of the file system or SQLite."""
    if isinstance(error, Problem):
        return str(error)
    text = str(error) if isinstance(error, (OSError, sqlite3.Error)) else repr(error)
    return "; ".join([text, *(remedy for sign, remedy in REMEDIES.items() if re.search(sign, text, re.I))])


def names(env: MutableMapping[str, str]) -> dict[str, str]:
    """Return MLflow's lists of hosts and origins for the job's own names, as patterns of fnmatch.

    Internal names are `LABEL.NAMESPACE`, public ones `LABEL.jobs.DOMAIN`. No job is told the DOMAIN; behind a
    loopback address it can only be one below `localhost`.
    """
    keys = ("NEURO_JOB_INTERNAL_HOSTNAME", "NEURO_JOB_INTERNAL_HOSTNAME_NAMED")
    own = [env[key] for key in keys if env.get(key)]
    if not own:
        return {}
    hosts = ["localhost", "127.0.0.1", env["MLFLOW_HOST"], *own]
    domains = ["*.localhost", "*.localhost:*"] if env["MLFLOW_HOST"].startswith("127.") else ["*"]
    plain = [name + port for name in hosts for port in ("", ":*")]
    public = [f"{name.split('.')[0]}.jobs.{domain}" for name in own for domain in domains]
    origins = [f"http://{name}" for name in plain] + [f"https://{name}" for name in public]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(plain + public),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
    }


def is_remote(destination: str) -> bool:
    """Tell whether an artifacts destination is an object store, not a folder."""
    return re.match(r"[A-Za-z][\w+.-]*:", destination) is not None


def choose_backend(destination: str) -> str:
    """Return a durable store for a server that was given none: an old file store, else SQLite."""
    if is_remote(destination):
        raise Problem(
            f"backend_store_uri is empty and artifacts_destination {destination} cannot hold a database: set "
            "backend_store_uri to sqlite:////FOLDER/mlflow.db on a volume, or to postgresql://…"
        )
    database = Path(destination, "mlflow.db").absolute()
    for folder in (Path.cwd() / "mlruns", Path(destination, "mlruns"), Path(destination)):
        if not database.exists() and any(folder.glob("[0-9]*/meta.yaml")):
            return str(folder)
    return f"sqlite:///{database}"


def sqlite_file(uri: str) -> tuple[Path, str]:
    """Return the file of a SQLite URI, and the name by which `sqlite3.connect(uri=True)` opens it."""
    name, _, query = uri.partition(":///")[2].partition("?")
    path = Path(unquote(name[5:]) if name.startswith("file:") else name)
    if not path.is_absolute() or "mode=memory" in query:
        raise Problem(f"{uri} is lost with the job: write sqlite:////FOLDER/mlflow.db, on a volume")
    vfs = re.search(r"\bvfs=[\w-]+", query)
    return path, f"file:{quote(str(path))}" + (f"?{vfs.group()}" if vfs else "")


def is_ours(name: str, root: Path, store: Path) -> bool:
    """Tell whether an entry of `root` belongs to the store below it: copies beside a database do as well."""
    real, folder = store.resolve(), root.resolve()
    top = real.relative_to(folder).parts[:1]
    copies = (real.name, store.name) if real.is_file() and real.parent == folder else ()
    return name in OURS or name in top or name.startswith((".", *copies))


def beside(root: Path, store: Path) -> list[str]:
    """Return the names of what lies beside a store in `root` and is not ours: artifacts, mostly."""
    return sorted(entry.name for entry in root.iterdir() if not is_ours(entry.name, root, store))


def move_artifacts(root: Path, store: Path) -> None:
    """Move the artifacts beside a store into `artifacts`; when it was interrupted, the next call goes on."""
    moving = root / MOVING
    moving.mkdir(exist_ok=True)
    for name in beside(root, store):
        (root / name).rename(moving / name)
    moving.rename(root / "artifacts")


def artifacts_folder(destination: Path, store: Path) -> Path:
    """Return the folder to serve artifacts from: never one that holds the store, unless artifacts lie there.

    `mlflow-artifacts:/…` URIs are relative to it, so what lies beside an existing store stays served.
    """
    root, inside = destination.resolve(), store.resolve()
    if root not in (inside, *inside.parents):
        return destination
    served = destination / "artifacts"
    if (root / MOVING).is_dir():
        move_artifacts(root, inside)
    others = beside(root, inside)
    if others and inside.exists() and not served.is_dir():
        say(f"WARNING: the database {store} lies among artifacts ({', '.join(others[:3])} in {destination}):")
        say("WARNING: over HTTP, whoever reaches this server can read, replace and delete it, backups too.")
        say("WARNING: `make mlflow-upgrade` moves them apart. By hand: stop the server, make the folder")
        say(f"WARNING: {served}, and move all but the database into it.")
        return destination
    if others:
        say(f"artifacts are in {served}; not served: {', '.join(others[:3])} in {destination}")
    served.mkdir(exist_ok=True)
    return served


def package(name: str) -> Path:
    """Return the folder of an installed package, else an empty path. Importing MLflow would take seconds."""
    spec = importlib.util.find_spec(name)
    return Path(next(iter(spec.submodule_search_locations or [""]))) if spec else Path()


def mlflow_version() -> str:
    """Return the version of the installed MLflow."""
    text = (package("mlflow") / "version.py").read_text("utf-8")
    found = re.search(r'VERSION = "(.*)"', text)
    return found.group(1) if found else "?"


def has_sqlalchemy_2() -> bool:
    """Tell whether SQLAlchemy is 2.0 or newer: it knows psycopg 3, and pools SQLite's connections."""
    return (package("sqlalchemy") / "dialects/postgresql/psycopg.py").exists()


def is_current(revision: str | None, where: object) -> bool:
    """Tell whether a schema is the installed MLflow's newest; Problem when only a newer MLflow knows it."""
    known: set[str] = set()
    parents: set[str] = set()
    for script in package("mlflow").glob("store/db_migrations/versions/*.py"):
        for down, value in re.findall(r"^(down_)?revision\b[^=\n]*=(.*)$", script.read_text("utf-8"), re.M):
            (parents if down else known).update(re.findall(r"\w{6,}", value))
    if revision and revision not in known:
        raise Problem(f"{where} has the schema {revision} of a newer MLflow; nothing changed: use its image")
    return revision in known - parents


def run_upgrade(uri: str, fresh: bool) -> None:
    """Create or upgrade MLflow's tables, in a child; the server will share what is imported for it."""
    if FORKS:
        importlib.import_module("mlflow.store.db.utils")
    in_child(upgrade_schema, uri, fresh)


def upgrade_schema(uri: str, fresh: bool) -> None:
    """Create or upgrade MLflow's tables. Changes how everything logs, so it runs in a child."""
    if not fresh:
        gc.enable()  # a large store makes garbage while it is changed
    logging.disable(logging.CRITICAL)  # a line for each of sixty migrations
    utils = importlib.import_module("mlflow.store.db.utils")
    engine = utils.create_sqlalchemy_engine(uri)
    (utils._initialize_tables if fresh else utils._upgrade_db)(engine)


def in_child(work: Callable[..., None], *arguments: object) -> None:
    """Run `work` in a forked process, which leaves no trace in this one; exit when it fails."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work(*arguments)
            code = 0
        except Exception as error:
            say(explain(error))
        finally:
            os._exit(code)
    try:
        status = os.waitpid(child, 0)[1]
    except SystemExit:
        os.kill(child, signal.SIGKILL)
        raise
    if os.WIFSIGNALED(status):
        raise Problem(f"preparing the database was ended by signal {os.WTERMSIG(status)} (9: out of memory?)")
    if status:
        sys.exit(1)


def wait(attempt: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what `attempt` does once it raises no OSError; Problem after `seconds`."""
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            return attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Problem(f"{what}: not within {seconds:.0f} s ({error})") from error
            if not told:
                say(f"waiting up to {seconds:.0f} s for {what}")
            told = True
            time.sleep(0.5)


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


def sqlite_revision(database: sqlite3.Connection) -> str | None:
    """Return the revision of the schema, "" where tables have none, None where there are no tables."""
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    query = SCHEMA_QUERY if "alembic_version" in tables else "SELECT ''"
    found: str = database.execute(query).fetchone()[0]
    return found or ("" if tables - {"alembic_version"} else None)


def copy_sqlite(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database in one transaction. Python by itself would wait for ever for one that is locked."""

    def check(status: int, _left: int, _total: int) -> None:
        if status in (5, 6):  # SQLITE_BUSY and SQLITE_LOCKED, after the time that the connection waits
            raise sqlite3.OperationalError("database is locked")

    source.backup(target, progress=check)


def save_backup(copy: Path, path: Path, revision: str) -> None:
    """Keep `copy` in `backups` beside the database `path`, and the newest BACKUPS_KEPT only."""
    folder = path.parent / "backups"
    folder.mkdir(exist_ok=True)
    backup = folder / f"{path.stem}-{revision or 'none'}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
    part = folder / f".{path.stem}.part"  # one name, so that what a crash leaves is overwritten
    try:
        shutil.copyfile(copy, part)
        part.replace(backup)
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


def unfinished(path: Path) -> Path:
    """Return the file that is beside a SQLite database while more than the database is changed."""
    return path.with_name(f".{path.name}.unfinished")


def refuse_unfinished(is_there: bool, where: object) -> None:
    """Raise Problem where a restore or an upgrade has been interrupted."""
    if is_there:
        raise Problem(f"a restore or an upgrade of {where} was interrupted: run the same target again")


def prepare_sqlite(uri: str, timeout: float) -> None:
    """Create or upgrade a SQLite database; Problem for whatever would break it later."""
    path, target = sqlite_file(uri)
    dotfile = "vfs=unix-dotfile" in target
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_unfinished(unfinished(path).exists(), path)
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


def sql_uri(uri: str) -> str:
    """Return the URI of a database server with a driver that is installed; other dialects are left alone."""
    scheme, _, rest = uri.partition("://")
    kind, _, driver = scheme.partition("+")
    kind = {"postgres": "postgresql", "mariadb": "mysql"}.get(kind, kind)
    if rest.split("/")[0].count("@") > 1:
        raise Problem("backend_store_uri: the password has an @ in it; write it as %40")
    port = urlsplit(uri).netloc.rpartition("@")[2].partition(":")[2]
    if not re.fullmatch(r"\d*|.*\].*", port) or re.match(r"[^@/?#]*:[^@/?#]*[?#/][^@=]*@", rest):
        # Nothing of it is shown: it may be the password, of which a part would pass for host and port.
        raise Problem(
            "backend_store_uri: the port is no number; write a / ? # of the password as %2F %3F %23"
        )
    drivers = {name: module for name, module in DRIVERS.get(kind, {}).items() if driver in ("", name)}
    usable = [name for name, module in drivers.items() if importlib.util.find_spec(module)]
    if "psycopg" in usable and not has_sqlalchemy_2():
        usable.remove("psycopg")
    if drivers and not usable:
        raise Problem(f"{kind} needs the driver {' or '.join(drivers)}: take an image that has it (…-full)")
    return f"{kind}+{usable[0]}://{rest}" if usable else uri


def sql_revision(session: Any) -> str | None:
    """Return the revision of the schema, "" where tables have none, None where there are none of MLflow's."""
    alchemy = importlib.import_module("sqlalchemy")
    tables = set(alchemy.inspect(session).get_table_names())
    query = SCHEMA_QUERY if "alembic_version" in tables else "SELECT ''"
    found: str = session.execute(alchemy.text(query)).scalar()
    return found or ("" if "experiments" in tables else None)


def prepare_sql(uri: str, timeout: float, changing: bool = False) -> None:
    """Wait for a database server, upgrade the schema once; a task that is `changing` it has marked it."""
    alchemy = importlib.import_module("sqlalchemy")
    url = urlsplit(uri)
    kind = url.scheme.partition("+")[0]
    where = f"{kind} database at {url.hostname}:{url.port or 'its usual port'}"
    options = {"isolation_level": "AUTOCOMMIT", "connect_args": {"connect_timeout": 10}}
    try:
        engine = alchemy.create_engine(uri, **(options if kind in DRIVERS else {}))
    except (ImportError, ValueError, alchemy.exc.ArgumentError) as error:
        raise Problem(f"backend_store_uri {uri}: {error}") from error

    def connect() -> Any:
        try:
            return engine.connect()
        except alchemy.exc.DBAPIError as error:
            if not re.search(HOPELESS, str(error.orig), re.I):
                raise OSError(str(error.orig)) from None
            raise Problem(f"{where}: {error.orig}; correct backend_store_uri or the database") from None

    with wait(connect, timeout, where) as session:
        refuse_unfinished(not changing and alchemy.inspect(session).has_table(UNFINISHED), where)
        if is_current(sql_revision(session), where):
            return
        lock = {  # both give up after UPGRADE_WAIT, and are freed with the session
            "postgresql": "SELECT set_config('lock_timeout', '{:.0f}s', false), pg_advisory_lock(5077)",
            "mysql": "SELECT GET_LOCK('mlflow schema', {})",
        }.get(kind, "SELECT 1")
        session.execute(alchemy.text(lock.format(UPGRADE_WAIT)))
        found = sql_revision(session)
        if not is_current(found, where):
            say(f"{where}: " + ("creating the schema" if found is None else f"upgrading the schema {found}"))
            run_upgrade(uri, found is None)


def store_path(uri: str) -> Path | None:
    """Return the file or folder of a store on a volume, None for a database server."""
    if uri.startswith("sqlite"):
        return sqlite_file(uri)[0]
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path)).absolute()
    return None if "://" in uri else Path(uri).absolute()


def locate(env: MutableMapping[str, str]) -> tuple[str, str]:
    """Return the backend store's URI and the artifacts destination that the settings mean."""
    destination = re.sub("^file://", "", env.get("MLFLOW_ARTIFACTS_DESTINATION", ""))
    if not destination:
        raise Problem("artifacts_destination is empty: set it to a folder on a volume, or to s3://…")
    uri = env.get("MLFLOW_BACKEND_STORE_URI", "").strip() or choose_backend(destination)
    return (uri if store_path(uri) else sql_uri(uri)), destination


def store_defaults(uri: str, workers: int) -> dict[str, str]:
    """Return MLflow's variables for a kind of store: pools in which 64 clients at once find a connection."""
    if uri.startswith("sqlite"):
        if not has_sqlalchemy_2():  # without a pool
            return {}
        # One for each thread, even where it is 40; but one that is kept open keeps 2 MB of the database.
        return {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "40"}
    if store_path(uri):
        return {"MLFLOW_ALLOW_FILE_STORE": "true"}
    overflow = max(80 // workers, 10) - 5  # PostgreSQL allows 100 connections, and MLflow keeps two pools
    return {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(overflow)}


def uvicorn_options() -> str:
    """Return options for the installed uvicorn, which may kill a worker that is busy for 5 s."""
    config = package("uvicorn") / "config.py"
    checks = config.is_absolute() and "timeout_worker_healthcheck" in config.read_text("utf-8")
    patience = " --timeout-worker-healthcheck 30" if checks else ""
    return f"--no-access-log --timeout-graceful-shutdown 5{patience}"


def prepare_store(uri: str, destination: str, timeout: float) -> str:
    """Prepare the backend store; return the destination that the server is to have."""
    store = store_path(uri)
    if not is_remote(destination):
        folder = Path(destination).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        destination = str(artifacts_folder(folder, store) if store else folder)
    if uri.startswith("sqlite"):
        prepare_sqlite(uri, min(timeout, SQLITE_WAIT))
    elif store:
        say(f"{store} is a file store, which MLflow gives up; move it to a database while no server runs:")
        say(f"mlflow migrate-filestore --source {store} --target sqlite:////FOLDER/mlflow.db")
    else:
        prepare_sql(uri, timeout)
    return destination


def prepare(env: MutableMapping[str, str]) -> list[str]:
    """Prepare the store and complete `env` for the server; return the server's command."""
    env.update({name: value for name, value in DEFAULTS.items() if not env.get(name)})
    mode = env.get("MLFLOW_ACTION_MODE", "").strip().lower() or "server"
    if mode not in ("server", "ui"):
        raise Problem(f"mode is {env['MLFLOW_ACTION_MODE']!r}: set it to server or ui")
    try:
        extra = shlex.split(env.get("MLFLOW_ACTION_EXTRA_PARAMS", ""))
        timeout = float(env.get("MLFLOW_ACTION_DATABASE_TIMEOUT") or 120)
    except ValueError as error:
        raise Problem(f"extra_params or MLFLOW_ACTION_DATABASE_TIMEOUT: {error}") from error
    options = {word.partition("=")[0] for word in extra}
    if options & OWN_INPUTS:
        raise Problem(f"extra_params has {', '.join(options & OWN_INPUTS)}: use the input for it")
    if package("mlflow") == Path():
        raise Problem(f"MLflow is not installed for {sys.executable}: take another image")
    uri, destination = locate(env)
    destination = prepare_store(uri, destination, timeout)
    env["MLFLOW_BACKEND_STORE_URI"], env["MLFLOW_ARTIFACTS_DESTINATION"] = uri, destination
    env["MLFLOW_PORT"] = env.get("NEURO_JOB_HTTP_PORT") or env.get("MLFLOW_PORT") or "5000"
    words = f"{' '.join(extra)} -w {env['MLFLOW_WORKERS']}"
    workers = re.search(r"(?:-w|--workers)[ =]*([1-9]\d*)", words)
    defaults = store_defaults(uri, int(workers.group(1)) if workers else 1)
    if not options & {"--gunicorn-opts", "--waitress-opts", "--dev"} and not env.get("MLFLOW_GUNICORN_OPTS"):
        defaults["MLFLOW_UVICORN_OPTS"] = uvicorn_options()
    if mode == "ui":
        defaults.update({"MLFLOW_SERVE_ARTIFACTS": "false", "MLFLOW_DEFAULT_ARTIFACT_ROOT": destination})
    env.update({name: value for name, value in defaults.items() if not env.get(name)})
    env.update({name: value for name, value in names(env).items() if not env.get(name)})
    if (package("mlflow") / "server/auth").exists() and package("flask_wtf") == Path():
        say("without flask-wtf MLflow answers some concurrent searches with HTTP 500: take a -full image")
    say(f"MLflow {mlflow_version()}, {mode} mode, backend store {uri}, artifacts {destination}", sys.stdout)
    return [sys.executable, "-m", "mlflow", "server", *extra]


def prepare_to_fork() -> None:
    """Close the idle connections of SQLAlchemy's engines, which no child may use; keep what is shared so."""
    engine = importlib.import_module("sqlalchemy.engine").Engine
    for thing in gc.get_objects():
        if issubclass(type(thing), engine):
            thing.dispose()
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, what is shared


def send_at_once(config: Any) -> None:
    """Let uvicorn's workers send small answers at once: asyncio asks for it only where there is one worker.

    Otherwise the second packet of an answer waits for the client's delayed acknowledgement, 40 ms each time.
    """
    bind = config.bind_socket

    def bind_socket(self: Any) -> socket.socket:
        listener: socket.socket = bind(self)
        with suppress(OSError):  # it may be no TCP socket
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # those it accepts inherit that
        return listener

    config.bind_socket = bind_socket


def limit_threads(server: Any) -> None:
    """Let each of uvicorn's workers answer with THREADS threads: anyio's 40 take memory and win nothing."""
    startup = server.startup

    async def limited(self: Any, *arguments: Any, **options: Any) -> None:
        with suppress(Exception):  # the limit belongs to the event loop, so that it can be set only here
            importlib.import_module("anyio.to_thread").current_default_thread_limiter().total_tokens = THREADS
        await startup(self, *arguments, **options)

    server.startup = limited


def run_web_server(command: list[str], env: dict[str, str]) -> None:
    """Run MLflow's command for uvicorn or gunicorn in this process, whose workers then share its imports.

    Where they cannot, because MLflow or its app are not what they are known to be, the command starts apart.
    """
    os.environ.update(env)
    start = 3 if command[1] == "-m" else 1
    module = Path(command[start - 1]).name
    try:
        importlib.import_module(module)  # MLflow checks host names only where it finds a web server imported
        for part in ("mlflow.server", re.split("[:(]", command[-1])[0]):  # their routes follow from `env`
            importlib.reload(sys.modules[part]) if part in sys.modules else importlib.import_module(part)
        if module == "uvicorn":
            workers: Any = importlib.import_module("uvicorn._subprocess")
            workers.spawn = multiprocessing.get_context("fork")
            send_at_once(importlib.import_module("uvicorn.config").Config)
            limit_threads(importlib.import_module("uvicorn.server").Server)
        prepare_to_fork()
        if threading.active_count() > 1:
            raise RuntimeError("the app has started a thread")
    except Exception as error:
        say(f"the web server imports MLflow anew: {error!r}")
        os.execvp(command[0], command)  # noqa: S606
    gc.enable()
    os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in END])
    sys.argv = [module, *command[start:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_mlflow(command: list[str]) -> None:
    """Run `python -m mlflow …` in this process, which becomes the web server, or forks it for a job runner.

    So MLflow is imported once, not once here and once in each worker, which took most of the time and memory.
    """
    for number in END:
        signal.signal(number, signal.SIG_DFL)
    server: Any = importlib.import_module("mlflow.server")
    apart: Any = getattr(server, "_exec_cmd", None)  # of MLflow 2 and 3

    def execute(words: list[str], **options: Any) -> Any:
        known = re.search("uvicorn|gunicorn", " ".join(words[:3])) and "--reload" not in words
        if not known or threading.active_count() > 1:  # a fork has none of the other threads
            return apart(words, **options)
        arguments = (words, options.get("extra_env") or {})
        if options.get("synchronous", True) or os.environ[JOBS].lower() not in ("true", "1"):
            run_web_server(*arguments)  # MLflow would only wait for it
            sys.exit()
        prepare_to_fork()
        child: Any = multiprocessing.get_context("fork").Process(target=run_web_server, args=arguments)
        child.start()
        child.poll, child.wait = lambda: child.exitcode, child.join
        child.send_signal = lambda number: os.kill(child.pid, number)
        for number in END:
            signal.signal(number, lambda *_: None)  # the group has it, and the child ends in its own time
        return child

    server._exec_cmd = execute
    sys.argv = command[2:]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


def serve() -> int:
    """Prepare, then become the server; return the exit code."""
    gc.disable()  # until all is imported: there is no garbage to find
    try:
        command = prepare(os.environ)
    except Exception as error:
        say(explain(error))
        return 1
    if not FORKS:
        os.execv(command[0], command)  # noqa: S606
    sys.path[0] = str(Path.cwd())  # as with `python -m`
    run_mlflow(command)
    return 0


def supervise(server: int) -> int:
    """Pass signals on to the server, reap the orphans of PID 1; return the server's exit code."""
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)  # first: the next signal may come while this one is handled
        with suppress(ProcessLookupError):
            os.killpg(server, number if len(asked) == 1 else signal.SIGKILL)

    for number in END:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
    pid, status = os.wait()
    while pid != server:
        pid, status = os.wait()
    with suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)  # whatever is left of its group
    if os.WIFSIGNALED(status):
        cause = os.WTERMSIG(status)
        return 0 if cause in asked else 128 + cause  # one worker of uvicorn ends so, when it has tidied up
    if not status and not asked:  # `mlflow server` returns 0 even where uvicorn has failed
        say("the server has ended by itself; see its words above")
        return 1
    return os.WEXITSTATUS(status)


def main() -> int:
    """Start the server as a child, which keeps this process small; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END)  # until there is somebody to pass them on to
    child = os.fork()
    with suppress(OSError):
        os.setpgid(child, 0)  # in both processes: neither waits for the other
    if child:
        return supervise(child)
    for number in END:
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # also for what is prepared here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
    return serve()


if __name__ == "__main__":
    sys.exit(main())
