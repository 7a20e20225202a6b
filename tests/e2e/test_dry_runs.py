"""MLFLOW_DRY_RUN=yes with every target: it shows what it would do, and no more."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.locks import Users
from local_platform import client
from tests.copying.project import call
from tests.in_job.harness import OLD_REVISION, old_database, revision
from tests.local_platform.harness import QUERY
from tests.test_makefile import TARGETS

from .conftest import Clone

pytestmark = pytest.mark.e2e

READ = {
    "status": "serving",
    "logs MLFLOW_FOLLOW=no": "Uvicorn",
    "env": "export MLFLOW_TRACKING_URI=",
    "config": "artifacts_destination",
    "check": "",
    "help": "mlflow-up",
    "deployments": "no model is served",
}
"""They change nothing anyway, and say what they always do."""
OTHERS = {"install", "update", "uninstall"}
"""Those in tests/copying do the same with them."""
RUNNING = {
    "up MLFLOW_PORT=7000": "would start nothing: job ",
    "down": "would stop: job ",
    "restart MLFLOW_PORT=7000": "would stop: job ",
    "extend BY=2d": "would extend: job ",
    "render MLFLOW_PORT=7000": "would write: .mlflow/action.yaml",
    "open": "would open: http://",
    "backup TO=new.zip": "would back up: ",
    "restore FROM=runs.zip MLFLOW_FORCE=yes": "which would be uploaded and verified",
    "restore FROM=@ MLFLOW_FORCE=yes": "which    holds ",
    "upgrade": "schema   is up to date",
    "gc MLFLOW_FORCE=yes OLDER_THAN=0s": "deleted: 1 run, ",
    "deploy MODEL=iris": "would serve: neuro-flow run mlflow_model --suffix iris",
    "undeploy MODEL=iris": "",
}
"""What each says while a server runs; `@` is the name of a backup on its volume."""
STOPPED = {
    "up MLFLOW_PORT=7000": "would start: neuro-flow run mlflow_server",
    "down": "",
    "restore FROM=runs.zip MLFLOW_FORCE=yes": "before   what is there would be kept beside",
    "upgrade": "schema   is of an older MLflow",
}
"""While none runs, on the store of an older MLflow."""
NEW = {"up": "would start: neuro-flow run mlflow_server"}
"""In a workspace where nothing was done yet."""


def test_every_target_is_tried() -> None:
    tried = {words.split()[0] for table in (READ, RUNNING, STOPPED, NEW) for words in table}
    assert {f"mlflow-{name}" for name in tried | OTHERS} == {name for name, _ in TARGETS}


@pytest.fixture(scope="module")
def clone(served: Clone) -> Iterator[Clone]:
    """A clone whose server has a run, a deleted one, a model and a backup, which is here as well."""
    user = Users(served.state.with_name("local.lock"))  # the platform goes on without a job
    url = f"{served.up()}/api/2.0/mlflow"
    for name in ("kept", "deleted"):
        run = call(f"{url}/runs/create", "POST", {"experiment_id": "0", "run_name": name})["run"]["info"]
    call(f"{url}/runs/delete", "POST", {"run_id": run["run_id"]})
    call(f"{url}/registered-models/create", "POST", {"name": "iris"})
    call(f"{url}/model-versions/create", "POST", {"name": "iris", "source": "s3://none/model"})
    served.local("mlflow-backup", "TO=runs.zip")
    yield served
    user.close()


UNSEEN = re.compile(
    r"home/\.apolo/logs|my project/\.mlflow/([^/]*\.lock$|pycache|venv)"
    r"|my project/\.mlflow/local/(?!(storage|disks|secrets\.json)(/|$))"
)
"""What nothing follows from: logs, locks, compiled modules; and the platform's own books: it is asked."""


def everything(clone: Clone) -> dict[str, object]:
    """Return all there is: files with their modes, jobs, disks and secrets of the platform."""
    found: dict[str, object] = {}
    for path in [*clone.path.rglob("*"), *clone.home.rglob("*")]:
        inside = path.relative_to(clone.path.parent).parts
        if UNSEEN.match("/".join(inside)):
            continue
        if path.is_file() and not path.name.endswith("-shm"):  # who reads SQLite just now
            found["/".join(inside)] = (path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
        elif path.is_dir():
            found["/".join(inside)] = path.stat().st_mode
    login = client.start(clone.state)
    for what in ("jobs", "disks", "secrets"):
        answer = call(f"{login.url}/{what}?{QUERY}", token=login.token)
        for entry in answer["jobs"] if what == "jobs" else answer:
            if entry.get("description") not in ("mlflow-look", "mlflow-gc"):  # a job that may only look
                key = f"{what} {entry.get('id') or entry['key']}"
                found[key] = entry.get("status"), entry.get("max_run_time_minutes")
    return found


def check(clone: Clone, words: str, said: str) -> None:
    backup = (
        min(path.name for path in clone.state.glob("storage/mlflow/backups/*.zip")) if "@" in words else ""
    )
    target, *more = words.replace("@", backup).split()
    before = everything(clone)
    out, err = clone.local(f"mlflow-{target}", *more, "MLFLOW_DRY_RUN=yes")
    assert said in out
    assert out == "" or target == "open" or words in READ or "nothing has been changed: MLFLOW_DRY_RUN" in err
    assert everything(clone) == before


@pytest.mark.parametrize("words", NEW)
def test_in_a_new_workspace(words: str, clone: Clone, tmp_path: Path) -> None:
    new = Clone(tmp_path)
    user = Users(new.state.with_name("local.lock"))
    try:
        new.local("mlflow-status", code=1)  # makes the platform
        check(new, words, NEW[words])
    finally:
        user.close()
        new.end()


@pytest.mark.parametrize("words", [*RUNNING, *READ])
def test_while_a_server_runs(words: str, clone: Clone) -> None:
    check(clone, words, (RUNNING | READ)[words])


@pytest.mark.parametrize("words", STOPPED)
def test_while_none_runs(words: str, clone: Clone) -> None:
    database = clone.state / "storage/mlflow/mlflow.db"
    if clone.processes() and database.exists() and revision(database) != OLD_REVISION:
        clone.local("mlflow-down")
        database.unlink()
        old_database(database)
    check(clone, words, STOPPED[words])
