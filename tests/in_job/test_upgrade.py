"""An upgrade ends with a store of today, or with the one that was there."""

from __future__ import annotations

import functools
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakePlace
from .harness import ARTIFACTS, OLD_REVISION, Database, StartServer, old_database, wait_for
from .places import Job, Place, content, look, old_place, query, schema, tree

pytestmark = pytest.mark.e2e
FAULT = """
import os, signal, time
from in_job import backup_file, content, schema, upgrade
def fail(*_):
    if os.getpid() != os.getpgrp():  # in a child
        time.sleep(0.2)
    if os.environ["FAULT"] == "kill":
        os.killpg(0, signal.SIGKILL)
    if os.environ["FAULT"] == "term":
        os.kill(os.getpgrp(), signal.SIGTERM)
        time.sleep(60)
    raise OSError("the fault")
module, name = os.environ["AT"].split(".")
setattr(globals()[module], name, fail)
"""
FILE_STORE = """
import os, mlflow
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
client = mlflow.MlflowClient(os.environ["STORE"])
run = client.create_run(client.create_experiment("files", artifact_location="mlflow-artifacts:/1"))
client.log_metric(run.info.run_id, "m", 0.5)
client.log_param(run.info.run_id, "p", "v")
client.set_terminated(run.info.run_id)
client.create_registered_model("model")
print(run.info.run_id, end="")
"""


def faulty(place: Place, at: str, fault: str = "error", **env: str) -> Job:
    """Start an upgrade in which a function fails, or kills the process."""
    return place.start("upgrade", FAULT, {"AT": at, "FAULT": fault, **env}, check=False)


def upgrade(place: Place) -> dict[str, Any]:
    return place.run("upgrade", check=False)


def test_a_database_of_mlflow_2(place: MakePlace, template: Path) -> None:
    store = place()
    old_database(store.path)
    before = content(store.path)
    assert store.run("upgrade", check=True) == {"needed": True, "stayed": 0}
    done = upgrade(store)
    assert schema(store.path) == schema(template)
    assert done["schema"] == query(template, "SELECT version_num FROM alembic_version")[0][0]
    assert len(content(store.path)["metrics"]) == len(before["metrics"]) > 0
    assert store.run("upgrade", check=True) == {"needed": False, "stayed": 0}
    store.query("UPDATE runs SET name = 'renamed since'")
    kept = store.run("undo", **done)["kept"]
    assert content(store.path) == before
    assert done["backup"].endswith("-before-upgrade.zip")
    assert kept.endswith("-before-undo.zip")
    with zipfile.ZipFile(store.backups / kept) as archive:
        archive.extract("tracking.db", store.folder)
    assert query(store.folder / "tracking.db", "SELECT DISTINCT name FROM runs") == [("renamed since",)]
    done = upgrade(store)
    store.query("INSERT INTO experiments (experiment_id, name) VALUES (9, 'new')")
    assert "written to since: it stays upgraded" in store.refused("undo", **done)
    assert store.query("SELECT name FROM experiments WHERE experiment_id = 9") == [("new",)]


FAULTS = [
    ("backup_file.snapshot", "error"),
    ("schema.upgrade_schema", "error"),
    ("schema.upgrade_schema", "term"),
    ("upgrade.put", "error"),
    ("upgrade.move_artifacts", "error"),
    ("schema.upgrade_schema", "kill"),
]


def test_a_step_that_fails_leaves_what_was_there(place: MakePlace) -> None:
    store = place()
    store.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(store.folder)
    (store.folder / "1/run").mkdir(parents=True)
    (store.folder / "1/run/file").write_bytes(b"x")
    old_database(store.path)
    query(store.path, "UPDATE runs SET artifact_uri = 'mlflow-artifacts:/1/run'")
    query(store.path, "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1'")
    query(store.path, "UPDATE model_versions SET source = 'mlflow-artifacts:/1/run/model'")
    before = content(store.path)
    for at, fault in FAULTS:
        job = faulty(store, at, fault)
        assert job.wait() == {"error": 1, "term": 143, "kill": -9}[fault], job.said
        if fault == "error":
            assert "the fault" in job.said
        assert content(store.path) == before
        moved = store.folder / "artifacts/1/run/file"
        assert moved.exists() != (store.folder / "1/run/file").exists()
        assert moved.exists() == (fault == "kill")
    upgrade(store)
    assert moved.read_bytes() == b"x"


def test_a_write_right_before_the_copy_is_kept(place: MakePlace) -> None:
    store = place()
    old_database(store.path)
    write = """
import contextlib, sqlite3
from in_job import store
damage = store.Store.damage
def write(self):
    found = damage(self)
    with contextlib.closing(sqlite3.connect(self.path)) as database, database:
        database.execute("INSERT INTO experiments (experiment_id, name) VALUES (99, 'written')")
    return found
store.Store.damage = write
"""
    assert "was written to during its upgrade" in store.refused("upgrade", write, check=False)
    assert store.query("SELECT name FROM experiments WHERE experiment_id = 99") == [("written",)]
    assert store.query("SELECT version_num FROM alembic_version") == [(OLD_REVISION,)]


def test_a_move_that_is_killed_is_finished(place: MakePlace, template: Path) -> None:
    half = place("half")
    half.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(half.folder)
    shutil.copyfile(template, half.path)
    for name in (".artifacts.moving/0", "1"):
        (half.folder / name).mkdir(parents=True)
        (half.folder / name / "file").write_bytes(b"x")
    half.backup(artifacts=True)
    assert sorted(path for path in tree(half.folder) if path.endswith("file")) == [
        "artifacts/0/file",
        "artifacts/1/file",
    ]


def test_places_beside_the_database_stay(place: MakePlace) -> None:
    """Runs whose artifacts are found by path would lose them."""
    store = place("my vol")
    store.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(store.folder)
    old_database(store.path)
    (store.folder / "1").mkdir()
    (store.folder / "1/file").write_bytes(b"x")
    escaped = (store.folder / "1").as_uri()
    assert escaped.endswith("/my%20vol/1")
    query(
        store.path,
        "UPDATE experiments SET artifact_location = "
        f"iif(experiment_id, '{escaped}', 'file://{store.folder}/1')",
    )
    query(store.path, f"UPDATE runs SET artifact_uri = '{store.folder}/1/' || run_uuid")
    assert store.run("upgrade", check=True) == {"needed": True, "stayed": 4}
    assert not upgrade(store)["moved"]
    assert (store.folder / "1/file").exists()
    assert store.run("upgrade", check=True) == {"needed": False, "stayed": 4}


def test_runs_find_their_artifacts_before_and_after(place: MakePlace, start: StartServer) -> None:
    store = place()
    store.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(store.folder)
    old_database(store.path)
    query(store.path, "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1'")
    uri = "'mlflow-artifacts:/1/' || run_uuid || '/artifacts'"
    query(store.path, f"UPDATE runs SET artifact_uri = {uri}")
    query(store.path, "UPDATE model_versions SET source = 'mlflow-artifacts:/1/x/artifacts/model'")
    [(run,), *_] = query(store.path, "SELECT run_uuid FROM runs")
    file = store.folder / f"1/{run}/artifacts/notes.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"kept")
    done = upgrade(store)
    assert done["moved"]
    server = start(store.folder, MLFLOW_BACKEND_STORE_URI=store.uri).wait_until_up()
    place_ = server.ask("GET", f"/runs/get?run_id={run}")["run"]["info"]["artifact_uri"].partition(":")[2]
    assert server.call("GET", f"{ARTIFACTS}{place_}/notes.txt") == (200, b"kept")
    assert server.call("GET", f"{ARTIFACTS}/mlflow.db")[0] != 200
    assert server.ask("GET", f"/artifacts/list?run_id={run}")["files"][0]["path"] == "notes.txt"
    names = ("mlflow.db", "mlflow.db-journal", ".mlflow.db.unfinished")  # a log or a mark beside the store
    for name in names:
        assert server.call("PUT", f"{ARTIFACTS}/{name}", b"of a client")[0] == 200
    server.stop()
    database = store.path.read_bytes()
    for name in names:
        assert "written to since: it stays upgraded" in store.refused("undo", **done)
        assert store.path.read_bytes() == database
        (store.folder / "artifacts" / name).unlink()
    store.run("undo", **done)  # a server has run, but nobody has written
    assert file.read_bytes() == b"kept"
    assert query(store.path, "SELECT version_num FROM alembic_version") == [(OLD_REVISION,)]


def found_without_backups(store: Place) -> dict[str, bytes]:
    ours = ("backups/", "mlruns/.mlflow.")
    return {path: data for path, data in tree(store.folder).items() if not path.startswith(ours)}


@pytest.mark.parametrize("explicit", [False, True], ids=["default", "named"])
def test_a_file_store_becomes_a_database(explicit: bool, place: MakePlace) -> None:
    store = place()
    folder = store.folder / "mlruns"
    run = store.warm.python(FILE_STORE, STORE=str(folder), MLFLOW_ALLOW_FILE_STORE="true")
    meta = folder / "0/meta.yaml"  # as a server writes it
    meta.write_text(
        re.sub("(?m)^artifact_location: .*", "artifact_location: mlflow-artifacts:/0", meta.read_text())
    )
    (store.folder / f"1/{run}/artifacts").mkdir(parents=True)
    (store.folder / f"1/{run}/artifacts/file").write_bytes(b"x")
    store.env |= {
        "MLFLOW_ARTIFACTS_DESTINATION": str(store.folder),
        "MLFLOW_BACKEND_STORE_URI": str(folder) if explicit else "",
    }
    before = tree(store.folder)
    assert store.run("upgrade", check=True) == {"needed": True, "stayed": 0}
    for at in ("upgrade.Backup", *([] if explicit else ["upgrade.move_artifacts"])):
        assert faulty(store, at).wait() == 1
        assert found_without_backups(store) == before
    done = upgrade(store)
    created = Path(done["created"])
    assert created == (store.folder / "mlruns.db" if explicit else store.path)
    assert query(created, "SELECT key, value FROM metrics") == [("m", 0.5)]
    assert query(created, "SELECT name FROM registered_models") == [("model",)]
    assert done["adopted"] != explicit
    if explicit:
        assert folder.is_dir()
        assert "exists: set backend_store_uri to sqlite:///" in store.refused("upgrade", check=False)
    else:
        assert done["moved"]
        assert (store.folder / f"artifacts/1/{run}/artifacts/file").exists()
        assert store.run("upgrade", check=True) == {"needed": False, "stayed": 0}
        assert store.run("backup", artifacts=True)["artifacts"] == 1
        store.run("undo", **done)
        assert found_without_backups(store) == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_a_migration_that_fails(kind: str, place: MakePlace, request: pytest.FixtureRequest) -> None:
    """A table that is there already makes one of the last migrations fail."""
    store = place()
    execute: Callable[[str], object] = store.query
    if kind == "sqlite":
        old_database(store.path)
    else:
        server: Database = request.getfixturevalue(kind)
        store = old_place(store.warm, store.folder, server, "mlflow_failing")
        execute = functools.partial(server.execute, name="mlflow_failing")
    before = look(store)
    execute("CREATE TABLE mcp_servers (id int)")
    job = store.start("upgrade", check=False)
    assert job.wait() == 1
    assert "mcp_servers" in job.said
    assert "the upgrade failed: putting back what was there" in job.said
    assert re.search("mcp_servers.* already exists", job.result["error"])
    assert "SQL" not in job.result["error"]
    execute("DROP TABLE IF EXISTS mcp_servers")
    assert look(store) == before
    done = upgrade(store)
    assert store.run("upgrade", check=True) == {"needed": False, "stayed": 0}
    store.run("undo", **done)
    assert look(store) == before
    kinds = sorted(path.stem.partition("Z-")[2].rstrip("-2") for path in store.backups.iterdir())
    assert kinds == ["before-undo", "before-upgrade", "before-upgrade"]


def test_an_upgrade_of_mysql_that_is_killed_is_undone(
    place: MakePlace, mariadb: Database, start: StartServer
) -> None:
    """It cannot roll tables back, so the next task puts the backup back; only into the database it is of."""
    store = place()
    store = old_place(store.warm, store.folder, mariadb, "mlflow_killed")
    mariadb.execute("CREATE DATABASE mlflow_other")
    other = Place(store.warm, store.folder, mariadb.uri("mlflow_other"))
    version = "SELECT version_num FROM alembic_version"
    before = look(store)
    job = store.start("upgrade", check=False)
    wait_for(lambda: mariadb.execute(version, "mlflow_killed") != OLD_REVISION, "a migration")
    job.signal()
    assert job.wait() == -9
    marks = "SELECT note FROM mlflow_unfinished"
    assert mariadb.execute(marks, "mlflow_killed").startswith('{"do": "upgrade"')
    server = start(store.destination, MLFLOW_BACKEND_STORE_URI=store.uri)
    assert server.process.wait(60) == 1
    assert "a restore or an upgrade of mysql database at 127.0.0.1" in server.lines[-1]
    for at in ("content.create_schema", "content.put"):  # killed again on the way back
        job = store.start("backup", FAULT, {"AT": at, "FAULT": "kill"}, artifacts=False)
        assert job.wait() == -9, job.said
        assert "there are no runs yet" in other.refused("backup", artifacts=False)
        assert mariadb.execute(marks, "mlflow_killed")
    store.backup()
    assert look(store) == before


USERS = """
import os
from in_job import location, queries, users, waiting
uri = location.sql_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
waiting.in_child(users.upgrade_users, uri, os.environ["REVISION"])
if not queries.rows(uri, "SELECT id FROM users"):
    insert = "INSERT INTO users (username, password_hash, is_admin) VALUES ('ann', :value, true)"
    queries.change(uri, insert, ["x"])
"""
KILL = """
import os, signal, sqlalchemy
@sqlalchemy.event.listens_for(sqlalchemy.Table, os.environ["AT"])
def kill(table, connection, **_):
    if table.name == os.environ["OF"] and connection.dialect.name != "sqlite":  # the copy for a backup is
        os.killpg(0, signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_undo_that_is_killed_is_finished(
    kind: str, place: MakePlace, start: StartServer, request: pytest.FixtureRequest
) -> None:
    server: Database = request.getfixturevalue(kind)
    store = place()
    store = old_place(store.warm, store.folder, server, "mlflow_undone")
    store.warm.python(USERS, **store.env, REVISION="8606fa83a998")
    before = look(store)
    done = upgrade(store)
    store.warm.python(USERS, **store.env, REVISION="head")  # as a server does at its start
    assert "role_permissions" in str(look(store))
    task, options = "undo", done
    for at, of in (
        ("before_drop", "runs"),
        *[("after_create", "runs")] * 2,
        ("before_drop", "users"),
        ("after_create", "users"),
    ):
        job = store.start(task, KILL, {"AT": at, "OF": of}, **options)
        assert job.wait() == -9, job.said
        mark = json.loads(server.execute("SELECT note FROM mlflow_unfinished", "mlflow_undone"))
        assert mark == {"do": "undo", "backup": done["backup"]}
        task, options = "backup", {"artifacts": False}
    refusing = start(store.destination, MLFLOW_BACKEND_STORE_URI=store.uri)
    assert refusing.process.wait(60) == 1
    assert "a restore or an upgrade of" in refusing.lines[-1]
    store.backup()
    assert look(store) == before


def test_a_view_keeps_an_undo_from_dropping_anything(place: MakePlace, postgresql: Database) -> None:
    store = place()
    store = old_place(store.warm, store.folder, postgresql, "mlflow_viewed")
    before = look(store)
    done = upgrade(store)
    postgresql.execute("CREATE VIEW dashboard AS SELECT run_uuid FROM runs", "mlflow_viewed")
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
    present = postgresql.execute(tables, "mlflow_viewed").split()
    for task, options in (("undo", done), ("backup", {"artifacts": False})):
        assert "view dashboard depends on table runs" in store.refused(task, **options)
        assert postgresql.execute(tables, "mlflow_viewed").split() == sorted([*present, "mlflow_unfinished"])
        assert postgresql.execute("SELECT count(*) FROM runs", "mlflow_viewed") == "2"
    postgresql.execute("DROP VIEW dashboard", "mlflow_viewed")
    store.backup()
    assert look(store) == before
