"""What is to outlive a crash of the machine does, under its name, and is for whom it is meant."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from in_job import content, durable, keys, restore, sqlite, store_job
from in_job.unfinished import Mark, mark_file
from in_job.words import Problem


def database(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE experiments (id)")
    return path


def old_copy(folder: Path) -> Path:
    sqlite.save_backup(database(folder / "copy.db"), folder / "mlflow.db", "abc")
    [kept] = (folder / "backups").iterdir()
    return kept


def set_aside(folder: Path) -> Path:
    store: Any = SimpleNamespace(path=database(folder / "mlflow.db"))
    return folder / "backups" / restore.set_aside(store, folder / "backups")


def replaced(folder: Path) -> Path:
    content.replace_sqlite(folder / "mlflow.db", database(folder / "copy.db"))
    return folder / "mlflow.db"


def marked(folder: Path) -> Path:
    Mark(f"sqlite:///{folder}/mlflow.db", folder / "mlflow.db").set("restore", "a backup")
    return mark_file(folder / "mlflow.db")


def with_keys(folder: Path) -> Path:
    keys.write(f"sqlite:///{folder}/mlflow.db", {"a": "key"})
    return keys.key_file(folder / "mlflow.db")


def result(folder: Path) -> Path:
    store_job.hand_over(folder, "result", {})
    return folder / "result"


@pytest.mark.parametrize("make", [old_copy, set_aside, replaced, marked, with_keys, result])
def test_a_new_file_and_its_name_are_synced(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, list[str]]] = []

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        names = os.listdir(descriptor) if stat.S_ISDIR(found.st_mode) else []
        synced.append((found.st_ino, names))

    monkeypatch.setattr(os, "fsync", fsync)
    file = make(tmp_path)
    assert file.stat().st_ino in [number for number, _ in synced]
    assert (file.parent.stat().st_ino, file.name) in [(n, name) for n, names in synced for name in names]


@pytest.mark.parametrize("make", [old_copy, set_aside, with_keys])
def test_what_may_hold_secrets_is_for_its_owner_only(make: Callable[[Path], Path], tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    (backups / ".mlflow.part").touch(0o644)  # what a crash has left
    assert make(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_synced_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError("not on this file system")

    (tmp_path / "part").write_text("new")
    monkeypatch.setattr(os, "fsync", fsync)
    durable.replace(tmp_path / "part", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"


def test_no_table_is_changed_before_it_is_seen_whether_all_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    def refuse(_uri: str, file: str, *, quiet: bool) -> None:
        raise Problem(f"{file} does not fit")

    monkeypatch.setattr(restore, "require_current", lambda *_: None)
    monkeypatch.setattr(restore, "in_child", lambda work, *_: done.append(work))
    monkeypatch.setattr(restore, "require_fit", refuse)
    store: Any = SimpleNamespace(uri="postgresql://h/d", revision=lambda: "abc")
    backup: Any = SimpleNamespace(database="the database", companions={"users.db": "the users"})
    with pytest.raises(Problem, match="the database does not fit"):
        restore.require_place(store, backup, check=False)
    assert not done
