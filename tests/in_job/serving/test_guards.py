"""What a server's stores refuse: long histories at once, places outside of the artifacts, links to them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from in_job.serving.guards import is_outside

from ..places import Warm


@pytest.mark.parametrize(
    ("location", "outside"),
    [
        ("mlflow-artifacts:/1", False),
        ("s3://bucket/x", False),
        ("{0}/artifacts", False),
        ("{0}/artifacts/1", False),
        ("file://{0}/artifacts/a%20b", False),
        ("{0}/artifacts/../x", True),
        ("{0}/artifacts-2", True),
        ("file://{0}/artifacts/%2e%2e/x", True),
        ("FILE:{0}/x", True),
        ("{0}/artifacts/link/1", True),
        ("/etc", True),
        ("relative", True),
    ],
)
def test_places_outside_of_the_artifacts(location: str, outside: bool, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/link").symlink_to("/etc")
    assert is_outside(location.format(tmp_path), f"{tmp_path}/artifacts") is outside


def test_with_an_object_store_no_path_is_inside() -> None:
    assert is_outside("/mnt/x", "s3://bucket")


CODE = """
import os, sqlite3
from pathlib import Path
from in_job.serving import guards
folder = Path.cwd()
uri, destination = f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts"
with sqlite3.connect(folder / "mlflow.db") as database:
    for number in range(5):
        columns = "INSERT INTO experiments (name, artifact_location, lifecycle_stage)"
        database.execute(f"{columns} VALUES ('old {number}', '/tmp/old{number}', 'active')")
guards.POINTS = 100
guards.guard_stores({"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": destination})
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

def refused(work, words):
    try:
        work()
    except MlflowException as error:
        assert error.error_code == "INVALID_PARAMETER_VALUE" and words in error.message, error.message
    else:
        raise SystemExit(f"not refused: {words}")

store = SqlAlchemyStore(uri, "mlflow-artifacts:/")
refused(lambda: store.create_experiment("out", "/etc/x"), "artifact_location /etc/x is no place")
refused(lambda: store.create_experiment("out", artifact_location="file:///etc/x"), "/etc/x is no place")
for number, place in enumerate([None, "", "s3://bucket/x", "mlflow-artifacts:/7", f"{destination}/8"]):
    store.create_experiment(f"in {number}", place)
run = store.create_run("0", "me", 1, [], "a run").info.run_id
def log(first, last):
    store.log_batch(run, [Metric("loss", 1.0, step, step) for step in range(first, last)], [], [])
log(0, 100)
assert len(store.get_metric_history(run, "loss")) == 100
log(100, 101)
refused(lambda: store.get_metric_history(run, "loss"), "more than 100 points, the most")
refused(lambda: store.get_metric_history(run, "loss", max_results=101), "by max_results=25000")
page = store.get_metric_history(run, "loss", max_results=60)
rest = store.get_metric_history(run, "loss", None, page.token)
assert [metric.step for metric in [*page, *rest]] == list(range(101))
other = store.create_run("0", "me", 1, [], "another").info.run_id
store.log_batch(other, [Metric("loss", 1.0, step, step) for step in range(101)], [], [])
runs = [run, other]
refused(lambda: store.get_metric_history_bulk(runs, "loss", -1), "max_results is -1: ask for 0")
assert len(store.get_metric_history_bulk(runs, "loss", 25000)) == 100
assert len(store.get_metric_history_bulk_interval(runs, "loss", 2500, None, None)) == 100
few = store.get_metric_history_bulk_interval(runs, "loss", max_results=3, start_step=0, end_step=10)
assert len(few) == 2 * 3
outside = folder / "outside"
(outside / "sub").mkdir(parents=True)
(outside / "file").write_text("kept")
(folder / "artifacts/1/sub").mkdir(parents=True)
(folder / "artifacts/1/sub/file").write_text("x")
(folder / "artifacts/link").symlink_to(outside)
repository = LocalArtifactRepository(destination)
for path in ("link/file", "link/sub", "link", "1/../link/file"):
    refused(lambda: repository.delete_artifacts(path), "leads out of the artifacts by a link")
assert (outside / "file").read_text() == "kept" and (outside / "sub").is_dir()
repository.delete_artifacts("1/sub")
assert not (folder / "artifacts/1/sub").exists()
repository.delete_artifacts()
assert not (folder / "artifacts").exists() and (outside / "file").exists()
guards.guard_stores({"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": destination,
                     "MLFLOW_ACTION_MODE": "ui"})
"""


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_stores_refuse(template: Path, warm: Warm, tmp_path: Path) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    said = warm.python(CODE, HOME=str(tmp_path)).splitlines()
    [line] = [line for line in said if line.startswith("mlflow-server: ")]
    assert line == (
        f"mlflow-server: experiments that write outside of the artifacts, {tmp_path}/artifacts: "
        "old 0 (/tmp/old0), old 1 (/tmp/old1), old 2 (/tmp/old2) and 2 more"
    )
