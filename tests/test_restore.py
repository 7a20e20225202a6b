"""What `make mlflow-restore` uploads of a file on this machine."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import backup
import restore
from common.console import Failure


def database(path: Path) -> sqlite3.Connection:
    """Make a database with a row that is in its write-ahead log only, as long as the connection is open."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("CREATE TABLE runs (name TEXT)")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("INSERT INTO runs VALUES ('in the log')")
    connection.commit()
    return connection


def test_a_database_is_uploaded_with_what_is_in_its_log(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(database(path)):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.suffix != ".db-shm"}
        with restore.whole(path) as file:
            assert file.name == path.name
            assert not list(file.parent.glob("*-wal"))
            alone = tmp_path / "alone.db"
            alone.write_bytes(file.read_bytes())
            with closing(sqlite3.connect(alone)) as copy:
                assert copy.execute("SELECT name FROM runs").fetchall() == [("in the log",)]
        assert not file.exists()
        assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_database_without_its_log_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, lone = tmp_path / "mlflow.db", tmp_path / "lone.db"
    with closing(database(path)) as opened:
        lone.write_bytes(path.read_bytes())  # as somebody copies the file alone off a running server
        with restore.whole(path):
            pass
        assert capsys.readouterr().err == ""
        with restore.whole(lone):
            pass
        said = capsys.readouterr().err
        assert "warning: lone.db has a write-ahead log, and no lone.db-wal is beside it" in said
        opened.execute("PRAGMA journal_mode = delete")
        path.with_name("mlflow.db-wal").unlink(missing_ok=True)
        lone.write_bytes(path.read_bytes())  # as a server leaves it at its stop
        with restore.whole(lone):
            pass
        assert capsys.readouterr().err == ""


def test_any_other_file_is_uploaded_as_it_is(tmp_path: Path) -> None:
    for data in (b"PK\3\4", b""):
        (tmp_path / "backup.zip").write_bytes(data)
        with restore.whole(tmp_path / "backup.zip") as file:
            assert file == tmp_path / "backup.zip"


def test_a_file_that_cannot_be_read_is_told() -> None:
    file = Path("/proc/self/mem")
    if not file.is_file():
        pytest.skip("only Linux has a file that not even root can read")
    words = "FROM is /proc/self/mem, which cannot be read: Input/output error; "
    with pytest.raises(Failure, match=words), restore.whole(file):
        pass


def test_files_are_named_from_where_make_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/backup.zip").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_CALLED_IN", str(tmp_path / "below"))
    assert backup.destination("new.zip") == tmp_path / "below/new.zip"
    with pytest.raises(Failure, match="which is there already"):
        backup.destination("backup.zip")
    with pytest.raises(Failure, match="there is no folder"):
        backup.destination("~nobody-here/x.zip")


def test_a_database_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.1))
    path = tmp_path / "mlflow.db"
    database(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA journal_mode = delete")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Failure) as locked, restore.whole(path):
            pass
    path.write_bytes(path.read_bytes()[:100] + b"x" * 8000)
    with pytest.raises(Failure) as damaged, restore.whole(path):
        pass
    for failure, reason in ((locked, "database is locked"), (damaged, "malformed")):
        [problem] = failure.value.problems
        assert str(problem).startswith(f"FROM is {path}, which cannot be read: ")
        assert reason in str(problem)
