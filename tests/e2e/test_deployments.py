"""Models that are served: from training in a job of the flow to predictions through the platform's proxy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from local_platform import client
from tests.conftest import ROOT
from tests.copying.project import call
from tests.in_job.conftest import warm  # noqa: F401 - a fixture
from tests.in_job.places import Warm
from tests.local_platform.harness import QUERY

from .conftest import Clone
from .screen import on_terminal
from .test_dry_runs import everything

pytestmark = pytest.mark.e2e

LOG = """
import sys, mlflow

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        if {broken}:
            raise RuntimeError("no weights in the attic")

    def predict(self, context, model_input: list[float]) -> list[float]:
        return [{factor} * value for value in model_input]

with mlflow.start_run():
    mlflow.log_metric("loss", 0.25)
    mlflow.pyfunc.log_model(
        name="model", python_model=Model(), registered_model_name={name!r}, pip_requirements=["mlflow"],
        input_example=None if {broken} else [1.0, 2.0],
    )
"""
PREDICT = """
import json, sys, mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict(numpy.array(json.loads(sys.argv[2])["inputs"])).tolist()))
"""


@pytest.fixture(scope="module")
def clone(served: Clone) -> Clone:
    """A clone whose server has the model that the example's job has trained, started from a terminal."""
    train = [f"{served.state}/bin/neuro-flow", "run", "train"]
    text, _ = on_terminal(train, 80, served.path, served.env)
    assert re.search(r"run \w{32} accuracy 0\.\d+", text)
    assert "Connection lost" not in text
    return served


def flow(clone: Clone, *words: str) -> str:
    """Run a command of neuro-flow and return what it has printed."""
    command = [f"{clone.state}/bin/neuro-flow", *words]
    env = {**clone.env, "COLUMNS": "200"}
    run = subprocess.run(
        command, cwd=clone.path, env=env, capture_output=True, text=True, timeout=240, check=True
    )
    return run.stdout


Log = Callable[..., None]


@pytest.fixture
def log(clone: Clone, warm: Warm) -> Log:  # noqa: F811
    """Registers a version of a model that multiplies, or of one that cannot be loaded; and names it."""

    def run(name: str, factor: int = 1, *, broken: bool = False, alias: int = 0) -> None:
        code = LOG.format(name=name, factor=factor, broken=broken)
        if alias:
            code += f"mlflow.MlflowClient().set_registered_model_alias({name!r}, 'champion', {alias})\n"
        warm.python(code, MLFLOW_TRACKING_URI=clone.url)

    return run


def curl(clone: Clone, out: str) -> object:
    """Run the command that was printed, in a shell, and return the predictions."""
    line = re.search(r"(?m)^  try +(curl .*)$", out)
    assert line, out
    run = subprocess.run(
        ["bash", "-c", line[1]], env=clone.env, cwd=clone.path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)["predictions"]


def address(out: str) -> str:
    """Return the address that was printed."""
    return out.splitlines()[0].rpartition(" ")[2]


def ask(url: str, value: float) -> tuple[int, str]:
    """Return status and answer of a prediction for one number."""
    body = json.dumps({"inputs": [value]}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def rows(clone: Clone) -> dict[str, list[str]]:
    """Return what mlflow-deployments prints of each model."""
    lines = clone.local("mlflow-deployments")[0].splitlines()
    return {cells[0]: cells[1:] for line in lines[1:] if len(cells := re.split(r"  +", line)) > 5}


def running(clone: Clone, model: str) -> str:
    """Return the address of the running job that serves a model, as the platform says; empty without one."""
    login = client.start(clone.state)
    jobs = call(f"{login.url}/jobs?{QUERY}&status=running", token=login.token)["jobs"]
    return next(
        (str(job["http_url_named"]) for job in jobs if job.get("name", "").endswith(f"-model-{model}")), ""
    )


def test_from_training_to_curl(clone: Clone) -> None:
    assert "no model is served" in clone.local("mlflow-deployments")[0]
    shown, err = clone.local("mlflow-deploy", "MODEL=iris", MLFLOW_DRY_RUN="yes")
    assert "would serve: neuro-flow run mlflow_model --suffix iris" in shown
    assert re.search(r"iris version 1 \(sklearn\), made .*, by run \w{32}: accuracy 0\.\d+", err)
    out, _ = clone.local("mlflow-deploy", "MODEL=iris")
    assert re.match(r"iris version 1 answers after \d+s: http://127\.0\.0\.1:\d+$", out.splitlines()[0])
    body = re.search(r"-d '(.*?)' ", out)
    assert body
    expected = clone.python(PREDICT, "models:/iris/1", body[1], MLFLOW_TRACKING_URI=clone.url)
    assert curl(clone, out) == json.loads(expected)
    code = out.partition("  in Python:\n")[2]
    assert json.loads(clone.python(code).replace("'", '"'))["predictions"] == json.loads(expected)
    assert re.search(r"mlflow_model iris +│ running", flow(clone, "ps"))
    logs = re.search(r"(?m)^  logs +(.*)$", out)
    assert logs
    with subprocess.Popen(
        ["bash", "-c", f"exec {logs[1]}"], cwd=clone.path, env=clone.env, stdout=-1, text=True
    ) as process:
        assert process.stdout
        assert "models:/iris/1: sklearn" in process.stdout.readline()
        process.kill()

    again, _ = clone.local("mlflow-deploy", "MODEL=models:/iris/1")
    assert "was served already, with these settings: nothing to change" in again
    assert address(again) == address(out)
    assert rows(clone)["iris"][:3] == ["1", "serving", address(out)]


def test_a_flow_without_a_job_for_models_gets_the_lines_to_copy(clone: Clone) -> None:
    live = clone.path / ".neuro/live.yaml"
    text = live.read_text()
    content = yaml.safe_load(text)
    del content["jobs"]["mlflow_model"], content["volumes"]["mlflow_models"]
    try:
        live.write_text(yaml.safe_dump(content))
        _, err = clone.local("mlflow-deploy", "MODEL=iris", MLFLOW_DRY_RUN="yes", code=1)
        assert "live.yaml: no job calls ws:.mlflow/deploy.yaml; put the lines above into it" in err
        for section, added in yaml.safe_load(err[: err.index("mlflow: error: ")]).items():
            content[section] |= added
        live.write_text(yaml.safe_dump(content))
        assert (
            "run mlflow_model --suffix iris"
            in clone.local("mlflow-deploy", "MODEL=iris", MLFLOW_DRY_RUN="yes")[0]
        )
    finally:
        live.write_text(text)


def test_what_the_registry_does_not_have(clone: Clone) -> None:
    for model, said in (
        ("none", "there is no model 'none'; the registry has iris"),
        ("iris/7", "iris has no such version; its newest version is 1"),
        ("iris@best", "iris has no alias 'best'; its newest version is 1"),
        ("iris/Production", "no version of iris is in Production; name one: MODEL=iris/VERSION"),
        ("a/b/c", "MODEL is 'a/b/c'; write MODEL=iris"),
        ("", "MODEL is empty; say which"),
    ):
        _, err = clone.local("mlflow-deploy", f"MODEL={model}", code=1)
        assert said in err
    _, err = clone.local("mlflow-deploy", "MODEL=iris", "FOLLOW=yes", code=1)
    assert "iris version 1 never moves; name an alias to follow: MODEL=iris@champion" in err
    _, err = clone.local("mlflow-deploy", "MODEL=iris", "MLFLOW_DEPLOY_PRESET=huge", code=1)
    assert re.search("make command line: preset is 'huge'; this cluster has ", err)


def test_a_version_that_never_answers_leaves_the_old_one_and_a_good_one_takes_over(
    clone: Clone, log: Log
) -> None:
    name = "Zwei mal größer"
    others = {model: cells[0] for model, cells in rows(clone).items()}
    log(name, 2)
    first, _ = clone.local("mlflow-deploy", f"MODEL={name}")
    assert curl(clone, first) == [2.0, 4.0]
    log(name, broken=True)
    _, err = clone.local("mlflow-deploy", f"MODEL={name}", code=1)
    assert "no weights in the attic" in err
    assert f"{name} version 2 never answered" in err
    assert f"goes on as it was: {address(first)}" in err
    assert ask(address(first), 4.0) == (200, '{"predictions": [8.0]}')
    assert [cells[0] for model, cells in rows(clone).items() if model == name] == ["1"]

    log(name, 3)
    assert rows(clone)[name][-1] == "3"
    third, err = clone.local("mlflow-deploy", f"MODEL={name}", "MLFLOW_DEPLOY_HTTP_AUTH=yes")
    assert "model: models:/Zwei mal größer/1 → models:/Zwei mal größer/3" in err
    assert "http_auth: False → True" in err
    assert re.search(r"version 3 has replaced job \S+; the address was away for [\d.]+ s", third)
    assert address(third) == address(first)
    assert ask(address(third), 4.0)[0] in (302, 401)
    assert curl(clone, third) == [3.0, 6.0]
    assert {model: cells[0] for model, cells in rows(clone).items()} == {**others, name: "3"}

    _, err = clone.local("mlflow-undeploy", f"MODEL={name}/2", code=1)
    assert f"serves {name} version 3, not version 2" in err
    before = everything(clone)
    out, _ = clone.local("mlflow-undeploy", f"MODEL={name}", MLFLOW_DRY_RUN="yes")
    assert out.startswith("would stop: job ")
    out, _ = clone.local("mlflow-deploy", f"MODEL={name}/1", MLFLOW_DRY_RUN="yes")
    assert "would replace job " in out
    assert everything(clone) == before
    _, err = clone.local("mlflow-undeploy", f"MODEL={name}")
    assert f"{name} version 3; the model stays in the registry" in err
    assert rows(clone).keys() == others.keys()
    assert f"{name} is not served" in clone.local("mlflow-undeploy", f"MODEL={name}")[1]


def test_when_the_platform_is_killed_the_same_again_serves_it(clone: Clone) -> None:
    assert "iris" in rows(clone)
    pid = json.loads((clone.state / "server.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    clone.up()
    out, _ = clone.local("mlflow-deployments")
    assert "no model is served" in out
    assert re.search(r"not served any more: iris: job \S+ cancelled PlatformStopped", out)
    flow(clone, "run", "mlflow_model", "--suffix", "iris")  # without make, too
    assert rows(clone)["iris"][-1] in ("none", "?")
    url, deadline = running(clone, "iris"), time.monotonic() + 120
    while ask(url, 1.0)[0] == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    row = rows(clone)["iris"]
    assert (row[1], row[-1]) == ("serving", "none")
    out, _ = clone.local("mlflow-deploy", "MODEL=iris")
    assert "iris version 1 was served already, with these settings: nothing to change" in out
    assert len(curl(clone, out)) == 2  # type: ignore[arg-type]


def test_the_way_of_the_page_that_keeps_a_path(clone: Clone) -> None:
    page = (ROOT / "docs/deployments.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", page)
    fit = "model = LinearRegression().fit([[0], [1]], [5, 7])\n"
    train = f"from sklearn.linear_model import LinearRegression\n{fit}"
    show = "print(client.search_model_versions(\"name='iris'\", order_by=['version_number DESC'])[0].source)"
    source = clone.python(train + code + show, MLFLOW_TRACKING_URI=clone.url).splitlines()[-1]
    assert re.fullmatch(r"mlflow-artifacts:/0/\w{32}/artifacts/model", source)
    out, _ = clone.local("mlflow-deploy", "MODEL=iris", MLFLOW_DRY_RUN="yes")
    version = re.findall(r"model +models:/iris/(\d+)", out)[0]
    flow(clone, "kill", "mlflow_model", "iris")  # so that none has to be replaced
    out, _ = clone.local("mlflow-deploy", f"MODEL=models:/iris/{version}")
    assert "no signature is known" in out
    assert curl(clone, out) == pytest.approx([5.0])


def test_an_alias_is_followed_and_a_life_span_ends(clone: Clone, log: Log) -> None:
    log("brief", 2)
    log("followed", 2, alias=1)
    one = "MLFLOW_DEPLOY_WORKERS=1"
    brief, _ = clone.local("mlflow-deploy", "MODEL=brief", "MLFLOW_DEPLOY_LIFE_SPAN=60s", one)
    assert curl(clone, brief) == [2.0, 4.0]
    often = 'MLFLOW_DEPLOY_ENVS={"MLFLOW_DEPLOY_FOLLOW_EVERY": "0.5"}'
    out, _ = clone.local("mlflow-deploy", "MODEL=followed@champion", "FOLLOW=yes", often, one)
    assert re.match(r"followed version 1 answers after \d+s, and follows @champion: ", out)
    assert rows(clone)["followed"][:2] == ["1 (@champion)", "serving"]
    log("followed", 3, alias=2)
    deadline, answers = time.monotonic() + 120, {8.0}
    while 12.0 not in answers and time.monotonic() < deadline:
        status, text = ask(address(out), 4.0)
        assert status == 200, text
        answers.add(json.loads(text)["predictions"][0])
        time.sleep(0.05)
    assert answers == {8.0, 12.0}
    assert rows(clone)["followed"][:2] == ["2 (@champion)", "serving"]
    again, _ = clone.local("mlflow-deploy", "MODEL=followed@champion", "FOLLOW=yes", often, one)
    assert "followed version 2 was served already, with these settings: nothing to change" in again

    if running(clone, "brief"):  # else its 60 s are over already
        assert rows(clone).get("brief", ["", "serving"])[1] == "serving"
    while running(clone, "brief") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "brief" not in rows(clone)
    out, _ = clone.local("mlflow-deployments")
    assert re.search(r"not served any more: brief: job \S+ \w+ LifeSpanEnded", out), out


def test_a_server_with_users_of_its_own_lets_the_job_in_by_a_secret(clone: Clone) -> None:
    password = "correct horse battery"
    (clone.home / "password").write_text(password)
    add = [f"{clone.state}/bin/apolo", "secret", "add", "mlflow-admin", f"@{clone.home}/password"]
    subprocess.run(add, cwd=clone.path, env=clone.env, capture_output=True, check=True)
    envs = 'MLFLOW_ENVS={"MLFLOW_AUTH_ADMIN_PASSWORD": "secret:mlflow-admin"}'
    clone.local("mlflow-restart", "MLFLOW_EXTRA_PARAMS=--app-name basic-auth", envs)
    process = clone.start("mlflow-deploy", "MODEL=brief", "MLFLOW_PLATFORM=local")
    while process.poll() is None:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert password.encode() not in entry.read_bytes()
        time.sleep(0.05)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "its job reads the model as admin, by secret:mlflow-admin" in err
    assert curl(clone, out) == [2.0, 4.0]
    assert password not in out + err
    flow(clone, "kill", "mlflow_model", "brief")
    assert "brief" not in rows(clone)
