"""kill -9 before the server serves: the store is as it was or as it is to be, and the next call finishes."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.in_job.harness import (
    OLD_REVISION,
    SCRIPTS,
    Database,
    descendants,
    mlflow_python,
    old_database,
    preparing,
    python_with_mlflow,
)

from .conftest import Fault, MakeFault
from .harness import PostgreSQL, alive, namespaces, until_gone

pytestmark = pytest.mark.e2e
METRICS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {})
INSERT INTO metrics SELECT 'many', n, n, (SELECT min(run_uuid) FROM runs), n, 0 FROM numbers
"""
OLD_SCHEMA = """
import sys
from alembic import command
from mlflow.store.db import utils
engine = utils.create_sqlalchemy_engine(sys.argv[1])
utils.InitialBase.metadata.create_all(engine)
with engine.begin() as connection:
    config = utils._get_alembic_config(sys.argv[1].replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, sys.argv[2])
"""
PREPARE_SQL = """
import sys
from in_job import database_server, location
database_server.prepare_sql(location.sql_uri(sys.argv[1]), 60)
"""
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
State = list[tuple[str, ...]]


class OnSQLite:
    """Preparations of a SQLite database, a new one or MLflow 2.1.1's."""

    def __init__(self, folder: Path, old: bool, metrics: int) -> None:
        self.folder, self.path = folder, folder / "volume/mlflow.db"
        self.old, self.metrics = old, metrics

    def reset(self) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self.path.parent.mkdir()
        if self.old:
            old_database(self.path)
            with closing(sqlite3.connect(self.path)) as database:
                database.execute(METRICS.format(self.metrics))  # so that writing takes its time
                database.commit()

    def start(self, *prefix: str) -> subprocess.Popen[str]:
        return preparing(self.path, prefix, TMPDIR=str(self.path.parents[1]))

    def writes(self) -> bool:
        parts = (self.path.with_name(f"{self.path.name}-{part}") for part in ("journal", "wal"))
        return any(part.exists() and part.stat().st_size for part in parts)

    def state(self) -> State:
        """The schema and the sizes of tables, read off a copy: only the next call may mend the original."""
        folder = self.path.parent.with_name("copy")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.path.parent, folder)
        with closing(sqlite3.connect(folder / self.path.name)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = database.execute(
                "SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name"
            ).fetchall()
            names = [
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            counts = [
                (name, str(database.execute(f'SELECT count(*) FROM "{name}"').fetchone())) for name in names
            ]
        return [*rows, *sorted(counts)]


class OnPostgreSQL:
    """The same in PostgreSQL."""

    def __init__(self, server: Database, folder: Path, old: bool) -> None:
        self.server, self.folder, self.number = server, folder, 0
        self.template = PostgreSQL(server, f"template_{os.getpid()}_{int(old)}")
        if old:
            mlflow_python(OLD_SCHEMA, self.template.uri, OLD_REVISION, cwd=folder)
            self.template.query("INSERT INTO experiments (experiment_id, name) VALUES (1, 'old')")

    def reset(self) -> None:
        self.number += 1
        self.store = PostgreSQL(
            self.server, f"{self.template.database}_{self.number}", self.template.database
        )
        self.before = self.store.query(TABLES)

    def start(self, *prefix: str) -> subprocess.Popen[str]:
        command = [*prefix, python_with_mlflow(), "-c", PREPARE_SQL, self.store.uri]
        environ = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        return subprocess.Popen(command, cwd=self.folder, env=environ, stderr=subprocess.PIPE, text=True)

    def writes(self) -> bool:
        locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND database = "
        return self.store.query(
            locks + "(SELECT oid FROM pg_database WHERE datname = current_database())"
        ) != [("0",)]

    def state(self) -> State:
        tables = self.store.query(TABLES)
        names = [name for (name,) in tables if name in ("alembic_version", "experiments")]
        return [
            *tables,
            *(row for name in names for row in self.store.query(f'SELECT * FROM "{name}" ORDER BY 1')),
        ]


def kill(process: subprocess.Popen[str], fault: Fault, seconds: float, writes: Callable[[], bool]) -> None:
    """Kill a process and all below it within `seconds`; every second time as soon as it writes."""
    until_it_writes = fault.tried % 2 == 1
    end = time.monotonic() + (60 if until_it_writes else fault.random.uniform(0, seconds))
    while time.monotonic() < end and process.poll() is None and not (until_it_writes and writes()):
        time.sleep(0.001)
    time.sleep(fault.random.uniform(0, 0.03))
    tree = descendants(process.pid)
    if tree:
        os.kill(tree[0], signal.SIGKILL)
    process.communicate(timeout=30)
    until_gone(tree)


def prepare_often(place: OnSQLite | OnPostgreSQL, fault: Fault) -> None:
    """Kill the preparation of a store, look at it, and let the next call finish."""
    seconds, ends = 4.0, {"old": 0, "begun": 0, "new": 0}
    for _ in fault.tries():
        place.reset()
        old = place.state()
        kill(place.start(*namespaces()), fault, seconds, place.writes)
        found = place.state()
        began = time.monotonic()
        said = (next_call := place.start()).communicate(timeout=120)[1]
        assert next_call.returncode == 0, said
        seconds = time.monotonic() - began
        assert not list(place.folder.rglob("*.part"))
        if not old and found and set(found) < set(place.state()):
            ends["begun"] += 1  # MLflow makes its first tables in a transaction of their own
            continue
        assert found in (old, place.state())
        ends["old" if found == old else "new"] += 1
    fault.ended = "{old} old, {begun} begun, {new} new; the next call finished".format(**ends)


@pytest.mark.parametrize("old", [False, True], ids=["first-start", "upgrade"])
def test_a_preparation_is_killed(old: bool, tmp_path: Path, fault: MakeFault) -> None:
    with fault(f"kill -9 during {'the upgrade of 2.1.1' if old else 'first start'}, SQLite") as row:
        prepare_often(OnSQLite(tmp_path, old, row.pick(100, 100_000)), row)


def test_a_preparation_is_killed_in_postgresql(
    postgresql: Database, tmp_path: Path, full: bool, fault: MakeFault
) -> None:
    for old in (False, True) if full else (False,):
        with fault(f"kill -9 during {'the upgrade of 2.1.1' if old else 'first start'}, PostgreSQL") as row:
            prepare_often(OnPostgreSQL(postgresql, tmp_path, old), row)


def test_rendering_is_killed(workspace: Path, fault: MakeFault) -> None:
    program = [str(ROOT / ".mlflow/venv/bin/python"), str(ROOT / "scripts/render.py")]
    rendered = workspace / ".mlflow/action.yaml"
    environ = {"PATH": os.environ["PATH"], "HOME": str(workspace.parent)}
    (workspace / "action.yaml").write_bytes((ROOT / "action.yaml").read_bytes())

    def render(port: int) -> subprocess.Popen[str]:
        env = {**environ, "MLFLOW_PORT": str(port)}
        return subprocess.Popen(program, cwd=workspace, env=env, stdout=subprocess.PIPE, text=True)

    with fault("kill -9 during rendering") as row:
        assert render(7000).wait(60) == 0
        seconds, ends = 0.5, {"old": 0, "new": 0}
        for number in row.tries(short=3):
            old = rendered.read_bytes()
            process = render(7001 + number)
            time.sleep(row.random.uniform(0, seconds))
            process.kill()
            process.wait()
            assert not alive(process.pid)
            found = rendered.read_bytes()
            began = time.monotonic()
            assert render(7001 + number).wait(60) == 0
            seconds = time.monotonic() - began
            assert found in (old, rendered.read_bytes())
            assert old != rendered.read_bytes()
            ends["old" if found == old else "new"] += 1
        row.ended = "{old} old, {new} new; the next call finished".format(**ends)
