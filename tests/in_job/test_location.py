"""Where runs and artifacts are, without a server."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from in_job import location, words


@pytest.mark.parametrize(
    ("uri", "path", "opened"),
    [
        pytest.param("sqlite:////vol/mlflow.db", "/vol/mlflow.db", "file:/vol/mlflow.db", id="absolute"),
        pytest.param(
            "sqlite+pysqlite:////v/m.db?timeout=9", "/v/m.db", "file:/v/m.db", id="driver-and-option"
        ),
        pytest.param(
            "sqlite:///file:/v/m.db?vfs=unix-dotfile&uri=true",
            "/v/m.db",
            "file:/v/m.db?vfs=unix-dotfile",
            id="dotfile",
        ),
        pytest.param("sqlite:////a b/50%.db", "/a b/50%.db", "file:/a%20b/50%25.db", id="odd-signs"),
    ],
)
def test_sqlite_file(uri: str, path: str, opened: str) -> None:
    assert location.sqlite_file(uri) == (Path(path), opened)


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("sqlite:///mlflow.db", id="relative"),
        pytest.param("sqlite://", id="nothing"),
        pytest.param("sqlite:///:memory:", id="memory"),
        pytest.param("sqlite:///file:/x?mode=memory&uri=true", id="memory-by-option"),
        pytest.param("sqlite:///file:x.db?uri=true", id="relative-file"),
    ],
)
def test_a_database_that_would_be_lost_with_the_job_is_refused(uri: str) -> None:
    with pytest.raises(words.Problem, match="lost with the job: write sqlite:////"):
        location.sqlite_file(uri)


def test_the_default_store_is_a_database_on_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert location.choose_backend(str(tmp_path / "vol")) == f"sqlite:///{tmp_path}/vol/mlflow.db"
    with pytest.raises(
        words.Problem, match="backend_store_uri is empty and artifacts_destination s3://bucket"
    ):
        location.choose_backend("s3://bucket")


@pytest.mark.parametrize("place", ["mlruns", "vol/mlruns", "vol"])
def test_an_old_file_store_is_kept_until_there_is_a_database(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / place / "0").mkdir(parents=True)
    (tmp_path / place / "0" / "meta.yaml").touch()
    assert location.choose_backend(str(tmp_path / "vol")) == str(tmp_path / place)
    (tmp_path / "vol").mkdir(exist_ok=True)
    (tmp_path / "vol" / "mlflow.db").touch()
    assert location.choose_backend(str(tmp_path / "vol")) == f"sqlite:///{tmp_path}/vol/mlflow.db"


def modules(monkeypatch: pytest.MonkeyPatch, *present: str, sqlalchemy_2: bool = True) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in present or None)
    monkeypatch.setattr(location, "has_sqlalchemy_2", lambda: sqlalchemy_2)


@pytest.mark.parametrize(
    ("uri", "present", "result"),
    [
        pytest.param("postgres://u@h/d", ["psycopg"], "postgresql+psycopg://u@h/d", id="postgres"),
        pytest.param(
            "postgresql://u@h/d", ["psycopg", "psycopg2"], "postgresql+psycopg2://u@h/d", id="preferred"
        ),
        pytest.param("postgresql://u@h/d", ["psycopg"], "postgresql+psycopg://u@h/d", id="psycopg"),
        pytest.param("mysql://u@h/d", ["MySQLdb"], "mysql+mysqldb://u@h/d", id="mysqldb"),
        pytest.param("mariadb://u@h/d", ["pymysql"], "mysql+pymysql://u@h/d", id="mariadb"),
        pytest.param("mysql+pymysql://u@h/d", ["pymysql", "MySQLdb"], "mysql+pymysql://u@h/d", id="chosen"),
        pytest.param("mssql+pyodbc://u@h/d", [], "mssql+pyodbc://u@h/d", id="other"),
    ],
)
def test_drivers(uri: str, present: list[str], result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, *present)
    assert location.sql_uri(uri) == result


def test_psycopg_3_needs_sqlalchemy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, "psycopg", sqlalchemy_2=False)
    with pytest.raises(words.Problem, match="postgresql needs the driver psycopg2 or psycopg"):
        location.sql_uri("postgresql://u@h/d")


def test_a_missing_driver_and_an_ambiguous_password_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch)
    with pytest.raises(words.Problem, match="postgresql needs the driver psycopg2 or psycopg"):
        location.sql_uri("postgresql://u@h/d")
    with pytest.raises(words.Problem, match="mysql needs the driver mysqldb:"):
        location.sql_uri("mysql+mysqldb://u@h/d")
    with pytest.raises(words.Problem, match="write it as %40") as problem:
        location.sql_uri("postgresql://u:s3c@ret@h/d")
    assert "s3c" not in str(problem.value)
    for sign, first in itertools.product("/?#", ("s3c", "123", "")):
        with pytest.raises(words.Problem, match="%2F %3F %23") as problem:
            location.sql_uri(f"postgresql://u:{first}{sign}ret@h/d")
        assert not re.search("s3c|123|ret|\n", words.explain(problem.value))
