"""Print, as SQL, the tracking database that real MLflow 2.1.1 makes: two runs and a registered model."""

import sqlite3
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

with tempfile.TemporaryDirectory() as folder:
    database = Path(folder, "mlflow.db")
    client = MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")
    experiment = client.create_experiment("old", artifact_location="mlflow-artifacts:/1")
    for rate in (0.1, 0.2):
        run = client.create_run(experiment, run_name=f"rate-{rate}").info.run_id
        client.log_param(run, "rate", rate)
        for step in range(3):
            client.log_metric(run, "loss", rate / (step + 1), step=step)
        client.set_terminated(run)
    client.create_registered_model("old-model")
    client.create_model_version("old-model", f"mlflow-artifacts:/1/{run}/artifacts/model", run)
    for line in sqlite3.connect(database).iterdump():
        print(line)
