"""PostgreSQL and MariaDB, both real: waiting, one upgrade, many clients, and one line for every failure."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import SCRIPTS, Database, StartServer, burst, descendants, free_port, mlflow_python
from .places import Warm

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("warm")]
Refused = Callable[..., str]


def test_postgresql_is_prepared_once_for_two_servers_and_serves_64_clients(
    postgresql: Database, start: StartServer, warm: Warm, tmp_path: Path, template: Path
) -> None:
    postgresql.execute("CREATE DATABASE mlflow_many", "postgres")
    uri = postgresql.uri("mlflow_many", scheme="postgres")
    server = start(tmp_path / "volume", MLFLOW_BACKEND_STORE_URI=uri)
    code = "import sys; from in_job import database_server, location; "
    code += "database_server.prepare_sql(location.sql_uri(sys.argv[1]), 60)"
    other = warm.python(code, uri)
    server.wait_until_up()
    assert (other + server.log.read_text()).count("creating the schema") == 1
    with sqlite3.connect(template) as database:
        [head] = database.execute("SELECT version_num FROM alembic_version").fetchone()
    assert postgresql.execute("SELECT version_num FROM alembic_version", "mlflow_many") == head
    assert burst(server, clients=64, rounds=2) == []
    assert int(postgresql.execute("SELECT count(*) FROM pg_stat_activity", "postgres")) < 100
    text = server.log.read_text() + other
    assert Database.PASSWORD not in text
    assert Database.ESCAPED not in text
    assert f"postgresql+psycopg2://mlflow:***@127.0.0.1:{postgresql.port}/mlflow_many" in server.lines[-1]
    for pid in (server.process.pid, *descendants(server.process.pid)):
        assert Database.ESCAPED not in Path(f"/proc/{pid}/cmdline").read_text()


def test_postgresql_that_comes_up_later_is_waited_for(
    postgresql: Database, start: StartServer, tmp_path: Path
) -> None:
    server = start(
        tmp_path,
        MLFLOW_BACKEND_STORE_URI=postgresql.uri("mlflow", port=free_port()),
        MLFLOW_ACTION_DATABASE_TIMEOUT="2",
    )
    assert server.process.wait(60) == 1
    assert server.lines[0].startswith("mlflow-server: waiting up to 2 s for postgresql database")
    assert "not within 2 s" in server.lines[-1]
    assert len(server.lines) == 2


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_what_waiting_does_not_mend_is_told_at_once(
    kind: str, request: pytest.FixtureRequest, refused: Refused, tmp_path: Path
) -> None:
    database: Database = request.getfixturevalue(kind)
    where = f"{database.scheme} database at 127.0.0.1:{database.port}"
    line = refused(tmp_path, MLFLOW_BACKEND_STORE_URI=database.uri("mlflow", password="wrong"))
    assert line.startswith(where)
    assert "authentication failed" in line or "Access denied" in line
    line = refused(tmp_path, MLFLOW_BACKEND_STORE_URI=database.uri("mlflow_absent"))
    assert line.startswith(where)
    assert "mlflow_absent" in line
    assert Database.PASSWORD not in line
    connect = (
        "import sys; from in_job import location, sql\ntry: sql.connect(location.sql_uri(sys.argv[1]))\n"
    )
    connect += "except sql.Problem as problem: print(problem)"
    uri = database.uri("mlflow", password="wrong")
    said = mlflow_python(connect, uri, cwd=tmp_path, PYTHONPATH=str(SCRIPTS)).strip()
    assert said.startswith("the ")
    assert said.endswith("; correct backend_store_uri or the database")


UPGRADING = """
import sys
from in_job import database_server
from in_job.location import sql_uri
from in_job.sql import connect
from in_job.words import Problem

uri = sql_uri(sys.argv[1])
other = connect(uri)
other.exec_driver_sql(sys.argv[2])
database_server.UPGRADE_WAIT = 0.1
try:
    database_server.prepare_sql(uri, 10)
except Problem as problem:
    print(problem)
"""


@pytest.mark.parametrize(
    ("kind", "lock"),
    [
        ("postgresql", "SELECT pg_advisory_lock(5077)"),
        ("mariadb", "SELECT GET_LOCK(CONCAT('mlflow schema ', MD5(DATABASE())), 0)"),
    ],
)
def test_an_upgrade_that_does_not_end_is_not_joined(
    kind: str, lock: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database: Database = request.getfixturevalue(kind)
    database.execute("CREATE DATABASE mlflow_upgrading", *["postgres"] * (kind == "postgresql"))
    uri = database.uri("mlflow_upgrading")
    said = mlflow_python(UPGRADING, uri, lock, cwd=tmp_path, PYTHONPATH=str(SCRIPTS))
    where = f"{database.scheme} database at 127.0.0.1:{database.port}"
    assert said.startswith(f"another upgrade of the {where}: not within 0 s (held by another job)")


def test_missing_drivers_and_unknown_kinds(refused: Refused, tmp_path: Path) -> None:
    uri = "mysql+mysqldb://me:s3cret@127.0.0.1/d"
    assert refused(tmp_path, MLFLOW_BACKEND_STORE_URI=uri).startswith("mysql needs the driver mysqldb")
    line = refused(tmp_path, MLFLOW_BACKEND_STORE_URI="oracle://me:s3cret@127.0.0.1/d")
    assert "s3cret" not in line
    assert "backend_store_uri oracle://me:***@127.0.0.1/d" in line


def test_mariadb_is_prepared_and_served(mariadb: Database, start: StartServer, tmp_path: Path) -> None:
    mariadb.execute("CREATE DATABASE mlflow")
    server = start(tmp_path / "volume", MLFLOW_BACKEND_STORE_URI=mariadb.uri("mlflow")).wait_until_up()
    before = threading.active_count()
    assert server.lines[0].endswith("creating the schema")
    assert f"mysql+pymysql://mlflow:***@127.0.0.1:{mariadb.port}/mlflow" in server.lines[-1]
    assert burst(server, clients=16, rounds=1) == []
    assert threading.active_count() <= before
