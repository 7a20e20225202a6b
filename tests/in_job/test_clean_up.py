"""A clean-up shows what is deleted, and removes just that, artifacts and all."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from .conftest import S3, MakePlace
from .harness import old_database
from .places import Place, tree

pytestmark = pytest.mark.e2e
DAY = 24 * 3600
FILL = """
import json, os
from in_job import location
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.file_store import FileStore
from mlflow.entities import LoggedModelParameter, Metric, TraceInfo, TraceLocation, TraceState
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
if "://" in uri:
    store = SqlAlchemyStore(location.sql_uri(uri) if "sqlite" not in uri else uri, "mlflow-artifacts:/")
else:
    store = FileStore(uri, "mlflow-artifacts:/")
made = {"experiments": {}, "places": {}}
for name in ("kept", "deleted", "long ago"):
    made["experiments"][name] = experiment = store.create_experiment(name, tags=[])
    for run in ("run", "run deleted"):
        found = store.create_run(experiment, "me", 1, [], f"{name}: {run}").info
        store.log_metric(found.run_id, Metric("m", 1, 1, 1))
        made["places"][f"{name}: {run}"] = [found.run_id, found.artifact_uri.partition(":")[2]]
        if run == "run deleted":
            store.delete_run(found.run_id)
    if "://" in uri:
        for word in ("model", "other"):
            model = store.create_logged_model(experiment, f"{name}-{word}".replace(" ", "-"), found.run_id)
            made["places"][f"{name}: {word}"] = [model.model_id, model.artifact_location.partition(":")[2]]
            if name != "kept" and word == "model":
                store.delete_logged_model(model.model_id)
        store.start_trace(TraceInfo(
            trace_id="tr-" + experiment, trace_location=TraceLocation.from_experiment_id(experiment),
            request_time=1, state=TraceState.OK))
    if name != "kept":
        store.delete_experiment(experiment)
print(json.dumps(made))
"""


class Filled:
    """A store with an experiment that is kept, one deleted now and one long ago; each has deleted runs."""

    def __init__(self, store: Place, template: Path | None = None) -> None:
        if template:
            shutil.copyfile(template, store.path)
        self.store = store
        made = json.loads(store.warm.python(FILL, **store.env).splitlines()[-1])
        self.experiments: dict[str, str] = made["experiments"]
        self.places: dict[str, str] = {name: place for name, (_, place) in made["places"].items()}
        self.ids: dict[str, str] = {name: identifier for name, (identifier, _) in made["places"].items()}
        self.files = {f"{place.strip('/')}/deep/x.bin": b"x" * 100 for place in self.places.values()}
        for identifier in self.experiments.values():
            self.files[f"{identifier}/traces/tr-{identifier}/artifacts/traces.json"] = b"t" * 10
        self.files["elsewhere/x"] = b"of others"

    def write(self) -> None:
        """Put the artifacts into the folder of the store."""
        for name, data in self.files.items():
            path = self.store.folder / "artifacts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def left(self, *names: str) -> dict[str, bytes]:
        """Return the files that have to be there when only these runs, models and experiments are."""
        beginnings = [self.places[name].strip("/") + "/" for name in names if name in self.places]
        beginnings += [f"{self.experiments[name]}/traces" for name in names if name in self.experiments]
        return {
            path: data for path, data in self.files.items() if path.startswith(("elsewhere", *beginnings))
        }

    def shown(self, *, older_than: int = 0, force: bool = False) -> dict[str, int]:
        """Run a clean-up; return the sizes by the names of what it shows."""
        done = self.store.run("gc", older_than=older_than, force=force)
        names = {identifier: name for name, identifier in [*self.ids.items(), *self.experiments.items()]}
        found = {names[item["id"]]: item["bytes"] for item in done["found"]}
        assert sum(found.values()) == done["totals"]["bytes"]
        return found


KEPT = ("kept", "kept: run", "kept: model", "kept: other")
DELETED = {
    "kept: run deleted": 100,
    "deleted: run": 100,
    "deleted: run deleted": 100,
    "deleted: model": 100,
    "deleted": 110,
    "long ago: run": 100,
    "long ago: run deleted": 100,
    "long ago: model": 100,
    "long ago": 110,
}
"""What is deleted, and the bytes that each is shown with: an experiment's are of traces and other models."""
LONG_AGO = {name: size for name, size in DELETED.items() if name.startswith("long ago")}


def make_older(filled: Filled) -> None:
    """Let some deletions be 40 days ago."""
    then, experiment = int(time.time() - 40 * DAY) * 1000, filled.experiments["long ago"]
    where = f"WHERE experiment_id = {experiment}"
    filled.store.query(f"UPDATE runs SET deleted_time = {then} {where}")
    filled.store.query(f"UPDATE experiments SET last_update_time = {then} {where}")
    filled.store.query(
        f"UPDATE logged_models SET last_updated_timestamp_ms = {then} {where} AND lifecycle_stage = 'deleted'"
    )


def test_what_is_shown_is_removed_and_nothing_else(place: MakePlace, template: Path) -> None:
    store = place()
    filled = Filled(store, template)
    filled.write()
    make_older(filled)
    assert filled.shown() == DELETED
    assert filled.shown(older_than=30 * DAY) == LONG_AGO
    assert filled.shown(older_than=50 * DAY, force=True) == {}
    assert tree(store.folder / "artifacts") == filled.files
    assert filled.shown(older_than=30 * DAY, force=True) == LONG_AGO
    assert filled.shown() == {name: size for name, size in DELETED.items() if name not in LONG_AGO}
    stop = """
import os, signal
from in_job import artifact_location
delete, count = artifact_location.Artifacts.delete, []
def kill(self, entries):
    delete(self, entries)
    count.append(1)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
artifact_location.Artifacts.delete = kill
"""
    assert store.start("gc", stop, older_than=0, force=True).wait() == -9
    assert filled.shown() == {}  # the rows went first, so what is left of the files is orphaned
    for path in (store.folder / "artifacts").rglob("*"):
        os.utime(path, (1, 1))
    assert store.run("gc", older_than=0, force=True)["orphaned"]["folders"] > 1
    assert store.run("gc", older_than=0, force=False)["orphaned"] == {"folders": 0, "bytes": 0}
    assert tree(store.folder / "artifacts") == filled.left(*KEPT)
    assert {name for (name,) in store.query("SELECT name FROM experiments")} == {"Default", "kept"}
    assert {run for (run,) in store.query("SELECT run_uuid FROM runs")} == {filled.ids["kept: run"]}
    assert {model for (model,) in store.query("SELECT name FROM logged_models")} == {
        "kept-model",
        "kept-other",
    }


def test_in_an_object_store(place: MakePlace, template: Path, s3: S3) -> None:
    store = place(destination="s3://bucket/gc", **s3.env)
    filled = Filled(store, template)
    for name, data in filled.files.items():
        s3.client.put_object(Bucket="bucket", Key=f"gc/{name}", Body=data)
    assert filled.shown() == DELETED
    assert filled.shown(force=True) == DELETED
    assert s3.tree("gc/") == filled.left(*KEPT)


def test_an_object_store_that_deletes_by_a_bare_prefix(place: MakePlace, template: Path, s3: S3) -> None:
    """As MLflow's did up to 3.1.4: to it, 1 was 10 and 12 as well."""
    store = place(destination="s3://bucket/bare", **s3.env)
    shutil.copyfile(template, store.path)
    for number, stage in ((1, "deleted"), (10, "active"), (12, "active")):
        store.query(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            f"VALUES ({number}, 'e{number}', 'mlflow-artifacts:/{number}', '{stage}')"
        )
        for name in ("run/artifacts/f", "run/artifacts/f2", "f"):
            s3.client.put_object(Bucket="bucket", Key=f"bare/{number}/{name}", Body=b"x")
    bare = """
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
def delete_artifacts(self, artifact_path=None):
    bucket, prefix = self.parse_s3_compliant_uri(self.artifact_uri)
    prefix = f"{prefix}/{artifact_path or ''}".rstrip("/")
    client = self._get_s3_client()
    for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=found["Key"])
S3ArtifactRepository.delete_artifacts = delete_artifacts
"""
    assert store.run("gc", bare, older_than=0, force=True)["totals"]["experiment"] == 1
    assert {name.partition("/")[0] for name in s3.tree("bare/")} == {"10", "12"}
    assert len(s3.tree("bare/")) == 6


def test_what_clients_restore_meanwhile_stays(place: MakePlace, template: Path) -> None:
    store = place()
    filled = Filled(store, template)
    filled.write()
    restoring = """
import contextlib, os, sqlite3
from in_job import artifact_location
size, count = artifact_location.Artifacts.size, []
def restore(self):  # a click on Restore, in the middle
    count.append(1)
    if len(count) == 2:
        with contextlib.closing(sqlite3.connect(os.environ["DATABASE"])) as database, database:
            database.execute("UPDATE runs SET lifecycle_stage = 'active', deleted_time = NULL")
            for table in ("experiments", "logged_models"):
                database.execute(f"UPDATE {table} SET lifecycle_stage = 'active'")
    return size(self)
artifact_location.Artifacts.size = restore
"""
    env = {"DATABASE": str(store.path)}
    [gone] = store.run("gc", restoring, env=env, older_than=0, force=True)["found"]
    left = [name for name, identifier in filled.ids.items() if identifier != gone["id"]]
    assert tree(store.folder / "artifacts") == filled.left(*filled.experiments, *left)
    rows = store.query("SELECT run_uuid FROM runs UNION SELECT model_id FROM logged_models")
    assert {identifier for (identifier,) in rows} == {filled.ids[name] for name in left}
    assert len(store.query("SELECT * FROM experiments")) == 4


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_what_a_new_experiment_with_the_same_id_has_stays(
    kind: str, place: MakePlace, template: Path, request: pytest.FixtureRequest
) -> None:
    """SQLite gives the highest id again: here right after the rows are gone, and before the artifacts are."""
    store = place()
    if kind == "s3":
        s3: S3 = request.getfixturevalue("s3")
        store = place(destination="s3://bucket/again", **s3.env)
    shutil.copyfile(template, store.path)
    insert = "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES "
    store.query(f"{insert} (7, 'old', 'mlflow-artifacts:/7', 'deleted')")
    old = [
        f"7/{'a' * 32}/artifacts/deep/x",
        f"7/models/m-{'a' * 32}/artifacts/x",
        "7/traces/tr-1/x",
        "7/loose",
    ]
    new = [f"7/{'b' * 32}/artifacts/x", f"7/models/m-{'b' * 32}/artifacts/x", "7/traces/tr-2/x"]
    made_meanwhile = f"""
import os, pathlib
from in_job import clean_up, queries
from in_job.store import Store
remove = clean_up.CleanUp.remove_rows
def meanwhile(self, items):
    done = remove(self, items)
    queries.change(self.store.uri, "{insert} (7, 'new', 'mlflow-artifacts:/7', 'active')", [""])
    for name in {new!r}:
        if self.store.artifacts:
            path = self.store.artifacts / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"new")
        else:
            import boto3
            client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
            client.put_object(Bucket="bucket", Key="again/" + name, Body=b"new")
    return done
clean_up.CleanUp.remove_rows = meanwhile
"""
    for name in old:
        if kind == "s3":
            s3.client.put_object(Bucket="bucket", Key=f"again/{name}", Body=b"old")
        else:
            (store.folder / "artifacts" / name).parent.mkdir(parents=True, exist_ok=True)
            (store.folder / "artifacts" / name).write_bytes(b"old")
    assert store.run("gc", made_meanwhile, older_than=0, force=True)["totals"]["experiment"] == 1
    left = s3.tree("again/") if kind == "s3" else tree(store.folder / "artifacts")
    assert left == dict.fromkeys(new, b"new")


def test_a_deleted_experiment_with_a_run_that_is_not_stays(place: MakePlace, template: Path) -> None:
    store = place()
    filled = Filled(store, template)
    filled.write()
    run, experiment = filled.ids["deleted: run"], filled.experiments["deleted"]
    store.query(f"UPDATE runs SET lifecycle_stage = 'active', deleted_time = NULL WHERE run_uuid = '{run}'")
    job = store.start("gc", older_than=0, force=True)
    assert job.wait() == 0, job.said
    assert f"the deleted experiment {experiment} stays: run {run} in it is not deleted" in job.said
    assert {item["id"] for item in job.result["found"]} == {
        {**filled.ids, **filled.experiments}[name] for name in DELETED.keys() - {"deleted", "deleted: run"}
    }
    assert tree(store.folder / "artifacts") == filled.left(*KEPT, "deleted", "deleted: run", "deleted: other")
    assert {run for (run,) in store.query("SELECT run_uuid FROM runs")} == {run, filled.ids["kept: run"]}


def test_a_file_store(place: MakePlace) -> None:
    store = place()
    store.env["MLFLOW_BACKEND_STORE_URI"] = str(store.folder / "mlruns")
    filled = Filled(store)
    filled.write()
    shown = filled.shown()
    assert set(shown) >= {"kept: run deleted", "deleted: run", "deleted", "long ago"}
    assert filled.shown(force=True) == shown
    assert filled.shown() == {}
    assert tree(store.folder / "artifacts") == filled.left(*KEPT)


HARMFUL = (
    "mlflow-artifacts:/../secret",
    "mlflow-artifacts:/x/../../secret",
    "mlflow-artifacts:/%2e%2e/secret",
    "mlflow-artifacts:/%252e%252e/secret",
    "mlflow-artifacts:/0%23",
    "mlflow-artifacts:/0%3Fx",
    "mlflow-artifacts:",
    "mlflow-artifacts:/",
    "mlflow-artifacts://host/..",
)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_locations_that_lead_out_of_the_artifacts(
    kind: str, place: MakePlace, template: Path, request: pytest.FixtureRequest
) -> None:
    """Clients choose them. What is there stays, and the runs are removed."""
    store = place()
    (store.folder / "secret").mkdir()
    (store.folder / "artifacts/0").mkdir(parents=True)
    for path in ("secret/x", "artifacts/0/x"):
        (store.folder / path).write_bytes(b"x")
    if kind == "s3":
        s3: S3 = request.getfixturevalue("s3")
        store.env |= {**s3.env, "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/out"}
        for key in ("out/0/x", "secret/x", "out/0"):
            s3.client.put_object(Bucket="bucket", Key=key, Body=b"x")
    shutil.copyfile(template, store.path)
    for number, location in enumerate(HARMFUL, 1):
        store.query(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            f"VALUES ({number}, 'harm {number}', '{location}', 'deleted')"
        )
        store.query(
            "INSERT INTO runs (run_uuid, experiment_id, artifact_uri, user_id, start_time, deleted_time, "
            "status, lifecycle_stage) "
            f"VALUES ('r{number}', {number}, '{location}', '', 1, 1, 'FINISHED', 'deleted')"
        )
    done = store.run("gc", older_than=0, force=True)
    assert done["totals"] == {"run": len(HARMFUL), "model": 0, "experiment": len(HARMFUL), "bytes": 0}
    assert store.query("SELECT * FROM runs") == []
    assert (store.folder / "secret/x").exists()
    assert (store.folder / "artifacts/0/x").exists()
    if kind == "s3":
        assert set(s3.tree("")) >= {"out/0/x", "secret/x", "out/0"}


def test_an_older_schema_is_to_be_upgraded_first(place: MakePlace) -> None:
    store = place()
    old_database(store.path)
    assert "`make mlflow-upgrade` first" in store.refused("gc", older_than=0, force=True)
