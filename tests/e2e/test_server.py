"""The main job: a real server by `make mlflow-up`, real clients, and their data afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .conftest import Clone

pytestmark = pytest.mark.e2e

LOG = """
import sys, mlflow
with mlflow.start_run() as run:
    mlflow.log_param("p", "ä b")
    for step in range(3):
        mlflow.log_metric("m", step / 2, step=step)
    open("a.bin", "wb").write(bytes(range(256)) * 1000)
    mlflow.log_artifact("a.bin")
    model = mlflow.pyfunc.log_model(
        name="model", python_model=lambda model_input: model_input, registered_model_name="echo",
        pip_requirements=[], input_example=["x"])
print(run.info.run_id)
"""
READ = """
import hashlib, sys, mlflow
client = mlflow.MlflowClient()
run = client.get_run(sys.argv[1])
path = mlflow.artifacts.download_artifacts(run_id=sys.argv[1], artifact_path="a.bin")
history = [m.value for m in client.get_metric_history(sys.argv[1], "m")]
[version] = client.search_model_versions("name='echo'")
model = mlflow.pyfunc.load_model(f"models:/echo/{version.version}")
digest = hashlib.sha256(open(path, "rb").read()).hexdigest()
print(run.data.params, history, digest, version.version, model.predict(["y"]).to_numpy().tolist())
"""


def get(url: str, **headers: str) -> int:
    """Return the status of a GET."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_what_a_client_logs_is_there_after_down_and_up(clone: Clone) -> None:
    out, err = clone.local("mlflow-up")
    url = out.splitlines()[0].removeprefix("MLflow is up: ")
    assert f"export MLFLOW_TRACKING_URI={url}\n" in out
    assert "http://${{ inspect_job('mlflow_server').internal_hostname_named }}:5000" in out
    assert "make mlflow-down MLFLOW_PLATFORM=local" in out
    assert "on this machine in .mlflow/local/storage" in out
    assert "whoever knows" not in err  # that warning is for servers that others can reach
    run = clone.python(LOG, MLFLOW_TRACKING_URI=url).splitlines()[-1]
    before = clone.python(READ, run, MLFLOW_TRACKING_URI=url)
    digest = hashlib.sha256(bytes(range(256)) * 1000).hexdigest()
    assert before == f"{{'p': 'ä b'}} [0.0, 0.5, 1.0] {digest} 1 [['y']]\n"

    again, _ = clone.local("mlflow-up")
    assert again.startswith(f"MLflow was running already: {url}\n")

    _, err = clone.local("mlflow-down")
    assert "stopped job" in err
    assert clone.processes() == []
    _, err = clone.local("mlflow-down")
    assert err == "mlflow: no server is running\n"
    out, _ = clone.local("mlflow-status", code=1)
    assert "not running" in out
    assert "UserRequested" in out

    assert clone.up() == url  # an address that clients may have kept
    assert clone.python(READ, run, MLFLOW_TRACKING_URI=url) == before
    assert not list(clone.home.glob(".apolo*")) + list(clone.home.glob(".neuro*"))


def test_two_at_once_find_the_same_server(clone: Clone) -> None:
    both = [clone.start("mlflow-up", "MLFLOW_PLATFORM=local") for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (re.search(r"MLflow .*(http://\S+)", out) for out, _ in said)
    assert first
    assert second
    assert first[1] == second[1]
    assert len(list(clone.state.glob("jobs/*/job.json"))) == 1


@pytest.mark.usefixtures("tables")
def test_two_checkouts_do_not_meet(clone: Clone, served: Clone) -> None:
    first, second = served.up(), clone.up()
    assert first != second
    create = "import mlflow, sys; mlflow.create_experiment(sys.argv[1])"
    clone.python(create, "only here", MLFLOW_TRACKING_URI=second)
    names = "import mlflow; print([e.name for e in mlflow.search_experiments()])"
    assert "only here" in clone.python(names, MLFLOW_TRACKING_URI=second)
    assert "only here" not in clone.python(names, MLFLOW_TRACKING_URI=first)
    clone.local("mlflow-down")
    served.local("mlflow-status")


@pytest.mark.skipif(not Path("/proc").exists(), reason="counts processes by /proc, which only Linux has")
@pytest.mark.usefixtures("tables")
def test_nothing_is_lost_when_the_platform_is_killed(clone: Clone) -> None:
    url = clone.up()
    log = "import mlflow\nwith mlflow.start_run() as r: mlflow.log_metric('m', 1)\nprint(r.info.run_id)"
    run = clone.python(log, MLFLOW_TRACKING_URI=url).split()[-1]
    [platform] = [
        p
        for p in clone.processes()
        if b"local_platform/__main__.py\0" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    os.kill(platform, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while clone.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert clone.processes() == []
    out, _ = clone.local("mlflow-status", code=1)
    assert "cancelled" in out
    assert clone.up() == url
    read = "import mlflow, sys; print(mlflow.get_run(sys.argv[1]).data.metrics)"
    assert clone.python(read, run, MLFLOW_TRACKING_URI=url) == "{'m': 1.0}\n"


@pytest.mark.usefixtures("tables")
def test_http_auth(clone: Clone) -> None:
    url = clone.up("MLFLOW_HTTP_AUTH=True")
    api = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert get(api) == 401
    assert get(api, Authorization="Bearer x.y.z") == 401
    out, _ = clone.local("mlflow-env")
    assert "eyJ" not in out  # how a JWT starts
    shell = f'{out}\nprintf %s "$MLFLOW_TRACKING_TOKEN"'
    token = subprocess.check_output(["bash", "-c", shell], env=clone.env, text=True)
    assert get(api, Authorization=f"Bearer {token}") == 200
    assert clone.python(
        "import mlflow; print(len(mlflow.search_experiments()))",
        MLFLOW_TRACKING_URI=url,
        MLFLOW_TRACKING_TOKEN=token,
    )

    browser = clone.home / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > "$HOME/link"\n')
    browser.chmod(0o755)
    clone.local("mlflow-open", BROWSER=str(browser))
    link = (clone.home / "link").read_text()
    assert token not in link
    jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with jar.open(link) as page:
        assert b"<title>MLflow</title>" in page.read()
    with jar.open(api) as answer:
        assert answer.status == 200
    assert get(link) == 401  # once only


@pytest.mark.usefixtures("tables")
def test_a_taken_port_is_no_obstacle(clone: Clone) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        url = clone.up(f"MLFLOW_PORT={taken.getsockname()[1]}")
        assert get(f"{url}/version") == 200


def test_interrupt_before_anything_is_started(clone: Clone) -> None:
    neuro_flow = clone.path / "never-ending"
    neuro_flow.write_text(f"#!/bin/sh\ntouch '{clone.path}/begun'\nexec sleep 60\n")
    neuro_flow.chmod(0o755)
    clone.env["MLFLOW_FLOW_CLI"] = str(neuro_flow)
    up = clone.start("mlflow-up", "MLFLOW_PLATFORM=local")
    while not (clone.path / "begun").exists() and up.poll() is None:
        time.sleep(0.05)
    os.killpg(up.pid, signal.SIGINT)
    _, err = up.communicate(timeout=60)
    assert "mlflow: no job has been started\nmlflow: interrupted\n" in err


def test_interrupt_leaves_the_started_job(clone: Clone) -> None:
    up = subprocess.Popen(  # without make, which ends by the signal and hides the exit code
        ["bash", "scripts/bootstrap.sh", "up"],
        cwd=clone.path,
        env={**clone.env, "MLFLOW_PLATFORM": "local"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert up.stderr
    for line in up.stderr:
        if "waiting for the server" in line:
            break
    os.killpg(up.pid, signal.SIGINT)
    _, err = up.communicate(timeout=60)
    assert up.returncode == 130
    assert err == (
        "mlflow: a job that has been started keeps running; `make mlflow-down` stops it\n"
        "mlflow: interrupted\n"
    )
    _, err = clone.local("mlflow-down")
    assert "stopped job" in err
