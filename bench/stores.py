"""The backend stores of the contenders: SQLite files, and databases of a PostgreSQL cluster of our own."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from machine import Unable, free_port, program

HERE = Path(__file__).parent
SCHEMA = """
import logging, sys
logging.disable(logging.CRITICAL)
import mlflow.store.db.utils as utils
engine = utils.create_sqlalchemy_engine(sys.argv[1])
utils._initialize_tables(engine)
"""
EXPERIMENTS = """
INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active'), (1, 'bench', 'mlflow-artifacts:/1', 'active')
"""
RUNS = "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) SELECT "
RUN = "'run' || (100000000 + i)"
FILL = [
    f"INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, "
    f"artifact_uri, experiment_id) {RUNS} {RUN}, 'run-' || i, 'LOCAL', 'user', 'FINISHED', "
    f"1700000000000 + i, 1700000001000 + i, 'active', 'mlflow-artifacts:/1/' || i, 1 FROM n",
    *(
        f"INSERT INTO {table} (key, value, timestamp, step, is_nan, run_uuid) "
        f"{RUNS} k, i * 0.5, 1700000000000, 1, FALSE, {RUN} FROM n, "
        "(SELECT 'loss' AS k UNION SELECT 'accuracy' UNION SELECT 'f1' UNION SELECT 'a' UNION SELECT 'lr') x"
        for table in ("metrics", "latest_metrics")
    ),
    f"INSERT INTO params (key, value, run_uuid) {RUNS} k, 'value ' || i, {RUN} FROM n, "
    "(SELECT 'model' AS k UNION SELECT 'epochs' UNION SELECT 'rate' UNION SELECT 'b' UNION SELECT 'seed') x",
    f"INSERT INTO tags (key, value, run_uuid) {RUNS} k, 'user', {RUN} FROM n, "
    "(SELECT 'mlflow.user' AS k UNION SELECT 'mlflow.source.name') x",
]
"""Runs of experiment 1 numbered from `first` to `last`: 5 metrics, 5 parameters and 2 tags each."""


class Store:
    """Databases, each a copy of a template with MLflow's schema and some runs in it, made once by name."""

    kind = ""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = dict(env)
        self.made = 0
        self.templates: set[str] = set()

    def empty(self) -> str:
        """Return the URI of a new database without tables."""
        self.made += 1
        return self._create(f"bench{self.made}")

    def filled(self, python: Path, runs: int) -> str:
        """Return the URI of a new database with the schema of the MLflow of `python`, and `runs` runs."""
        template = f"template_{python.parents[1].name}_{runs}".replace("-", "_").replace(".", "_")
        if template not in self.templates:
            uri = self._create(template)
            env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
            done = subprocess.run(
                [python, "-c", SCHEMA, uri], env=env, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise Unable(f"no schema in {uri}: {done.stderr.strip()[-300:]}")
            self.execute(uri, EXPERIMENTS)
            self.fill(uri, 1, runs)
            self.templates.add(template)
        self.made += 1
        return self._create(f"bench{self.made}", template)

    def fill(self, uri: str, first: int, last: int) -> None:
        """Add the runs numbered from `first` to `last`, within the database: the API takes minutes."""
        if first <= last:
            for statement in FILL:
                self.execute(uri, statement.format(first=first, last=last))
            self.execute(uri, "ANALYZE")

    def execute(self, uri: str, statement: str) -> None:
        """Run a statement."""
        raise NotImplementedError

    def size(self, uri: str) -> int:
        """Return the size of a database in bytes."""
        raise NotImplementedError

    def _create(self, name: str, template: str = "") -> str:
        raise NotImplementedError

    def close(self) -> None:
        """End what has been started."""


class Sqlite(Store):
    """One file for each database."""

    kind = "SQLite"

    def execute(self, uri: str, statement: str) -> None:
        """Run a statement."""
        with closing(sqlite3.connect(self._file(uri), 60)) as database, database:
            database.execute(statement)

    def size(self, uri: str) -> int:
        """Return the size of a database in bytes."""
        return self._file(uri).stat().st_size

    def _file(self, uri: str) -> Path:
        return Path(uri.removeprefix("sqlite:///"))

    def _create(self, name: str, template: str = "") -> str:
        path = self.folder / name / "mlflow.db"
        path.parent.mkdir()
        if template:
            shutil.copyfile(self.folder / template / "mlflow.db", path)
        return f"sqlite:///{path}"


class Postgres(Store):
    """A cluster on loopback, in a folder of its own; run by an unprivileged user where we are root."""

    kind = "PostgreSQL"

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder, {})
        places = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
        initdb, self.pg_ctl, self.psql = (
            program(name, "apt-get install postgresql", *places) for name in ("initdb", "pg_ctl", "psql")
        )
        # Sockets have short paths only, and an unprivileged user reads no folder of root's.
        self.home = Path(tempfile.mkdtemp(prefix="mlflow-pg-", dir="/tmp"))
        self.user: list[str] = []
        if not os.geteuid():
            os.chown(self.home, 65534, 65534)
            self.user = [program("setpriv", "apt-get install util-linux"), "--reuid=65534", "--regid=65534"]
            self.user.append("--clear-groups")
        self.port = free_port()
        self._run(
            initdb, "-D", f"{self.home}/data", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-locale"
        )
        options = f"-p {self.port} -k {self.home} -c listen_addresses=127.0.0.1"
        # `env` slows fsync down, which is the database's here and not the server's.
        self._run(
            self.pg_ctl,
            "-D",
            f"{self.home}/data",
            "-l",
            f"{self.home}/log",
            "-o",
            options,
            "-w",
            "start",
            **env,
        )

    def _run(self, *words: str, **env: str) -> str:
        with tempfile.TemporaryFile("w+", errors="replace") as out:  # a pipe would stay open with the server
            command = [*self.user, *words]
            done = subprocess.run(
                command, cwd="/", env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT, check=False
            )
            out.seek(0)
            said = out.read()
        if done.returncode:
            raise Unable(f"{Path(words[0]).name} failed: {said.strip()[-300:]}")
        return said

    def execute(self, uri: str, statement: str) -> None:
        """Run a statement."""
        self._ask(uri, statement)

    def _ask(self, uri: str, statement: str) -> str:
        return self._run(self.psql, uri, "-v", "ON_ERROR_STOP=1", "-qAtc", statement)

    def size(self, uri: str) -> int:
        """Return the size of a database in bytes."""
        return int(self._ask(uri, "SELECT pg_database_size(current_database())"))

    def _uri(self, name: str) -> str:
        return f"postgresql://mlflow@127.0.0.1:{self.port}/{name}"

    def _create(self, name: str, template: str = "") -> str:
        self.execute(self._uri("postgres"), f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        return self._uri(name)

    def close(self) -> None:
        """End the cluster and delete it."""
        self._run(self.pg_ctl, "-D", f"{self.home}/data", "-m", "immediate", "stop")
        shutil.rmtree(self.home)
