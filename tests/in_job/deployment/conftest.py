"""What these tests run on: registered models, and jobs that serve one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from flow import program
from tests.conftest import ROOT
from tests.in_job.harness import MLFLOW_PYTHON, SERVE, free_port, python_with_mlflow, wait_for
from tests.in_job.places import Warm, warm_process

FLAVOURS = ROOT / "dev/flavours.lock"  # what the environment of the jobs lacks
LIGHTGBM = FLAVOURS.read_text("utf-8").split()[0]


class Deployed:
    """A job that serves a model, with its output in a file: a program of its own, or a fork of `warm`."""

    def __init__(self, folder: Path, env: dict[str, str], warm: Warm | None) -> None:
        self.port = free_port()
        self.log = folder / f"deployment-{self.port}.log"
        path = f"{MLFLOW_PYTHON.parent}:{os.environ['PATH']}"
        common = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "TMPDIR"))}
        common |= {"PATH": path, "HOME": str(folder), "MLFLOW_HOST": "127.0.0.1"}
        common |= {"MLFLOW_DEPLOY_PORT": str(self.port), "MLFLOW_DEPLOY_WORKERS": "1"}
        common |= program.variables("deployment.serve") | env
        command = program.command("deployment.serve")
        self.log.touch()
        self.process: Any
        if warm:
            anew = "in_job mlflow.server mlflow.cli mlflow.assistant"
            self.process = warm.serve(SERVE, self.log, **common, SERVE=command, ANEW=anew)
            return
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python_with_mlflow(), "-uc", command],
                env=common,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def lines(self) -> list[str]:
        """What the job has said of its deployment."""
        text = self.log.read_text("utf-8", "replace")
        return [line[15:] for line in text.splitlines() if line.startswith("mlflow-deploy: ")]

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
        """Status and text of one answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(
                method, path, json.dumps(body), {"Content-Type": "application/json", **headers}
            )
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    @property
    def state(self) -> dict[str, Any]:
        """What it says of itself."""
        status, text = self.call("GET", "/deployment")
        assert status == 200, text
        return dict(json.loads(text))

    def predict(self, body: object) -> Any:
        """The answer to a prediction that must succeed."""
        status, text = self.call("POST", "/invocations", body)
        assert status == 200, text
        return json.loads(text)

    def wait_until_ready(self) -> Deployed:
        """Wait until it predicts."""

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"it ended with {self.process.returncode}:\n{self.log.read_text('utf-8')}")
            try:
                return self.call("GET", "/ping")[0] == 200
            except (OSError, HTTPException):
                return False

        wait_for(ready, f"the deployment ({self.log})", 200)
        return self

    def stop(self) -> int:
        """End it as the platform does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(60))


Deploy = Callable[..., Deployed]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry of models, of which training.py says what they are for."""
    folder = tmp_path_factory.mktemp("registry")
    library = folder / "library"
    install = [
        python_with_mlflow(),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(library),
        "-r",
        str(FLAVOURS),
    ]
    subprocess.run(install, check=True)
    training = Path(__file__).with_name("training.py")
    env = {**os.environ, "PYTHONPATH": str(library), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [python_with_mlflow(), str(training), str(folder)]
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "trees.json").write_text(done.stdout.splitlines()[-1])
    return folder


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_process(tmp_path_factory.mktemp("warm"), "sklearn.linear_model") as process:
        yield process


@pytest.fixture
def deploy(registry: Path, tmp_path: Path, warm: Warm) -> Iterator[Deploy]:
    """Starts a job for a model and variables; everything started ends with the test.

    With `fresh` it is a program of its own, which imports all that it needs.
    """
    started: list[Deployed] = []

    def start(model: str, *, fresh: bool = False, **env: str) -> Deployed:
        given = {"MLFLOW_TRACKING_URI": f"sqlite:///{registry}/mlflow.db", "MLFLOW_DEPLOY_MODEL": model}
        given |= {"MLFLOW_DEPLOY_CACHE": str(tmp_path / "cache"), **env}
        started.append(Deployed(tmp_path, given, None if fresh else warm))
        return started[-1]

    yield start
    for deployed in started:
        deployed.stop()
