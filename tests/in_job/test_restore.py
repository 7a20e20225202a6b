"""A restore verifies first, replaces nothing unasked, and leaves the old store or the new one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakePlace
from .harness import ARTIFACTS, StartServer, old_database, wait_for
from .places import Place, content, damage, query, schema, tree

pytestmark = pytest.mark.e2e
Members = dict[str, bytes]


@pytest.fixture(scope="session")
def backup(warm: Any, filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with rows in every table and two artifacts."""
    store = Place(warm, tmp_path_factory.mktemp("backup"))
    shutil.copyfile(filled, store.path)
    (store.folder / "artifacts/0").mkdir(parents=True)
    (store.folder / "artifacts/0/a").write_bytes(b"one")
    (store.folder / "artifacts/b").write_bytes(b"two")
    return store.backups / store.backup(artifacts=True)


def with_backup(place: Place, backup: Path, name: str = "backup.zip") -> str:
    """Put a backup among those of a store, and return its name there."""
    place.backups.mkdir(exist_ok=True)
    shutil.copyfile(backup, place.backups / name)
    return name


QUICKLY = "from in_job import sqlite; sqlite.SQLITE_WAIT = 0.2"


def members(backup: Path) -> Members:
    with zipfile.ZipFile(backup) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(found: Members, *extra: zipfile.ZipInfo) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content_ in found.items():
            archive.writestr(name, content_)
        for info in extra:
            archive.writestr(info, b"/etc/passwd")
    return data.getvalue()


def with_manifest(found: Members, **changes: object) -> bytes:
    manifest = {**json.loads(found["manifest.json"]), **changes}
    return zipped({**found, "manifest.json": json.dumps(manifest).encode()})


def with_member(found: Members, name: str) -> bytes:
    """An extra member that the manifest names, as somebody who means harm would make it."""
    sums = {**json.loads(found["manifest.json"])["sha256"], name: hashlib.sha256(b"x").hexdigest()}
    return with_manifest({**found, name: b"x"}, sha256=sums)


def symlink(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def flipped(backup: bytes, where: int) -> bytes:
    return backup[:where] + bytes([backup[where] ^ 1]) + backup[where + 1 :]


DAMAGES: dict[str, Callable[[bytes, Members], bytes]] = {
    "a flipped bit of the database": lambda data, _: flipped(data, 1000),
    "a flipped bit of an artifact": lambda _, found: zipped({**found, "artifacts/b": b"twp"}),
    "truncated": lambda data, _: data[:-1000],
    "half": lambda data, _: data[: len(data) // 2],
    "empty": lambda *_: b"",
    "text": lambda *_: b"SELECT 1;\n" * 1000,
    "no manifest": lambda _, found: zipped({k: v for k, v in found.items() if k != "manifest.json"}),
    "no JSON": lambda _, found: zipped({**found, "manifest.json": b"{"}),
    "a list": lambda _, found: zipped({**found, "manifest.json": b"[1]"}),
    "another format": lambda _, found: with_manifest(found, format=3),
    "no counts": lambda _, found: with_manifest(found, counts=None),
    "other counts": lambda _, found: with_manifest(found, counts={"runs": 10**6}),
    "no database": lambda _, found: zipped({k: v for k, v in found.items() if k != "tracking.db"}),
    "another database": lambda _, found: zipped({**found, "tracking.db": found["tracking.db"][:-1] + b"!"}),
    "an artifact less": lambda _, found: zipped({k: v for k, v in found.items() if k != "artifacts/b"}),
    "an extra member": lambda _, found: zipped({**found, "artifacts/more": b"x"}),
    "a symlink": lambda _, found: zipped(found, symlink("artifacts/link")),
    "..": lambda _, found: with_member(found, "artifacts/../../up"),
    "absolute": lambda _, found: with_member(found, "artifacts//tmp/absolute"),
    "elsewhere": lambda _, found: with_member(found, "elsewhere"),
}


def test_a_damaged_backup_is_refused_and_nothing_changes(
    backup: Path, filled: Path, place: MakePlace
) -> None:
    data, found = backup.read_bytes(), members(backup)
    store = place()
    shutil.copyfile(filled, store.path)
    store.query("DELETE FROM tags")
    before = store.path.read_bytes()
    store.backups.mkdir()
    for name, change in DAMAGES.items():
        (store.backups / "bad.zip").write_bytes(change(data, found))
        for force in (False, True):
            error = store.refused("restore", source="bad.zip", force=force, check=False)
            assert error.startswith("bad.zip ") or "changed" in error, (name, error)
            assert "MLFLOW_FORCE" not in error, name
    assert store.refused("restore", source="none.zip", force=True, check=False).startswith(
        "there is no backup"
    )
    assert store.path.read_bytes() == before
    assert sorted(path.name for path in store.folder.iterdir()) == [
        ".mlflow.db.store",
        ".mlflow.db.used",
        "backups",
        "mlflow.db",
    ]
    assert [path.name for path in store.backups.iterdir()] == ["bad.zip"]


def test_a_store_with_runs_is_kept_until_force_replaces_it(
    backup: Path, filled: Path, place: MakePlace
) -> None:
    store = place()
    shutil.copyfile(filled, store.path)
    store.query("PRAGMA journal_mode = wal")
    store.query("UPDATE runs SET name = 'mine'")
    (store.folder / "artifacts").mkdir()
    (store.folder / "artifacts/b").write_bytes(b"mine")
    before, artifacts = content(store.path), tree(store.folder / "artifacts")
    name = with_backup(store, backup)
    for check in (True, False):
        error = store.refused("restore", source=name, force=False, check=check)
        assert f"{store.path} holds 7 experiments, 7 runs" in error
        assert f"MLFLOW_FORCE=yes replaces it, and keeps it in {store.backups}" in error
    assert store.run("restore", source=name, force=True, check=True) == {}
    assert content(store.path) == before
    done = store.restore(name, force=True)
    assert done["artifacts"] == 2
    assert content(store.path) == content(filled)
    assert tree(store.folder / "artifacts") == {"0/a": b"one", "b": b"two"}
    assert store.query("PRAGMA journal_mode") == [("wal",)]
    store.restore(done["kept"], force=True)
    assert content(store.path) == before
    assert tree(store.folder / "artifacts") == {**artifacts, "0/a": b"one"}


@pytest.mark.parametrize("kind", ["folders", "files"])
def test_what_clients_put_where_restores_work_changes_nothing(
    kind: str, backup: Path, filled: Path, template: Path, place: MakePlace, start: StartServer
) -> None:
    store = place()
    shutil.copyfile(template, store.path)
    store.query("INSERT INTO experiments (experiment_id, name) VALUES (5, 'mine')")
    artifacts = store.folder / "artifacts"
    staging = store.warm.python(
        "import os; from in_job import store; print(store.Store(dict(os.environ)).staging)", **store.env
    )
    names = (".mlflow-restore", Path(staging.strip()).name)
    evil = json.dumps({"store": str(store.path), "backup": str(artifacts / "evil.zip"), "do": "restore"})

    def put() -> None:
        for name in names:
            for inside in ("manifest.json", "artifacts/b", "b") if kind == "folders" else (".",):
                path = artifacts / name / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(evil)

    server = start(artifacts, MLFLOW_BACKEND_STORE_URI=store.uri).wait_until_up()
    for path, data in {"evil.zip": backup.read_bytes(), "b": b"mine"}.items():
        assert server.call("PUT", f"{ARTIFACTS}/{path}", data)[0] == 200
    for name in names:
        path = f"{name}/manifest.json" if kind == "folders" else name
        assert server.call("PUT", f"{ARTIFACTS}/{path}", evil.encode())[0] == 200
    server.stop()
    put()
    start(artifacts, MLFLOW_BACKEND_STORE_URI=store.uri).wait_until_up().stop()
    put()
    before = content(store.path)
    store.backup()
    assert content(store.path) == before
    assert (artifacts / "b").read_bytes() == b"mine"
    put()
    name = with_backup(store, backup)
    store.restore(name, force=True)
    assert content(store.path) == content(filled)
    assert (artifacts / "b").read_bytes() == b"two"
    assert not (artifacts / names[1]).exists()


def test_what_is_in_the_place_of_an_artifact_is_told_before_anything_changes(
    backup: Path, template: Path, place: MakePlace
) -> None:
    for inside, mine, obstacle in (("b", "b/mine", "b"), ("0/a", "0", "0")):
        store = place(obstacle)
        shutil.copyfile(template, store.path)
        store.query("INSERT INTO experiments (experiment_id, name) VALUES (5, 'mine')")
        artifacts = store.folder / "artifacts"
        (artifacts / mine).parent.mkdir(parents=True)
        (artifacts / mine).write_bytes(b"mine")
        before = content(store.path)
        error = store.refused("restore", source=with_backup(store, backup), force=True, check=False)
        assert f"{artifacts / obstacle} is in the place of the artifact {inside}" in error
        store.backup()
        assert content(store.path) == before
        assert [path for path in artifacts.rglob("*") if path.is_file()] == [artifacts / mine]
        assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_a_database_that_is_no_database(backup: Path, filled: Path, place: MakePlace) -> None:
    sound = filled.read_bytes()
    for number, data in enumerate((b"", sound[: len(sound) // 2], sound[:60], b"x" * 5000, None)):
        store = place(str(number))
        if data is None:
            damage(store.path, filled)
        else:
            store.path.write_bytes(data)
        name = with_backup(store, backup)
        before = store.path.read_bytes()
        if before:
            error = store.refused("restore", source=name, force=False, check=False)
            assert "cannot be read" in error, error
            assert store.path.read_bytes() == before
        (store.folder / "mlflow.db-journal").write_bytes(b"of the damaged one")
        done = store.restore(name, force=bool(before))
        assert content(store.path) == content(filled)
        assert not (store.folder / "mlflow.db-journal").exists()
        assert (store.backups / done["kept"]).is_dir() if not before else True
        if before:
            assert (store.backups / done["kept"]).read_bytes() == before


def test_artifacts_that_replace_others_of_a_damaged_store(
    backup: Path, filled: Path, place: MakePlace
) -> None:
    store = place()
    damage(store.path, filled)
    (store.folder / "artifacts/0").mkdir(parents=True)
    for inside, data in {"0/a": b"one", "b": b"mine"}.items():
        (store.folder / "artifacts" / inside).write_bytes(data)
    done = store.restore(with_backup(store, backup), force=True)
    assert tree(store.folder / "artifacts") == {"0/a": b"one", "b": b"two"}
    kept = store.backups / done["kept"]
    assert tree(kept.with_name(f"{kept.stem}-artifacts")) == {"b": b"mine"}


def test_a_locked_database_is_no_damaged_one(backup: Path, filled: Path, place: MakePlace) -> None:
    store = place()
    shutil.copyfile(filled, store.path)
    name = with_backup(store, backup)
    with closing(sqlite3.connect(store.path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        error = store.refused("restore", QUICKLY, source=name, force=True, check=False)
        assert "database is locked" in error
    assert content(store.path) == content(filled)
    assert [path.name for path in store.backups.iterdir()] == [name]


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("task", ["restore", "upgrade"])
def test_a_writer_ends_a_task_instead_of_holding_it_up(
    task: str, mode: str, backup: Path, place: MakePlace
) -> None:
    store = place()
    old_database(store.path)
    store.query(f"PRAGMA journal_mode = {mode}")
    before = content(store.path)
    name = with_backup(store, backup)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        error = store.refused(task, QUICKLY, source=name, force=True, check=False)
        assert "database is locked" in error
    assert content(store.path) == before
    assert not list(store.folder.glob("artifacts/.*"))
    assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_who_writes_during_a_restore_is_asked_for(backup: Path, filled: Path, place: MakePlace) -> None:
    store = place()
    write = """
import contextlib, os, sqlite3
from in_job import restore
place_artifacts = restore.place_artifacts
def write(store):
    place_artifacts(store)
    with contextlib.closing(sqlite3.connect(store.path)) as database, database:
        database.execute("INSERT INTO experiments (experiment_id, name) VALUES (99, 'written')")
restore.place_artifacts = write
"""
    error = store.refused("restore", write, source=with_backup(store, backup), force=True, check=False)
    assert "now holds 8 experiments" in error
    assert "the backup 7 experiments" in error
    assert error.endswith("what else writes to it?; run the same again when that is over")
    assert store.query("SELECT name FROM experiments WHERE experiment_id = 99") == [("written",)]
    assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_one_experiment_of_the_user_is_not_replaced_unasked(
    backup: Path, filled: Path, template: Path, place: MakePlace
) -> None:
    store = place()
    shutil.copyfile(template, store.path)
    store.query("INSERT INTO experiments (experiment_id, name) VALUES (0, 'mine')")
    name = with_backup(store, backup)
    error = store.refused("restore", source=name, force=False, check=False)
    assert "holds 1 experiment: MLFLOW_FORCE=yes replaces it" in error
    assert store.query("SELECT name FROM experiments") == [("mine",)]
    store.query("UPDATE experiments SET name = 'Default'")  # which MLflow itself makes
    store.restore(name)
    assert content(store.path) == content(filled)


def test_a_database_of_others_is_not_replaced_unasked(backup: Path, place: MakePlace) -> None:
    store = place()
    store.query("CREATE TABLE others (id int)")
    store.query("INSERT INTO others VALUES (1)")
    name = with_backup(store, backup)
    assert "MLFLOW_FORCE=yes replaces it" in store.refused("restore", source=name, force=False, check=False)
    assert store.query("SELECT * FROM others") == [(1,)]


def test_a_bare_database_is_a_backup(template: Path, place: MakePlace) -> None:
    old = old_database(place("old").path)
    wal = place("wal").path
    shutil.copyfile(template, wal)
    query(wal, "PRAGMA page_size = 8192")
    query(wal, "VACUUM")
    query(wal, "INSERT INTO experiments (experiment_id, name) VALUES (0, 'Default')")
    query(wal, "PRAGMA journal_mode = wal")
    for source in (old, wal):
        for mode in ("delete", "wal"):
            store = place(f"{source.parent.name}-{mode}")
            shutil.copyfile(template, store.path)
            store.query(f"PRAGMA journal_mode = {mode}")
            name = with_backup(store, source, "mlflow.db")
            done = store.restore(name)
            assert schema(store.path) == schema(template)
            assert store.query("PRAGMA journal_mode") == [(mode,)]
            assert done["kept"] == ""
            if source == old:
                assert store.query("SELECT value FROM params ORDER BY 1") == [("0.1",), ("0.2",)]
    assert (store.backups / name).read_bytes() == wal.read_bytes()
    query(old, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with_backup(store, old)
    error = store.refused("restore", source="backup.zip", force=True, check=False)
    assert error == "backup.zip has the schema ffffffffffff of a newer MLflow; nothing changed: use its image"


def test_a_bare_database_is_restored_with_what_is_in_its_log(template: Path, place: MakePlace) -> None:
    source, store = place("source"), place()
    shutil.copyfile(template, source.path)
    query(source.path, "PRAGMA journal_mode = wal")
    with closing(sqlite3.connect(source.path)) as holder, holder:
        holder.execute("INSERT INTO experiments (experiment_id, name) VALUES (1, 'in the log')")
        holder.commit()
        for suffix in ("", "-wal"):
            with_backup(store, Path(f"{source.path}{suffix}"), f"mlflow.db{suffix}")
    files = tree(store.backups)
    store.restore("mlflow.db")
    assert store.query("SELECT name FROM experiments") == [("in the log",)]
    assert tree(store.backups) == files


def test_an_older_store_is_replaced_by_a_newer_backup(backup: Path, filled: Path, place: MakePlace) -> None:
    store = place()
    old_database(store.path)
    before = content(store.path)
    done = store.restore(with_backup(store, backup), force=True)
    assert content(store.path) == content(filled)
    with zipfile.ZipFile(store.backups / done["kept"]) as archive:
        store.path.write_bytes(archive.read("tracking.db"))
    assert content(store.path) == before


def test_a_restore_that_ends_half_way_is_finished(
    backup: Path, filled: Path, template: Path, place: MakePlace, start: StartServer
) -> None:
    stop = """
import os, signal
from in_job import restore, unfinished
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
place, _, attribute = os.environ["KILLED_AT"].rpartition(".")
setattr(eval(place), attribute, kill)
"""
    killed_at = (
        "unfinished.Mark.set",
        "restore.put",
        "restore.place_artifacts",
        "unfinished.Mark.clear",
    )
    for number, point in enumerate(killed_at):
        store = place(str(number))
        shutil.copyfile(template, store.path)
        store.query("INSERT INTO experiments (experiment_id, name) VALUES (5, 'mine')")
        (store.folder / "artifacts").mkdir()
        (store.folder / "artifacts/b").write_bytes(b"mine")
        before = content(store.path), tree(store.folder / "artifacts")
        name = with_backup(store, backup)
        job = store.start("restore", stop, {"KILLED_AT": point}, source=name, force=True, check=False)
        assert job.wait() == -signal.SIGKILL, job.said
        assert len(list((store.folder / "artifacts").glob(".mlflow-restore-*"))) == (number < 3)
        assert (store.folder / ".mlflow.db.unfinished").exists() == (number > 0)
        if number == 1:
            server = start(store.destination, MLFLOW_BACKEND_STORE_URI=store.uri)
            assert server.process.wait(60) == 1
            assert f"a restore or an upgrade of {store.path} was interrupted" in server.lines[-1]
        if number == 2:  # the same command, without the force that is not needed any more
            assert store.restore("backup.zip")["artifacts"] == 2
        else:  # any other
            store.backup()
        after = content(store.path), tree(store.folder / "artifacts")
        assert after == ((content(filled), {"0/a": b"one", "b": b"two"}) if number else before)
        assert not list(store.folder.glob("**/.mlflow-restore-*"))
        assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_a_restore_that_cannot_be_finished_gives_way_to_another(
    backup: Path, filled: Path, template: Path, place: MakePlace
) -> None:
    store = place()
    shutil.copyfile(template, store.path)
    mark = store.folder / ".mlflow.db.unfinished"
    mark.write_text(json.dumps({"do": "restore", "backup": "gone.zip"}))
    name = with_backup(store, backup)
    error = store.refused("backup", artifacts=False)
    assert error.startswith(
        "a restore of gone.zip was interrupted and cannot be finished (there is no backup"
    )
    store.restore(name)
    assert content(store.path) == content(filled)
    assert not mark.exists()


def test_sigterm_leaves_the_old_store(backup: Path, template: Path, place: MakePlace) -> None:
    """It comes while the rows are written; later it waits until everything is in its place."""
    stop = """
import os, signal
from in_job import restore
put, number = restore.put, int(os.environ["NUMBER"])
def wait(store, work, before_commit):
    def both():
        before_commit()
        os.kill(os.getpid(), signal.SIGTERM)
    if not number:
        os.kill(os.getpid(), signal.SIGTERM)
    put(store, work, both)
restore.put = wait
"""
    for number in (0, 1):
        store = place(str(number))
        shutil.copyfile(template, store.path)
        before = content(store.path)
        name, env = with_backup(store, backup), {"NUMBER": str(number)}
        job = store.start("restore", stop, env, source=name, force=True, check=False)
        assert job.wait() == 128 + signal.SIGTERM, job.said
        assert (content(store.path) == before) is (number == 0)
        assert tree(store.folder / "artifacts") == ({"0/a": b"one", "b": b"two"} if number else {})
        assert not list((store.folder / "artifacts").iterdir()) or number
        assert list(Path(job.home / "tmp").iterdir()) == []


def test_no_space(backup: Path, filled: Path, place: MakePlace, mount: Callable[[str], Path]) -> None:
    volume = mount("size=3m")
    store = place()
    store.folder = volume
    store = Place(store.warm, volume)
    name = with_backup(store, backup)
    filler = volume / "filler"
    for free in (0, 100_000, 400_000):
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            file.truncate(file.tell() - free)
        error = store.refused("restore", source=name, force=False, check=False)
        assert error.endswith("free space on the volume; run the same again when that is over"), error
        assert not store.path.exists() or store.query("SELECT count(*) FROM sqlite_master") == [(0,)]
        assert not list(volume.glob("**/.mlflow-restore-*"))
    filler.unlink()
    store.restore(name)
    assert content(store.path) == content(filled)
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    error = store.refused("restore", source=name, force=True, check=False)
    assert "mount the volume writable" in error


def test_only_one_task_at_a_time(filled: Path, place: MakePlace) -> None:
    store = place()
    shutil.copyfile(filled, store.path)
    hold = """
import time
from in_job import store_job
store_job.TASKS["backup"] = lambda *_: time.sleep(60)
"""
    job = store.start("backup", hold, artifacts=False)
    wait_for(lambda: (store.folder / ".mlflow.db.store").exists(), "the lock")
    time.sleep(0.1)
    error = store.refused("backup", "from in_job import store; store.LOCK_WAIT = 0.1", artifacts=False)
    assert error.startswith(f"another backup, restore, upgrade or clean-up of {store.path}")
    job.signal()
    job.wait()
    assert store.backup()


def test_only_one_task_at_a_time_where_files_have_no_locks(filled: Path, place: MakePlace) -> None:
    """What a task that was killed has held is not held any more: the folder, and the one of SQLite's."""
    store = place()
    shutil.copyfile(filled, store.path)
    store.env["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///file:{store.path}?vfs=unix-dotfile&uri=true"
    hold = """
import sqlite3, time
from in_job import location, store, store_job
store.LOCK_WAIT = 0.2
def hold(store, *_):
    database = sqlite3.connect(location.sqlite_file(store.uri)[1], uri=True, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    time.sleep(60)
store_job.TASKS["backup"] = hold
"""
    job = store.start("backup", hold, artifacts=False)
    wait_for(lambda: "held" in job.said, "the lock")
    quick = "from in_job import sqlite, store; store.LOCK_WAIT = sqlite.SQLITE_WAIT = 1.0"
    error = store.refused("backup", quick, artifacts=False)
    assert error.startswith(f"another backup, restore, upgrade or clean-up of {store.path}")
    assert job.code is None
    job.signal()
    job.wait()
    assert {path.name for path in store.folder.glob("*.lock")} == {".mlflow.db.store.lock", "mlflow.db.lock"}
    assert store.run("backup", quick, artifacts=False)["name"]
    assert not list(store.folder.glob("*.lock"))
