"""A restore verifies first, replaces nothing unasked, and keeps what was there."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import MakePlace
from .harness import ARTIFACTS, StartServer, old_database
from .places import content, damage, query, schema, tree, with_backup

pytestmark = pytest.mark.e2e


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
