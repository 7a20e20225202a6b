"""Rows that cannot go, artifacts that nothing refers to, and several workspaces, in a clean-up."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import S3, MakePlace, Migrated
from .harness import Database
from .places import Place, tree

pytestmark = pytest.mark.e2e
RUN, GONE, MODEL = "a" * 32, "b" * 32, "m-" + "c" * 32
GUARDED = """
import os, sqlalchemy
from in_job.location import sql_uri
from mlflow.entities import Metric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
store = SqlAlchemyStore(uri if "sqlite" in uri else sql_uri(uri), "mlflow-artifacts:/")
for name in ("guarded", "plain"):
    experiment = store.create_experiment(name, tags=[])
    run = store.create_run(experiment, "me", 1, [], name).info.run_id
    store.log_metric(run, Metric("m", 1, 1, 1))
    store.create_logged_model(experiment, name, run)
    scorer = store.register_scorer(experiment, "polite", "{}")
    store.delete_experiment(experiment)
    if name == "guarded":
        with store.engine.begin() as session:
            session.execute(sqlalchemy.text(
                "INSERT INTO guardrails (guardrail_id, name, scorer_id, scorer_version, stage, action, "
                "created_at, last_updated_at, workspace) SELECT 'g', 'g', scorer_id, 1, 'AFTER', 'BLOCK', "
                "1, 1, 'default' FROM scorers WHERE experiment_id = " + experiment))
        print(experiment, run)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_a_refusal_leaves_its_experiment_whole_and_ends_nothing_else(
    kind: str, place: MakePlace, template: Path, migrated: Migrated, request: pytest.FixtureRequest
) -> None:
    store = place()
    if kind == "sqlite":
        shutil.copyfile(template, store.path)
    else:
        server: Database = request.getfixturevalue({"mysql": "mariadb"}.get(kind, kind))
        store = Place(store.warm, store.folder, migrated(server, "mlflow_guarded"))
    experiment, run = store.warm.python(GUARDED, **store.env).split()[-2:]
    files = store.folder / "artifacts"
    (files / experiment / run / "artifacts").mkdir(parents=True)
    (files / experiment / run / "artifacts/x").write_bytes(b"x")
    done = store.run("gc", older_than=0, force=True)
    [line] = done["refused"]
    assert line.startswith(
        f"the deleted experiment {experiment} stays: guardrails in the database refer to it"
    )
    assert "SQL" not in line
    assert done["totals"] == {"run": 1, "model": 0, "experiment": 1, "bytes": 0}
    assert tree(files) == {f"{experiment}/{run}/artifacts/x": b"x"}
    assert len(store.run("gc", older_than=0, force=False)["found"]) == 2
    if kind == "sqlite":
        store.query("DELETE FROM guardrails")
        done = store.run("gc", older_than=0, force=True)
        assert done["refused"] == []
        assert tree(files) == {}
        assert store.query("SELECT * FROM metrics") == []


FILES = {
    "orphaned": [
        f"0/{GONE}/artifacts/x",
        "0/traces/tr-12ab/artifacts/traces.json",
        f"7/models/{MODEL}/artifacts/m",
    ],
    "referred to": [
        f"0/{RUN}/artifacts/x",
        "0/traces/tr-99/artifacts/traces.json",
        f"0/{'d' * 32}/artifacts/model/m",  # of a run that is gone, from which a version was registered
        f"0/{'e' * 32}/artifacts/model/m",
        "0/notes/x",
        "elsewhere/x",
        "7/other",
    ],
}
ROWS = f"""
INSERT INTO runs (run_uuid, experiment_id, artifact_uri, user_id, start_time, status, lifecycle_stage)
  VALUES ('{RUN}', 0, 'mlflow-artifacts:/0/{RUN}/artifacts', '', 1, 'FINISHED', 'active');
INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status) VALUES ('tr-99', 0, 1, 'OK');
INSERT INTO registered_models (name, workspace, creation_time) VALUES ('m', 'default', 1);
INSERT INTO model_versions (name, version, workspace, creation_time, source)
  VALUES ('m', 1, 'default', 1, 'mlflow-artifacts:/0/{"d" * 32}/artifacts/model'),
         ('m', 2, 'default', 1, 'runs:/{"e" * 32}/model');
"""


def filled(store: Place, template: Path) -> None:
    shutil.copyfile(template, store.path)
    with closing(sqlite3.connect(store.path)) as database:
        database.executescript(ROWS)


STOP = """
import os, signal
from in_job import artifact_location
delete = artifact_location.Artifacts.delete
def kill(self, entries):
    delete(self, entries)
    os.kill(os.getpid(), signal.SIGKILL)
artifact_location.Artifacts.delete = kill
"""


def filled_with_artifacts(store: Place, template: Path) -> Path:
    """Fill a store, and lay files of each kind into its folder of artifacts, which is returned."""
    filled(store, template)
    artifacts = store.folder / "artifacts"
    for name in FILES["orphaned"] + FILES["referred to"]:
        (artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (artifacts / name).write_bytes(b"12345")
    return artifacts


def test_what_nothing_refers_to_is_shown_and_removed_when_it_is_old(place: MakePlace, template: Path) -> None:
    store = place()
    artifacts = filled_with_artifacts(store, template)
    done = store.run("gc", older_than=0, force=True)  # a client may still be uploading
    assert (done["orphans"], done["young"]) == ([], 3)
    for path in artifacts.rglob("*"):
        os.utime(path, (1, 1))
    os.utime(artifacts / FILES["orphaned"][0])
    assert store.run("gc", older_than=0, force=False)["young"] == 1
    os.utime(artifacts / FILES["orphaned"][0], (1, 1))
    shown = store.run("gc", older_than=0, force=False)
    assert {orphan["path"] for orphan in shown["orphans"]} == {
        name.partition("/artifacts")[0] for name in FILES["orphaned"]
    }
    assert shown["orphaned"] == {"folders": 3, "bytes": 15}
    assert len(tree(artifacts)) == 10
    assert store.run("gc", older_than=10**10, force=True)["orphans"] == []
    assert store.start("gc", STOP, older_than=0, force=True).wait() == -9
    for path in artifacts.rglob("*"):
        os.utime(path, (1, 1))
    assert store.run("gc", older_than=0, force=True)["orphaned"]["folders"] == 2
    assert sorted(tree(artifacts)) == sorted(FILES["referred to"])
    assert not (artifacts / "7/models").exists()


def test_artifacts_of_another_store_stay(place: MakePlace, template: Path) -> None:
    """As where somebody tries a new database, and leaves the artifacts where they were."""
    store = place()
    artifacts = filled_with_artifacts(store, template)
    for path in artifacts.rglob("*"):
        os.utime(path, (1, 1))
    new = store.folder / "new.db"
    shutil.copyfile(template, new)
    env = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{new}"}
    beside = store.start("gc", env=env, older_than=0, force=False)
    assert beside.wait() == 0, beside.said
    assert f"what {store.path} refers to stays as well" in beside.said
    assert beside.result["orphaned"]["folders"] == 3
    odd = store.path.rename(store.folder / "of 100%25 & more?.db")
    beside = store.start("gc", env=env, older_than=0, force=False)
    assert beside.wait() == 0, beside.said
    assert f"what {odd} refers to stays as well" in beside.said
    assert beside.result["orphaned"]["folders"] == 3
    odd.rename(store.folder / "moved away")
    alone = store.start("gc", env=env, older_than=0, force=True)
    assert alone.wait() == 0, alone.said
    assert "they may be another's: none counts as orphaned" in alone.said
    assert (alone.result["orphaned"]["folders"], alone.result["young"]) == (0, 0)
    assert len(tree(artifacts)) == 10


def test_in_an_object_store_it_has_to_be_found_twice(place: MakePlace, template: Path, s3: S3) -> None:
    store = place(destination="s3://bucket/orphans", **s3.env)
    filled(store, template)
    store.query(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
        "VALUES (5, 'not proxied', 's3://bucket/orphans/plain', 'active')"
    )
    plain = f"plain/{GONE}/artifacts/x"
    for name in [plain, *FILES["orphaned"], *FILES["referred to"]]:
        s3.client.put_object(Bucket="bucket", Key=f"orphans/{name}", Body=b"12345")
    assert store.run("gc", older_than=0, force=True)["young"] == 4
    [notes] = store.backups.glob(".orphans-*.json")
    earlier = {path: [size, since - 4000] for path, (size, since) in json.loads(notes.read_text()).items()}
    notes.write_text(json.dumps(earlier))
    s3.client.put_object(Bucket="bucket", Key=f"orphans/0/{GONE}/artifacts/y", Body=b"still uploading")
    assert store.start("gc", STOP, older_than=0, force=True).wait() == -9
    done = store.run("gc", older_than=0, force=True)
    assert (done["orphaned"], done["young"]) == ({"folders": 2, "bytes": 10}, 1)
    assert set(s3.tree("orphans/")) == {*FILES["referred to"], FILES["orphaned"][0], f"0/{GONE}/artifacts/y"}


WORKSPACES = """
import os
os.environ["MLFLOW_ENABLE_WORKSPACES"] = "true"
from mlflow.entities import Metric
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore
from mlflow.entities import Workspace
from mlflow.utils.workspace_context import WorkspaceContext
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
SqlAlchemyStore(uri).create_workspace(Workspace(name="team"))
store = WorkspaceAwareSqlAlchemyStore(uri, "mlflow-artifacts:/")
for name in ("default", "team"):
    with WorkspaceContext(name):
        experiment = store.create_experiment("e-" + name, tags=[])
        run = store.create_run(experiment, "me", 1, [], name).info
        store.delete_run(run.run_id)
        kept = store.create_run(experiment, "me", 1, [], name).info
        print(run.artifact_uri.partition(":")[2], kept.artifact_uri.partition(":")[2])
"""


@pytest.mark.parametrize("env", [{}, {"MLFLOW_ACTION_EXTRA_PARAMS": "--enable-workspaces"}])
def test_all_workspaces(env: dict[str, str], place: MakePlace, template: Path) -> None:
    store = place(**env)
    shutil.copyfile(template, store.path)
    places = store.warm.python(WORKSPACES, **store.env).split()[-4:]
    artifacts = store.folder / "artifacts"
    for path in places:
        (artifacts / path.strip("/")).mkdir(parents=True)
        (artifacts / path.strip("/") / "x").write_bytes(b"x")
    name = store.backup(artifacts=True)
    orphan = artifacts / f"{places[2].strip('/').rpartition('/')[0]}".rpartition("/")[0] / GONE / "artifacts"
    orphan.mkdir(parents=True)
    for folder in (orphan, orphan.parent):
        os.utime(folder, (1, 1))
    done = store.run("gc", older_than=0, force=True)
    assert done["totals"] == {"run": 2, "model": 0, "experiment": 0, "bytes": 2}
    assert done["orphaned"]["folders"] == 1  # of the second workspace
    assert not orphan.exists()
    assert set(tree(artifacts)) == {f"{path.strip('/')}/x" for path in places[1::2]}
    store.restore(name, force=True)
    assert len(tree(artifacts)) == 4
    assert len(store.query("SELECT * FROM runs")) == 4
    assert store.query("SELECT DISTINCT workspace FROM experiments ORDER BY 1") == [("default",), ("team",)]
    assert store.run("upgrade", check=True)["needed"] is False
