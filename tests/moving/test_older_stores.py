"""The whole way: an older job is taken over, its server's store served, and old clients still log."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.copying.older_flows import FLOWS
from tests.copying.project import call

from .conftest import Moved

pytestmark = pytest.mark.e2e

VERSIONS = {  # MLflow, and the release of the action that ran it
    "1.30.0": FLOWS["example of 1.25"],
    "2.1.1": FLOWS["example of 2.1.1"],
    "3.1.4": FLOWS["example of 3.1.4"],
}
LOG = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment(sys.argv[2])
with mlflow.start_run() as run:
    mlflow.log_param("from", mlflow.__version__)
    mlflow.log_metric("loss", 0.5)
    if sys.argv[2] == "new":  # an experiment of before may have a place that only jobs with the volume reach
        mlflow.log_text("by the server", "note.txt")
print(run.info.run_id)
"""


@pytest.mark.parametrize(("version", "flow"), VERSIONS.items(), ids=VERSIONS)
def test_taken_over_and_served(project: Moved, old_client: Path, version: str, flow: str) -> None:
    job = next(iter(yaml.safe_load(flow)["jobs"]))
    store = project.lay_store("live/mlflow_artifacts", version)
    project.install("TAKE_OVER=yes")
    out, err = project.local("mlflow-up")
    url = out.splitlines()[0].rpartition(" ")[2]
    assert "/usr/local/share/mlflow/mlflow.db: upgrading the schema from " in err
    [backup] = project.volume("live/mlflow_artifacts").glob("backups/mlflow-*.db")
    assert f"backup: /usr/local/share/mlflow/backups/{backup.name}" in err
    assert f"inspect_job('{job}')" in out

    api = f"{url}/api/2.0/mlflow"
    body = {"experiment_ids": ["0", "1"], "run_view_type": "ALL"}
    found = {run["info"]["run_id"]: run for run in call(f"{api}/runs/search", "POST", body)["runs"]}
    assert {run: found[run]["info"]["lifecycle_stage"] for run in found} == store["runs"]
    for run, entry in found.items():
        data = entry["data"]
        tags = {tag["key"]: tag["value"] for tag in data["tags"]}
        note = f"{tags['of']} {data['params'][0]['value']}"
        assert len(call(f"{api}/metrics/get-history?run_id={run}&metric_key=loss")["metrics"]) == 3
        listed = call(f"{api}/artifacts/list?run_id={run}&path=notes")["files"]
        assert [file["path"] for file in listed] == ["notes/note.txt"]
        assert note in store["files"].values()
        if entry["info"]["lifecycle_stage"] == "active":
            get = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())"
            assert project.python(get, f"{url}/get-artifact?path=notes/note.txt&run_uuid={run}") == note
    model = call(f"{api}/registered-models/get?name=flowers")["registered_model"]
    assert model["latest_versions"][0]["run_id"] in found
    if version == "3.1.4":
        assert model["aliases"] == [{"alias": "champion", "version": "1"}]
        [logged] = call(f"{api}/logged-models/search", "POST", {"experiment_ids": ["1"]})["models"]
        assert logged["info"]["name"] == "petals"

    for experiment in ("iris", "new"):
        words = [str(old_client), "-c", LOG, url, experiment]
        done = subprocess.run(
            words, env=project.env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        run = call(f"{api}/runs/get?run_id={done.stdout.strip()}")["run"]
        assert run["data"]["params"] == [{"key": "from", "value": "1.30.0"}]
        assert run["info"]["status"] == "FINISHED"
    [file] = call(f"{api}/artifacts/list?run_id={run['info']['run_id']}")["files"]
    assert file["path"] == "note.txt"
    project.local("mlflow-down")
