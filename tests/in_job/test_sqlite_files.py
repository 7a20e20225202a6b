"""SQLite files, without a server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from in_job import sqlite

from .harness import old_database


def test_the_newest_five_backups_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (tmp_path / "copy").write_text("new")
    for day in range(1, 8):
        (folder / f"mlflow-abc{9 - day}-2020010{day}T000000Z.db").touch()
    strangers = {"other-abc-20200101T000000Z.db", "mlflow-mine.db", "notes.txt"}
    for name in strangers:
        (folder / name).touch()
    sqlite.save_backup(tmp_path / "copy", tmp_path / "mlflow.db", "97727af70f4d")
    kept = sorted(entry.name for entry in folder.iterdir() if entry.name not in strangers)
    assert len(kept) == sqlite.BACKUPS_KEPT
    days = [name.split("-")[2][:8] for name in kept if "97727af70f4d" not in name]
    assert sorted(days) == ["20200104", "20200105", "20200106", "20200107"]
    assert strangers <= {entry.name for entry in folder.iterdir()}


def test_a_backup_is_for_its_owner_only(tmp_path: Path) -> None:
    """That of users has their passwords' hashes in it."""
    copy = tmp_path / "copy"
    copy.write_bytes(b"users")
    sqlite.save_backup(copy, tmp_path / "mlflow.db.users", "1")
    [made] = (tmp_path / "backups").iterdir()
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (b"users", 0o600)


def test_revisions_of_a_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fresh.db") as database:
        assert sqlite.sqlite_revision(database) is None
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        assert sqlite.sqlite_revision(database) is None
        database.execute("CREATE TABLE experiments (name TEXT)")
        assert sqlite.sqlite_revision(database) == ""
    with sqlite3.connect(old_database(tmp_path / "old.db")) as database:
        assert sqlite.sqlite_revision(database) == "97727af70f4d"


def test_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = f"overlay / overlay rw\nnas:/x {tmp_path}/a\\040b nfs4 rw\n/dev/sdb {tmp_path}/disk ext4 rw\n"
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *words: mounts if str(self) == "/proc/self/mounts" else read(self, *words),
    )
    assert sqlite.file_system(tmp_path / "a b" / "mlflow.db") == "nfs4"
    assert sqlite.file_system(tmp_path / "disk" / "deep" / "mlflow.db") == "ext4"
    assert sqlite.file_system(tmp_path / "mlflow.db") == "overlay"
