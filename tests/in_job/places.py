"""Tasks on stores, run as the job runs them but in forks of a process that has MLflow imported already."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.in_job.harness import MLFLOW_PYTHON, OLD_REVISION, Database, old_database, python_with_mlflow

USED = (
    "in_job.store_job",
    "mlflow.cli",
    "mlflow.store.db.utils",
    "mlflow.store.fs2db",
    "alembic.command",
    "boto3",
    "pymysql",
)
STORE_JOB = "import sys; from in_job import store_job; sys.exit(store_job.main())"
OLD_SCHEMA = """
import os
from in_job import location, schema, sql, tables
uri = location.sql_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
schema.create_schema(uri, os.environ["REVISION"])
with sql.transaction("sqlite:///" + os.environ["OLD"], "SERIALIZABLE") as old:
    with sql.transaction(uri, "READ COMMITTED") as new:
        tables.copy_tables(old, new, [name for name in sql.table_names(old) if name != "alembic_version"])
"""
CONTENT = """
import os, sqlalchemy
from in_job import location, sql, unfinished
uri = location.sql_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
with sql.connect(uri) as session:
    metadata = sqlalchemy.MetaData()
    metadata.reflect(session)
    for name, table in sorted(metadata.tables.items()):
        if name == unfinished.TABLE:  # beside what the store holds
            continue
        rows = sorted(map(repr, session.execute(table.select())))
        print(name, [str(column) for column in table.columns], rows)
"""


class Job:
    """A process that does a task."""

    def __init__(self, pid: int, out: Path) -> None:
        self.pid, self.home, self._out = pid, out.parent, out
        self.file = Path()
        """Where it keeps its result."""
        self._result: dict[str, Any] = {}

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._out.read_text("utf-8") if self._out.exists() else ""

    @property
    def code(self) -> int | None:
        """Its exit code, negative where a signal ended it, None while it runs."""
        file = self._out.with_name(f"{self._out.name}.code")
        return int(file.read_text()) if file.exists() else None

    def wait(self, seconds: float = 600) -> int:
        """Wait for its end and return its exit code."""
        deadline = time.monotonic() + seconds
        while (code := self.code) is None:
            assert time.monotonic() < deadline, f"still at work after {seconds} s:\n{self.said}"
            time.sleep(0.005)
        return code

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def result(self) -> dict[str, Any]:
        """What it has handed back, which is removed when it is read."""
        if self.file.is_file():
            self._result = json.loads(self.file.read_text("utf-8"))
            self.file.unlink()
        elif not self._result and self.code == 1:  # no space for it: the log has the error
            self._result = {"error": self.said.splitlines()[-1].partition("mlflow-server: ")[2]}
        return self._result


class Served:
    """A job with the methods of subprocess.Popen that tests of servers use."""

    def __init__(self, job: Job) -> None:
        self._job, self.pid = job, job.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        self.returncode = self._job.code
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("serve", timeout)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Forks:
    """A process that has imported modules, and whose forks run code."""

    def __init__(self, folder: Path, python: str, *modules: str, **env: str) -> None:
        self.folder, self._lock = folder, threading.Lock()
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(Path(__file__).with_name("warm.py")), *modules],
            cwd=folder,
            env={**env, "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def run(self, code: str, env: dict[str, str], out: Path, *argv: str) -> Job:
        """Run code in a process that has nothing but this environment and sys.argv, in the folder HOME."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"code": code, "env": env, "out": str(out), "argv": argv}
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return Job(int(self._process.stdout.readline()), out)

    def end(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(300)


class Warm(Forks):
    """The process whose forks do the tasks."""

    def __init__(self, folder: Path, *modules: str) -> None:
        self._env = {
            "PATH": f"{MLFLOW_PYTHON.parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT / 'scripts'}:{Path(__file__).parent}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        super().__init__(folder, python_with_mlflow(), *USED, *modules, **self._env)

    def start(self, code: str, *arguments: str, **env: str) -> Job:
        """Run code in a process of its own, in a folder of its own."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        (home / "tmp").mkdir()
        own = {**self._env, "HOME": str(home), "TMPDIR": str(home / "tmp")}
        return self.run(code, {**own, **env}, home / "said", "-c", *arguments)

    def serve(self, code: str, out: Path, **env: str) -> Served:
        """Run code as a program that has nothing but this environment, as subprocess.Popen would."""
        return Served(self.run(code, env, out, "-c"))

    def python(self, code: str, *arguments: str, **env: str) -> str:
        """Run code, which finds the arguments in sys.argv, and return what it printed on both streams."""
        job = self.start(code, *arguments, **env)
        assert job.wait() == 0, job.said
        return job.said


class Place:
    """A backend store and an artifacts destination, and the tasks on them."""

    def __init__(self, warm: Warm, folder: Path, uri: str = "", destination: str | Path = "", **env: str):
        self.warm, self.folder = warm, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "mlflow.db"
        self.uri = uri or f"sqlite:///{self.path}"
        self.destination = destination or folder / "artifacts"
        self.backups = folder / "backups"
        self.env = {
            "MLFLOW_BACKEND_STORE_URI": self.uri,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.destination),
            **env,
        }

    def start(self, task: str, patch: str = "", env: Mapping[str, str] | None = None, **options: Any) -> Job:
        """Start a task, after code that changes how it is done and may read more variables."""
        name = f".mlflow-result-{uuid.uuid4().hex}.json"
        words = {"do": task, "backups": str(self.backups), "result": name, **options}
        words["from"] = words.pop("source", "")
        code, variables = f"{patch}\n{STORE_JOB}", {**self.env, **(env or {})}
        job = self.warm.start(code, **variables, MLFLOW_STORE_TASK=json.dumps(words))
        job.file = self.backups / name
        return job

    def run(self, task: str, patch: str = "", **options: Any) -> dict[str, Any]:
        """Do a task that has to succeed, and return its result."""
        job = self.start(task, patch, **options)
        assert job.wait() == 0, job.said
        return job.result

    def refused(self, task: str, patch: str = "", **options: Any) -> str:
        """Do a task that has to end with an error, and return it."""
        job = self.start(task, patch, **options)
        assert job.wait() == 1, job.said
        assert "Traceback" not in job.said
        return str(job.result["error"])

    def backup(self, *, artifacts: bool = False) -> str:
        """Make a backup and return its name."""
        return str(self.run("backup", artifacts=artifacts)["name"])

    def restore(self, source: str, *, force: bool = False) -> dict[str, Any]:
        """Restore a backup."""
        return self.run("restore", source=source, force=force, check=False)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the SQLite database."""
        return query(self.path, sql)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query of a SQLite file, or change it."""
    with closing(sqlite3.connect(path, 20)) as database, database:
        return database.execute(sql).fetchall()


def content(path: Path) -> dict[str, list[str]]:
    """Return every row of every table of a SQLite file, each value with its type, in a fixed order."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for (name,) in names}


def schema(path: Path) -> dict[str, list[Any]]:
    """Return the columns of each table of a SQLite file, and the names of its indexes."""
    tables = query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
    indexes = query(path, "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name")
    return {
        "": indexes,
        **{name: query(path, f"SELECT * FROM pragma_table_xinfo('{name}')") for (name,) in tables},
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder by its path; our own files aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


@contextlib.contextmanager
def warm_process(folder: Path, *modules: str) -> Iterator[Warm]:
    """Yield the process whose forks do tasks; it imports these modules, too."""
    warm = Warm(folder, *modules)
    try:
        yield warm
    finally:
        warm.end()


def damage(path: Path, sound: Path, table: str = "metrics") -> None:
    """Make a file the copy of a SQLite database in which a table's first page is garbage."""
    shutil.copyfile(sound, path)
    [(page,)] = query(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'")
    [(size,)] = query(path, "PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def look(store: Place) -> object:
    """Return the tables and the rows of a store; SQLite's off a copy, as reading would mend the database."""
    if not store.uri.startswith("sqlite"):
        return store.warm.python(CONTENT, **store.env)
    with tempfile.TemporaryDirectory() as folder:
        for file in store.folder.glob("mlflow.db*"):
            shutil.copy(file, folder)
        path = Path(folder, "mlflow.db")
        return (content(path), schema(path)) if path.exists() else None


def old_place(warm: Warm, folder: Path, server: Database, name: str) -> Place:
    """Make a database with the data of MLflow 2.1.1 in a server."""
    if "mlflow_old" not in server.templates:
        server.create("mlflow_old")
        uri, first = server.uri("mlflow_old"), old_database(folder / "old.db")
        warm.python(OLD_SCHEMA, MLFLOW_BACKEND_STORE_URI=uri, OLD=str(first), REVISION=OLD_REVISION)
        first.unlink()
        server.templates.add("mlflow_old")
    server.create(name, "mlflow_old")
    return Place(warm, folder, server.uri(name))


def with_backup(place: Place, backup: Path, name: str = "backup.zip") -> str:
    """Put a backup among those of a store, and return its name there."""
    place.backups.mkdir(exist_ok=True)
    shutil.copyfile(backup, place.backups / name)
    return name
