"""A registered model that answers: `mlflow-deploy`, and its job alone, beside plain `mlflow models serve`.

The model is of LightGBM, which the environment of the jobs lacks. Plain MLflow gets it by PYTHONPATH, in the
environment that is there: what it would make itself wants pyenv, or a Python from elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from contenders import MLFLOW, ROOT, Contender, Server
from figures import Results, paired, percentile, spread, table, values
from flow import program
from machine import Unable
from toolkit import Workspace

MODEL = "trees"
BODY = {"inputs": [[0.5, 1.5, 2.5, 3.5]]}
TRAINING = f"""
import lightgbm, mlflow, numpy
x = numpy.random.default_rng(0).random((500, 4)) * 4
trees = lightgbm.train({{"verbose": -1}}, lightgbm.Dataset(x, x.sum(axis=1)), num_boost_round=50)
options = {{"input_example": x[:2], "pip_requirements": ["mlflow", f"lightgbm=={{lightgbm.__version__}}"]}}
with mlflow.start_run():
    mlflow.lightgbm.log_model(trees, name="model", registered_model_name="{MODEL}", **options)
"""
STATES = {
    "nothing": "nothing cached: the wheel is downloaded and installed",
    "cached": "the environment cached on the volume",
    "local": "`MLFLOW_DEPLOY_ENV_MANAGER=local`, an image that has all",
}
"""What there is of the model's environment when `make mlflow-deploy` starts."""
SERVED = {
    "toolkit": "this toolkit's job, two processes",
    "plain": "plain `mlflow models serve`",
    "plain 2": "the same, `--workers 2`",
}
REST = """Until the platform has the job, that is make, the registry's answers beside the imports of
neuro-flow, and its evaluation of the flow, checked; then the job itself, and up to 0.1 s until make sees
that it answers."""
Note = Callable[..., None]


@dataclass(frozen=True)
class Serving(Contender):
    """A way to serve the model from the tracking server `uri`; its `words` follow `mlflow models serve`."""

    def command(self, uri: str, _: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command and its environment, as deploy.yaml runs it or as its users would by hand."""
        model = f"models:/{MODEL}/1"
        env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", **self.env}
        if self.words is None:
            env |= program.variables("deployment.serve")
            env |= {
                "MLFLOW_HOST": "127.0.0.1",
                "NEURO_JOB_HTTP_PORT": str(port),
                "MLFLOW_DEPLOY_MODEL": model,
            }
            return [str(self.python), "-uc", program.command("deployment.serve")], env
        command = [str(self.python), "-m", "mlflow", "models", "serve", "--model-uri", model]
        command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), *self.words]
        return command, env


class ModelServer(Server):
    """A contender's server, which has started when it has predicted."""

    first = ("POST", "/invocations", json.dumps(BODY), {"Content-Type": "application/json"})


class Models:
    """The registered model, and the measurements with it; `note` keeps them."""

    def __init__(self, workspace: Workspace, folder: Path, note: Note) -> None:
        self.workspace, self.folder, self.note = workspace, folder, note
        library = folder / "library"
        lock = ["--no-deps", "--target", str(library), "-r", str(ROOT / "dev/flavours.lock")]
        self._python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *lock)
        workspace.run("make", "-s", "mlflow-up")
        self._python("-c", TRAINING, PYTHONPATH=str(library), MLFLOW_TRACKING_URI=workspace.url)
        own = {"MLFLOW_DEPLOY_CACHE": str(folder / "environments"), "MLFLOW_DEPLOY_WORKERS": "2"}
        path = {"PYTHONPATH": str(library), "PATH": f"{MLFLOW.parent}:{os.environ['PATH']}"}  # of uvicorn
        self.contenders = [
            Serving("toolkit", SERVED["toolkit"], MLFLOW, None, own),
            Serving("plain", SERVED["plain"], MLFLOW, (), path),
            Serving("plain 2", SERVED["plain 2"], MLFLOW, ("--workers", "2"), path),
        ]

    def _python(self, *words: str, **env: str) -> None:
        """Run the Python of the jobs' environment."""
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **env}
        run = subprocess.run(
            [MLFLOW, *words], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise Unable(f"the model that is to be served cannot be made: {run.stderr.strip()[-300:]}")

    def deploy(self, state: str) -> None:
        """Measure `make mlflow-deploy` until the model's first answer, with its environment in a state."""
        storage = self.workspace.path / ".mlflow/local/storage"
        installed = [path.parent for path in storage.rglob("lightgbm") if path.is_dir()]
        envs: Mapping[str, str] = {}
        words = ["make", "-s", "mlflow-deploy", f"MODEL={MODEL}"]
        if state == "nothing":
            for path in installed:
                shutil.rmtree(path)
            envs = {"PIP_NO_CACHE_DIR": "1"}
        elif state == "local":
            words.append("MLFLOW_DEPLOY_ENV_MANAGER=local")
            envs = {"PYTHONPATH": f"/mnt/models/{installed[0].name}"}
        begun, since = time.monotonic(), time.time()
        said = self.workspace.run(*words, f"MLFLOW_DEPLOY_ENVS={json.dumps(envs)}")
        url = f"{re.findall(r'http://[^/ ]+:[0-9]+', said)[0]}/invocations"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(BODY).encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                answer.read()
        except OSError as error:
            raise Unable(f"the model at {url} does not predict: {error}") from error
        self.note("deploy", time.monotonic() - begun, state=state)
        records = (json.loads(path.read_bytes()) for path in storage.parent.glob("jobs/*/job.json"))
        submitted = max(record["statuses"][0]["at"] for record in records)
        self.note("deploy submitted", submitted - since, state=state)
        self.workspace.run("make", "-s", "mlflow-undeploy", f"MODEL={MODEL}")

    def warm_up(self) -> None:
        """Let the job install what it needs, once, and compile what it imports."""
        self._start(self.contenders[0]).stop()

    def _start(self, contender: Serving) -> ModelServer:
        return ModelServer(contender, self.workspace.url, self.folder, {})

    def serve(self, contender: Serving, seconds: float) -> float:
        """Measure a contender by itself; return the seconds from its start to its first answer."""
        of = {"contender": contender.name}
        server = self._start(contender)
        try:
            self.note("serve start", server.start_seconds, **of)
            server.settle()
            self.note("serve memory", server.memory(), loaded=False, **of)
            for clients in (1, 16):
                found = server.load("predict", clients, seconds, body=BODY)
                self.note("serve predictions", found["ok"], clients=clients, **of)
                self.note("serve errors", sum(found["errors"].values()), clients=clients, **of)
                if found["latencies"]:
                    self.note("serve p99", percentile(found["latencies"], 99), clients=clients, **of)
            self.note("serve memory", server.memory(), loaded=True, **of)
            return server.start_seconds
        finally:
            server.stop()


def targets(results: Results) -> list[tuple[str, float, list[float], bool]]:
    """Return what is aimed at: a name, the limit, the ratios round by round, whether less is better."""
    plain = values(results, "serve start", contender="plain")
    cached = values(results, "deploy", state="cached")
    return [
        ("a model's first answer by `mlflow-deploy`, cached, against plain", 1.2,
         [a / b for a, b in zip(cached, plain, strict=False)], True),
        ("a model's first answer by the job alone, cached, against plain", 1.2,
         paired(results, "serve start", "plain"), True),
        *(
            (f"predictions with {clients} client{'s' * (clients > 1)}, against plain", 1.0,
             paired(results, "serve predictions", "plain", clients=clients), False)
            for clients in (1, 16)
        ),
    ]  # fmt: skip


def section(results: Results) -> str:
    """Return the section on served models, "" where none has been measured."""
    names = [name for name in SERVED if values(results, "serve start", contender=name)]
    if not names:
        return ""
    rows = []
    for name in names:
        cells = [spread(values(results, "serve start", contender=name), 1)]
        for loaded in (False, True):
            cells.append(spread(values(results, "serve memory", contender=name, loaded=loaded), 0))
        for clients in (1, 16):
            of = {"contender": name, "clients": clients}
            slowest = values(results, "serve p99", **of)
            below = f"{1000 * statistics.median(slowest):.0f}" if slowest else "-"
            cells.append(f"{spread(values(results, 'serve predictions', **of), 0)}<br>{below}")
        errors = sum(values(results, "serve errors", contender=name))
        rows.append([SERVED[name], *cells, f"{errors:.0f}" if errors else "none"])
    head = ("", "start, s", "idle, MB", "after load, MB", "1 client", "16 clients", "errors")
    deployed = [
        [title, spread(seconds, 1), spread(values(results, "deploy submitted", state=state), 1)]
        for state, title in STATES.items()
        if (seconds := values(results, "deploy", state=state))
    ]
    columns = ("", "seconds", "until the platform has the job, s")
    return f"""
## Models

A model of LightGBM, which the image lacks. From `make mlflow-deploy` to the first answer, in seconds, on the
local platform; what is downloaded depends on the network:

{table(columns, deployed)}
{REST}
The same model served by itself, from the command to the first answer, with its environment there; predictions
are answers per second, and below them p99 in milliseconds:

{table(head, rows)}
"""
