"""Questions to databases that may not be there: nothing is found where there is nothing, and only there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from in_job import orphans, queries, sqlite

QUERY = "SELECT count(*) FROM experiments"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A database of MLflow, as little of it as is looked at."""
    path = tmp_path / "volume" / "artifacts" / "other.db"  # what is in the folder above is looked at, too
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE experiments (id)")
    return path


@pytest.fixture
def locked(other: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, held by somebody else."""
    short = sqlite.open_sqlite
    monkeypatch.setattr(queries, "open_sqlite", lambda uri: short(uri, 0.0))
    with closing(sqlite3.connect(other, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield other


def store(folder: Path) -> Any:
    """A store whose database and artifacts are in a folder."""
    path = folder / "mlflow.db"
    return SimpleNamespace(
        path=path, artifacts=folder, destination=str(folder), mixed=list, uri=f"sqlite:///{path}"
    )


def test_what_is_not_there_is_nothing(other: Path) -> None:
    assert queries.rows(f"sqlite:///{other}", QUERY) == [(0,)]
    assert queries.rows(f"sqlite:///{other}", "SELECT 1 FROM users") == []
    assert queries.rows(f"sqlite:///{other}", "SELECT name FROM experiments") == []
    assert queries.rows(f"sqlite:///{other.with_name('none.db')}", QUERY) == []


def test_what_is_locked_is_not_nothing(locked: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        queries.rows(f"sqlite:///{locked}", QUERY)


def test_other_files_beside_a_store_are_none_of_mlflows(other: Path) -> None:
    (other.parent / "Thumbs.db").write_bytes(b"no database")
    (other.parent / "empty.db").touch()
    (other.parent / "folder.db").mkdir()
    assert orphans.neighbours(store(other.parent)) == [other]


@pytest.mark.parametrize("name", ["a?b.db", "100%25.db", "a#b.db", "a b&c.db", "file:x.db"])
def test_any_name_may_be_a_databases(name: str, other: Path) -> None:
    found = other.rename(other.with_name(name))
    assert orphans.neighbours(store(other.parent)) == [found]


def test_no_artifact_is_orphaned_while_a_database_beside_cannot_be_read(
    locked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orphans, "references", lambda *_: (set(), set()))
    assert orphans.find(store(locked.parent), locked.parent, 0) == []
    said = capsys.readouterr().err
    assert f"WARNING: what {locked} refers to cannot be read (database is locked)" in said
    assert "until then no artifacts count as orphaned" in said
