"""A backup of a live store is what the store held at one moment, artifacts included where asked for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import S3, MakePlace, Migrated
from .harness import Database, wait_for
from .places import Place, content, damage, query, tree

pytestmark = pytest.mark.e2e
WRITERS = 8
WRITE = """
import os, time
from in_job import location
from pathlib import Path
from typing import Any
from mlflow.entities import Metric, Param
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
store = SqlAlchemyStore(location.sql_uri(os.environ["MLFLOW_BACKEND_STORE_URI"]), "/nowhere")
number = os.environ["NUMBER"]
while not Path(os.environ["STOP"]).exists():
    run = store.create_run("0", "me", 1, [], number).info.run_id
    metrics = [Metric(f"m{step}", step, 1, step) for step in range(20)]
    store.log_batch(run, metrics, [Param(f"p{step}", "x") for step in range(20)], [])
    print(run, flush=True)
    time.sleep(0.2)  # else a backup gets a tenth of a processor
"""


def opened(place: Place, name: str) -> tuple[dict[str, Any], Path]:
    """Return the manifest of a backup, and its database beside it; every checksum is compared."""
    with zipfile.ZipFile(place.backups / name) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        for member, expected in manifest["sha256"].items():
            assert hashlib.sha256(archive.read(member)).hexdigest() == expected
        database = place.backups / f"{name}.db"
        database.write_bytes(archive.read("tracking.db"))
    return manifest, database


@pytest.mark.parametrize("kind", ["delete", "wal", "postgresql", "mariadb"])
def test_a_live_store_is_copied_as_it_is_at_one_moment(
    kind: str, place: MakePlace, template: Path, migrated: Migrated, request: pytest.FixtureRequest
) -> None:
    if kind in ("postgresql", "mariadb"):
        store = place(uri=migrated(request.getfixturevalue(kind), "mlflow_live"))
    else:
        store = place()
        store.path.write_bytes(template.read_bytes())
        store.query(f"PRAGMA journal_mode = {kind}")
    stop = store.folder / "stop"
    writers = [store.warm.start(WRITE, **store.env, STOP=str(stop), NUMBER=str(n)) for n in range(WRITERS)]

    def acknowledged() -> set[str]:
        return {line for job in writers for line in job.said.split("\n")[:-1]}

    try:
        wait_for(lambda: len(acknowledged()) >= 2 * WRITERS, f"the writers ({[w.said for w in writers]})")
        before = acknowledged()
        name = store.backup()
        wait_for(lambda: len(acknowledged()) > len(before), "a write after the backup")
    finally:
        stop.touch()
    assert [job.wait() for job in writers] == [0] * WRITERS, [w.said for w in writers]
    manifest, copy = opened(store, name)
    rows = content(copy)  # sound, and every foreign key is met
    rows.pop("alembic_version")
    assert {table: len(found) for table, found in rows.items()} == manifest["counts"]
    assert before <= {run for (run,) in query(copy, "SELECT run_uuid FROM runs")}
    for table in ("metrics", "params"):  # logged in one transaction
        sizes = query(copy, f"SELECT run_uuid, count(*) FROM {table} GROUP BY 1")
        assert {size for _, size in sizes} == {20}
        assert before <= {run for run, _ in sizes}


def test_artifacts_of_a_folder(place: MakePlace, template: Path) -> None:
    store = place()
    store.path.write_bytes(template.read_bytes())
    files = {"0/a/artifacts/notes/a b.txt": b"text" * 9999, "0/a/artifacts/\u00e4 \U0001f680": b"", "x": b"1"}
    for name, data in files.items():
        path = store.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    made = store.run("backup", artifacts=True)
    assert made["artifacts"] == 3
    assert made["holds"] == "nothing"
    manifest, _ = opened(store, made["name"])
    assert len(manifest["sha256"]) == 4
    assert (store.backups / made["name"]).stat().st_size == made["size"]
    assert hashlib.sha256((store.backups / made["name"]).read_bytes()).hexdigest() == made["sha256"]
    other = place("other")
    shutil.copytree(store.backups, other.backups)
    assert other.restore(made["name"])["artifacts"] == 3
    assert tree(other.folder / "artifacts") == files
    assert content(other.path) == content(store.path)


def test_what_no_backup_can_hold_is_told(place: MakePlace, template: Path) -> None:
    store = place()
    store.path.write_bytes(template.read_bytes())
    artifacts = store.folder / "artifacts"
    for folder in (artifacts, store.folder / "linked"):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    (artifacts / "7").symlink_to(store.folder / "linked")
    job = store.start("backup", artifacts=True)
    assert job.wait() == 0, job.said
    assert f"left out: {artifacts / '7'} is a link to a folder" in job.said
    assert set(opened(store, job.result["name"])[0]["sha256"]) == {"tracking.db", "artifacts/file"}
    (artifacts / os.fsdecode(b"\xff")).write_bytes(b"x")
    error = store.refused("backup", artifacts=True)
    assert error == r"the artifact 'artifacts/\udcff' has a name that is not UTF-8: rename it"
    assert [path.name for path in store.backups.glob("*.zip")] == [job.result["name"]]
    assert not list(store.backups.glob(".*"))


def test_long_work_says_how_far_it_is(place: MakePlace, filled: Path) -> None:
    store = place()
    store.path.write_bytes(filled.read_bytes())
    (store.folder / "artifacts").mkdir()
    (store.folder / "artifacts/file").write_bytes(b"x")
    always = "from in_job import words; words.PROGRESS_EVERY = -1"
    said, result = "", {"name": ""}
    for task in ("backup", "restore"):
        options: dict[str, Any] = {"artifacts": True, "force": True, "check": False}
        job = store.start(task, always, source=result["name"], **options)
        assert job.wait() == 0, job.said
        said, result = said + job.said, job.result
    for what in ("bytes written to the backup", "bytes verified", "artifacts read"):
        assert re.search(rf"(?m)^mlflow-server: {what}: [1-9][\d,]*$", said), said


def test_artifacts_beside_the_database(place: MakePlace, template: Path) -> None:
    store = place(destination=".")
    store.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(store.folder)
    store.path.write_bytes(template.read_bytes())
    store.backups.mkdir()
    (store.backups / "old.zip").write_bytes(b"old")
    (store.folder / "0/a").mkdir(parents=True)
    (store.folder / "0/a/file").write_bytes(b"content")
    name = store.backup(artifacts=True)
    manifest, _ = opened(store, name)
    assert list(manifest["sha256"]) == ["tracking.db", "artifacts/0/a/file"]
    (store.folder / "0/a/file").write_bytes(b"changed")
    store.restore(name)  # no run was ever made: nothing to keep
    assert (store.folder / "0/a/file").read_bytes() == b"content"
    assert not (store.folder / "artifacts").exists()
    with zipfile.ZipFile(store.backups / name) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    manifest["sha256"]["artifacts/mlflow.db-wal"] = hashlib.sha256(b"x").hexdigest()
    members |= {"artifacts/mlflow.db-wal": b"x", "manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(store.backups / "harmful.zip", "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    before = tree(store.folder)
    assert "would lie on" in store.refused("restore", source="harmful.zip", force=True, check=False)
    assert tree(store.folder) == before


def test_artifacts_in_an_object_store(place: MakePlace, template: Path, s3: S3, filled: Path) -> None:
    store = place(destination="s3://bucket/mlflow", **s3.env)
    store.path.write_bytes(template.read_bytes())
    files = {"mlflow/0/a/artifacts/deep/a b.txt": b"text" * 9999, "mlflow/0/a/artifacts/\u00e4": b"1"}
    files["mlflow/at the top"] = b"2"
    for name, data in files.items():
        s3.client.put_object(Bucket="bucket", Key=name, Body=data)
    s3.client.put_object(Bucket="bucket", Key="others/x", Body=b"x")
    made = store.run("backup", artifacts=True)
    assert made["artifacts"] == 3
    other = place("other", destination="s3://bucket/elsewhere", **s3.env)
    shutil.copytree(store.backups, other.backups)
    assert other.restore(made["name"])["artifacts"] == 3
    assert s3.tree("elsewhere/") == {name.removeprefix("mlflow/"): data for name, data in files.items()}


def test_nothing_to_back_up(place: MakePlace, postgresql: Database) -> None:
    postgresql.execute("CREATE DATABASE nothing", "postgres")
    postgresql.execute("CREATE TABLE others (id int)", "nothing")
    for number, uri in enumerate(("", postgresql.uri("nothing"), "{}/mlruns")):
        store = place(str(number), uri.format(place("2").folder))
        assert store.refused("backup", artifacts=False).startswith("there are no runs yet")
        assert not list(store.backups.glob("*.zip"))
    store = place(destination="s3://x", uri="oracle://me:s3cret@host/d")
    error = store.refused("backup", artifacts=False)
    assert error.startswith("backend_store_uri oracle://me:***@host/d: only SQLite, PostgreSQL, MySQL")
    store = place(MLFLOW_REGISTRY_STORE_URI="sqlite:////elsewhere.db")
    assert "registry" in store.refused("backup", artifacts=False)


def test_a_newer_and_a_damaged_store_are_left_alone(place: MakePlace, filled: Path) -> None:
    store = place()
    store.path.write_bytes(filled.read_bytes())
    store.query("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    for task in ("backup", "upgrade"):
        assert "newer MLflow; nothing changed" in store.refused(task, artifacts=False, check=False)
    damage(store.path, filled)
    assert "damaged" in store.refused("backup", artifacts=False)
    assert list(store.backups.iterdir()) == []
