"""Make the store that the older action's server left; run by a Python with an older MLflow, as root on Linux.

    unshare --mount python make_older_store.py OUT

It starts `mlflow server` with the words of the action that had this MLflow, logs to it by its own client, and
writes OUT/mlflow-VERSION.sql, the database, and OUT/mlflow-VERSION.json, the other files of the volume.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

VOLUME = Path("/usr/local/share/mlflow")  # where the action's example mounts it
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
WORDS = {
    "1": [
        "--backend-store-uri=sqlite:////usr/local/share/mlflow/mlflow.db",
        f"--default-artifact-root={VOLUME}",
    ],
    "2": [
        f"--backend-store-uri=sqlite:////{VOLUME}/mlflow.db",
        f"--artifacts-destination={VOLUME}",
        "--serve-artifacts",
    ],
}
WORDS["3"] = WORDS["2"]


def log(uri: str) -> None:
    """Log runs, artifacts and a registered model."""
    mlflow.set_tracking_uri(uri)
    client = MlflowClient()
    runs = []
    for name, experiment in (("Default", "0"), ("iris", client.create_experiment("iris"))):
        for rate in (0.1, 0.2):
            run = client.create_run(experiment).info.run_id
            client.log_param(run, "rate", rate)
            client.set_tag(run, "of", name)
            for step in range(3):
                client.log_metric(run, "loss", rate / (step + 1), step=step)
            client.log_text(run, f"{name} {rate}", "notes/note.txt")
            client.set_terminated(run)
            runs.append(run)
    client.create_registered_model("flowers")
    source = client.get_run(runs[-1]).info.artifact_uri + "/notes"
    client.create_model_version("flowers", source, runs[-1])
    if hasattr(client, "set_registered_model_alias"):  # MLflow 2.3 and newer
        client.set_registered_model_alias("flowers", "champion", "1")
    if hasattr(client, "create_logged_model"):  # MLflow 3
        model = client.create_logged_model(experiment, "petals", source_run_id=runs[-1])
        client.finalize_logged_model(model.model_id, "READY")
    client.delete_run(runs[0])


def main(out: str) -> None:
    """Make the store in a file system of this process alone, and write what is in it."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(VOLUME.parent)], check=True)
    VOLUME.mkdir()
    words = ["server", "--host", "127.0.0.1", "--port", str(PORT), *WORDS[mlflow.__version__[0]]]
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GUNICORN_CMD_ARGS": "--timeout 300",
    }
    mlflow_command = str(Path(sys.executable).with_name("mlflow"))
    server = subprocess.Popen([mlflow_command, *words], env=env, cwd=str(VOLUME), start_new_session=True)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
                break
            except OSError:
                time.sleep(0.2)
        log(f"http://127.0.0.1:{PORT}")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    stem = Path(out, f"mlflow-{mlflow.__version__}")
    database = VOLUME / "mlflow.db"
    lines = sqlite3.connect(database).iterdump()
    stem.with_name(stem.name + ".sql").write_text("\n".join(lines) + "\n")
    files = {
        str(p.relative_to(VOLUME)): p.read_text()
        for p in sorted(VOLUME.rglob("*"))
        if p.is_file() and p != database
    }
    stem.with_name(stem.name + ".json").write_text(json.dumps(files, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
