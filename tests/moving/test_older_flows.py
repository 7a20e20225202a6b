"""Each shape of a flow with the older action is taken over, started, and logged to, on one platform."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from common.locks import Users
from local_platform import client
from tests.conftest import ROOT
from tests.copying.conftest import git, lay
from tests.copying.older_flows import FLOWS
from tests.copying.project import call, log_run
from tests.local_platform.harness import HOME, SERVER

from .conftest import Moved
from .test_older_stores import VERSIONS

pytestmark = pytest.mark.e2e

SHAPES = {name: flow for name, flow in FLOWS.items() if flow not in VERSIONS.values()}
"""The others are started on the stores of older servers, by test_older_stores.py."""
KEPT = {
    "database on a disk": ["disks/*/mlflow.db", "storage/team/artifacts/**/a.txt"],
    "no backend store": ["storage/live/mlruns/mlflow.db"],
    "file store": ["storage/live/mlruns/runs/0/meta.yaml", "storage/live/mlruns/**/a.txt"],
    "ui": ["storage/live/mlruns/mlflow.db"],
    "PostgreSQL as a job": ["storage/live/mlruns/**/a.txt"],
    "braces, and blanks at a line's end": ["storage/mlruns/mlflow.db"],
}
"""What the server keeps in the folder of the platform, where it is not `USUAL`."""
USUAL = ["storage/live/mlruns/mlflow.db", "storage/live/mlruns/**/a.txt"]
SAID = {
    "http_auth": "access     users of the platform\n",
    "http_auth off": "access     whoever knows the address\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """A repository whose platform has what the flows name, and goes on when no job is left on it."""
    made = Moved(tmp_path_factory.mktemp("shapes"), "their_project", "")
    images = {"postgres:*": {"bin": f"{ROOT}/tests/action/images", "entrypoint": "postgres-image"}}
    lay(made.state, {"images.yaml": yaml.safe_dump(images)})
    user = Users(made.state.with_name("local.lock"))
    login = client.start(made.state)
    password = base64.b64encode(b"secret").decode()
    for path, body in (
        ("disks", {"name": "mlflow-db", "storage": 2**30}),
        ("secrets", {"key": "postgres", "value": password}),
    ):
        call(f"{login.url}/{path}", "POST", {**body, **HOME}, token=login.token)
    yield made
    user.close()
    made.end()


def lay_flow(project: Moved, name: str) -> None:
    """Make a flow the project's, on volumes that are empty."""
    git(project.path, "reset", "-q", "--hard")
    git(project.path, "clean", "-fdxq", "-e", ".mlflow")
    shutil.rmtree(project.state / "storage/live", ignore_errors=True)
    (project.path / ".neuro/live.yaml").write_bytes(FLOWS[name].encode())
    git(project.path, "commit", "-qam", name)


@pytest.fixture(params=SHAPES)
def shape(project: Moved, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a shape that is the project's flow."""
    lay_flow(project, request.param)
    yield request.param
    project.local("mlflow-down")


def run(project: Moved, job: str) -> str:
    """Run another job of the flow; return what is printed."""
    command = [f"{project.state}/bin/neuro-flow", "run", job]
    done = subprocess.run(
        command, cwd=project.path, env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_taken_over_and_started(project: Moved, shape: str) -> None:
    jobs = yaml.safe_load(SHAPES[shape])["jobs"]
    project.install("TAKE_OVER=yes")
    if "postgres" in jobs:
        run(project, "postgres")
    out, _ = project.local("mlflow-up")
    [job] = jobs.keys() - {"postgres", "train"}
    assert f"inspect_job('{job}')" in out
    assert SAID.get(shape, "") in out
    url, token = out.splitlines()[0].rpartition(" ")[2], client.start(project.state).token
    if shape == "ui":  # clients have the volume
        assert call(f"{url}/api/2.0/mlflow/experiments/search?max_results=1")["experiments"]
    else:
        log_run(url, token)
    for pattern in KEPT.get(shape, USUAL):
        assert list(project.state.glob(pattern)), pattern
    if "train" in jobs:
        assert "says b'OK'" in run(project, "train")


def test_an_older_server_goes_on_until_it_is_replaced(project: Moved) -> None:
    lay_flow(project, "docs of 1.17")
    project.install("TAKE_OVER=yes")
    project.volume("live/mlruns").mkdir(parents=True)
    tags = [f"--tag={tag}" for tag in ("project:their-project", "flow:live", "job:mlflow")]
    words = ["run", "--detach", "--http-port=5000", "--no-http-auth", "--life-span=1d", *tags]
    words += [
        "--volume=storage:live/mlruns:/usr/local/share/mlruns:rw",
        "ghcr.io/mlflow/mlflow:v3.17.2-full",
        "--",
        "python3",
        "-c",
        SERVER,
    ]
    command = [f"{project.state}/bin/apolo", *words]
    started = subprocess.check_output(command, cwd=project.path, env=project.env, text=True)
    [older] = re.findall(r"job-[0-9a-f-]{36}", started.splitlines()[0])

    out, err = project.local("mlflow-up")
    assert not re.search("(?m)^  (runs|artifacts) ", out)
    assert out.startswith("MLflow was running already: ")
    assert f"job {older} was started by an older action; its server goes on until it is replaced:" in err
    assert "`make mlflow-restart MLFLOW_PLATFORM=local` stops it, upgrades its store, and starts this" in err
    out, _ = project.local("mlflow-status")
    assert "settings  of an older action, until `make mlflow-restart MLFLOW_PLATFORM=local`\n" in out
    out, _ = project.local("mlflow-restart", "MLFLOW_DRY_RUN=yes")
    assert f"would stop: job {older}" in out
    out, _ = project.local("mlflow-restart")
    assert out.startswith("MLflow is up: ")
    log_run(out.splitlines()[0].rpartition(" ")[2])
    assert (project.volume("live/mlruns") / "mlflow.db").exists()
    project.local("mlflow-down")
