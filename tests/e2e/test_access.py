"""Where a server is that has a path before it, and who gets into one that has users of its own."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest

from local_platform import client

from .conftest import Clone
from .test_server import get

pytestmark = pytest.mark.e2e

LOG = """
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1)
    mlflow.log_text("kept", "a.txt")
print(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/a.txt"))
"""


def client_environment(clone: Clone) -> dict[str, str]:
    """Return what `eval "$(make -s mlflow-env)"` puts into the environment of a shell."""
    out, _ = clone.local("mlflow-env")
    lines = subprocess.check_output(["bash", "-c", f"{out}\nenv"], env=clone.env, text=True).splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("MLFLOW_TRACKING_"))


def ask(env: dict[str, str], path: str, body: object = None) -> Any:
    """Return the answer of MLflow's API to a user of its own."""
    who = f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}"
    headers = {"Content-Type": "application/json"}
    headers["Authorization"] = f"Basic {base64.b64encode(who.encode()).decode()}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}", data, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_users_and_keys_outlive_the_job_and_no_key_is_anywhere_else(clone: Clone) -> None:
    password = clone.home / "password"
    password.write_text("the first one's secret")
    client.start(clone.state)
    apolo = [f"{clone.state}/bin/apolo", "secret", "add", "mlflow-admin", f"@{password}"]
    subprocess.run(apolo, env=clone.env, cwd=clone.path, check=True, capture_output=True)
    envs = '{"MLFLOW_AUTH_ADMIN_PASSWORD": "secret:mlflow-admin"}'
    settings = ("MLFLOW_EXTRA_PARAMS=--app-name basic-auth", f"MLFLOW_ENVS={envs}")
    said = [*clone.local("mlflow-up", *settings)]
    assert "access     users of MLflow's own, by name and password" in said[0]
    env = client_environment(clone)
    assert env["MLFLOW_TRACKING_PASSWORD"] == password.read_text()
    assert "kept" in clone.python(LOG, **env)
    ask(env, "users/create", {"username": "ann", "password": "what only ann knows"})
    hook = {"name": "hook", "url": "https://93.184.215.14/hook", "secret": "of the hook"}
    ask(env, "webhooks", {**hook, "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]})
    file = clone.state / "storage/mlflow/.mlflow.db.keys"
    keys = list(json.loads(file.read_text()).values())
    assert len(keys) == 3
    assert all(keys)
    said += [*clone.local("mlflow-status", *settings), *clone.local("mlflow-logs", MLFLOW_FOLLOW="no")]
    said += clone.local("mlflow-backup", *settings)
    name = said[-2].split()[1]
    ask(env, "users/create", {"username": "bob", "password": "is not in the backup"})
    said += clone.local("mlflow-restore", f"FROM={name}", "MLFLOW_FORCE=yes", *settings)
    assert "1 webhook, 2 users" in said[-2]
    assert "MLflow is up" in said[-2]
    said += clone.local("mlflow-upgrade", *settings)
    assert "the store is up to date" in said[-2]
    said += clone.local("mlflow-gc", *settings)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask({**env, "MLFLOW_TRACKING_USERNAME": "bob"}, "users/get?username=bob")
    ann = {**client_environment(clone), "MLFLOW_TRACKING_USERNAME": "ann"}
    ann["MLFLOW_TRACKING_PASSWORD"] = "what only ann knows"
    assert ask(ann, "users/get?username=ann")["user"]["username"] == "ann"
    assert [found["name"] for found in ask(client_environment(clone), "webhooks")["webhooks"]] == ["hook"]
    job = re.findall("job-[0-9a-f-]{36}", "".join(said))[-1]
    shown = subprocess.run(
        [apolo[0], "status", job], env=clone.env, cwd=clone.path, check=True, capture_output=True, text=True
    )
    kept = [path for path in clone.state.rglob("*") if path.is_file() and path != file]
    assert any("job" in path.name for path in kept)  # logs, and the descriptions of jobs
    for key in keys:
        assert key not in "".join(said) + shown.stdout
        assert [path for path in kept if key.encode() in path.read_bytes()] == []
    assert password.read_text() not in "".join(said) + shown.stdout


@pytest.mark.usefixtures("tables")
def test_a_prefix_is_part_of_every_address(clone: Clone) -> None:
    prefix = ("MLFLOW_EXTRA_PARAMS=--static-prefix /team/mlflow",)
    out, _ = clone.local("mlflow-up", *prefix)
    url = out.splitlines()[0].removeprefix("MLflow is up: ")
    assert url.endswith("/team/mlflow")
    assert out.count("/team/mlflow\n") >= 3  # address, this shell, jobs of this flow
    assert "internal_hostname_named }}:5000/team/mlflow\n" in out
    assert f"address   {url}\n" in clone.local("mlflow-status", *prefix)[0]
    assert client_environment(clone) == {"MLFLOW_TRACKING_URI": url}
    assert "kept" in clone.python(LOG, MLFLOW_TRACKING_URI=url)
    browser = clone.home / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > "$HOME/link"\n')
    browser.chmod(0o755)
    clone.local("mlflow-open", BROWSER=str(browser))
    assert (clone.home / "link").read_text() == f"{url}/"
    assert get(f"{url}/") == 200
