"""A connection to PostgreSQL is asked before it is used, but for one that was used just now and is quiet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..harness import SCRIPTS, Database, mlflow_python

pytestmark = pytest.mark.e2e
CODE = """
import json, sys, time
import sqlalchemy
from in_job.serving import connections

uri, fresh = sys.argv[1], float(sys.argv[2])
asked, dialect = [], sqlalchemy.make_url(uri).get_dialect()
ask = dialect.do_ping
dialect.do_ping = lambda self, connection: asked.append(1) or ask(self, connection)
connections.FRESH = fresh
connections.look_before_asking(uri)
engine = sqlalchemy.create_engine(uri, pool_size=1, pool_pre_ping=True)
other = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")

def process():
    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()

first = process()
again = [process() for _ in range(3)]
quiet = len(asked)
with other.connect() as connection:
    connection.execute(sqlalchemy.text(f"SELECT pg_terminate_backend({first}, 30000)"))
new = process()
print(json.dumps([again == [first] * 3, quiet, new != first, len(asked) - quiet]))
"""


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize(
    ("fresh", "asked"),
    [pytest.param("60", 0, id="just-now"), pytest.param("0", 3, id="idle-before")],
)
def test_one_that_is_quiet_is_not_asked_and_one_that_has_ended_is_replaced(
    driver: str, fresh: str, asked: int, postgresql: Database, tmp_path: Path
) -> None:
    uri = postgresql.uri("postgres", scheme=f"postgresql+{driver}")
    said = mlflow_python(CODE, uri, fresh, cwd=tmp_path, PYTHONPATH=str(SCRIPTS))
    assert json.loads(said.splitlines()[-1]) == [True, asked, True, 1]


def test_a_sqlalchemy_that_is_not_known_asks_as_ever(tmp_path: Path) -> None:
    code = """
import sys, sqlalchemy
from in_job.serving import connections
sys.stderr = sys.stdout
connections.look_before_asking("sqlite://")
connections.look_before_asking("postgresql+absent://h/d")
"""
    said = mlflow_python(code, cwd=tmp_path, PYTHONPATH=str(SCRIPTS)).splitlines()
    assert len(said) == 1
    assert said[0].startswith("mlflow-server: each connection is asked before it is used, as SQLAlchemy is")
