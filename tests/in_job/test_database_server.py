"""PostgreSQL and MariaDB, both real: waiting, one upgrade, many clients, and one line for every failure."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import Database, StartServer, burst, descendants, free_port
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
