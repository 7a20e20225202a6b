"""`ui` mode, file stores, and settings that are refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from .harness import ARTIFACTS, StartServer, mlflow_python

pytestmark = pytest.mark.e2e
Refused = Callable[..., str]

TRAINING_JOB = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
experiment = mlflow.create_experiment("direct", artifact_location=sys.argv[2])
with mlflow.start_run(experiment_id=experiment) as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("a plot", "plots/loss.txt")
print(run.info.run_id)
"""


DAILY_SUM = """
INSERT INTO sql_trace_metric_daily_rollups
  (experiment_id, rollup_day, metric_name, grouping_set, sample_count, sum_value)
VALUES (0, '2026-01-01', 'latency', 'total', 1, 0.5)
"""


def test_ui_mode_shows_what_a_job_wrote_with_no_server_up(ready_volume: Path, start: StartServer) -> None:
    location = f"{ready_volume}/artifacts/direct"
    run = mlflow_python(
        TRAINING_JOB, f"sqlite:///{ready_volume}/mlflow.db", location, cwd=ready_volume.parent
    )
    run = run.split()[-1]
    with closing(sqlite3.connect(ready_volume / "mlflow.db")) as database, database:
        database.execute(DAILY_SUM)  # another server's, with which MLflow would not start
    server = start(ready_volume, MLFLOW_ACTION_MODE="UI").wait_until_up()
    shown = server.ask("GET", f"/runs/get?run_id={run}")["run"]
    assert shown["data"]["metrics"][0]["value"] == 0.5
    listed = server.ask("GET", f"/artifacts/list?run_id={run}&path=plots")["files"]
    assert [file["path"] for file in listed] == ["plots/loss.txt"]
    assert server.call("GET", f"/get-artifact?run_uuid={run}&path=plots/loss.txt") == (200, b"a plot")
    assert server.call("GET", f"{ARTIFACTS}/direct/{run}/artifacts/plots/loss.txt")[0] == 503
    for path in ("../../../../mlflow.db", "/mlflow.db", quote("../" * 4 + "mlflow.db", safe="")):
        status, answer = server.call("GET", f"/get-artifact?run_uuid={run}&path={path}")
        assert status >= 400
        assert b"SQLite" not in answer
    made = server.ask("POST", "/experiments/create", {"name": "made in the UI"})["experiment_id"]
    where = server.ask("GET", f"/experiments/get?experiment_id={made}")["experiment"]["artifact_location"]
    assert where.endswith(f"{ready_volume}/artifacts/{made}")
    assert "ui mode" in server.lines[-1]
    assert "daily sums" not in server.log.read_text("utf-8")
    with closing(sqlite3.connect(ready_volume / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM sql_trace_metric_daily_rollups").fetchone() == (1,)


def test_an_old_file_store_keeps_working(volume: Path, tmp_path: Path, start: StartServer) -> None:
    old = str(tmp_path / "mlruns")
    run = mlflow_python(
        TRAINING_JOB, old, f"{old}/direct", cwd=tmp_path, MLFLOW_ALLOW_FILE_STORE="true"
    ).split()[-1]
    server = start(volume).wait_until_up()
    assert server.ask("GET", f"/runs/get?run_id={run}")["run"]["data"]["metrics"][0]["value"] == 0.5
    assert f"mlflow migrate-filestore --source {old}" in server.lines[1]
    assert not (volume / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("env", "line"),
    [
        pytest.param({"MLFLOW_ACTION_MODE": "gui"}, "mode is 'gui': set it to server or ui", id="mode"),
        pytest.param(
            {"MLFLOW_ACTION_EXTRA_PARAMS": "--a 'b"},
            'extra_params is "--a \'b": No closing quotation; quote it as for a shell',
            id="quotes",
        ),
        pytest.param(
            {"MLFLOW_ACTION_DATABASE_TIMEOUT": "soon"},
            "MLFLOW_ACTION_DATABASE_TIMEOUT is 'soon': set it to a number of seconds",
            id="timeout",
        ),
        pytest.param(
            {"MLFLOW_ACTION_EXTRA_PARAMS": "--backend-store-uri=sqlite:////x"},
            "extra_params has --backend-store-uri: use the input for it",
            id="own-input",
        ),
        pytest.param(
            {"MLFLOW_ARTIFACTS_DESTINATION": ""}, "artifacts_destination is empty", id="destination"
        ),
        pytest.param(
            {"MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/x"},
            "backend_store_uri is empty and artifacts_destination s3://bucket/x cannot hold a database",
            id="remote-only",
        ),
        pytest.param(
            {"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db"},
            "sqlite:///mlflow.db is lost with the job",
            id="relative",
        ),
    ],
)
def test_refused_settings(env: dict[str, str], line: str, volume: Path, refused: Refused) -> None:
    assert refused(env.pop("MLFLOW_ARTIFACTS_DESTINATION", volume), **env).startswith(line)


def test_an_image_without_mlflow(volume: Path, refused: Refused, tmp_path: Path) -> None:
    hides = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: n != 'mlflow' and f(n)"
    (tmp_path / "sitecustomize.py").write_text(hides)
    assert refused(volume, PYTHONPATH=str(tmp_path)).startswith("MLflow is not installed for ")
