"""A second opinion: every answer of a session has the shape that the real platform's services give it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.e2e.conftest import Clone
from tests.local_platform import schemas
from tests.local_platform.harness import MLFLOW, Platform
from tests.local_platform.recorder import recording

#: What a session asks of the services, each at least once.
ASKED = {
    ("GET", "/config", 200),
    ("GET", "/jobs", 200),
    ("POST", "/jobs", 202),
    ("DELETE", "/jobs", 204),
    ("PUT", "/jobs", 204),
    ("GET", "/flow/projects", 404),
    ("POST", "/flow/projects", 201),
    ("PUT", "/flow/live_jobs", 201),
    ("GET", "/monitoring", 101),
    ("POST", "/secrets", 201),
    ("GET", "/secrets", 200),
    ("DELETE", "/secrets", 204),
    ("POST", "/disks", 201),
    ("GET", "/disks", 200),
    ("DELETE", "/disks", 204),
    ("PUT", "/storage", 201),
    ("GET", "/storage", 200),
    ("GET", "/v2", 200),
}


@pytest.mark.e2e
def test_every_answer_of_a_session_is_one_of_the_real_platforms(
    new: Callable[[], Platform], tmp_path: Path
) -> None:
    platform, clone = new(), Clone(tmp_path / "clone")
    images = yaml.safe_load((platform.state / "images.yaml").read_text())
    images["ghcr.io/*"] = {"bin": str(MLFLOW)}
    (platform.state / "images.yaml").write_text(yaml.safe_dump(images))
    with recording(platform.login.url, schemas.check) as recorder:

        def run(*command: str, code: int = 0) -> str:
            done = subprocess.run(
                [str(clone.path / ".mlflow/venv/bin" / command[0]), *command[1:]],
                cwd=clone.path,
                env={**clone.env, "NEURO_CLI_DISABLE_PYPI_VERSION_CHECK": "1", "BROWSER": "true"},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=240,
                check=False,
            )
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        run("neuro", "config", "login-with-token", platform.login.token, recorder.url)
        (clone.home / "value").write_text("sqlite:////mnt/mlflow/mlflow.db")
        run("apolo", "secret", "add", "store", f"@{clone.home}/value")
        assert "secret:store" in run("apolo", "secret", "ls")
        run("apolo", "disk", "create", "1G", "--name", "unused")
        assert "unused" in run("apolo", "disk", "ls")
        run("apolo", "disk", "rm", "unused")
        run("apolo", "image", "ls")
        clone.make("mlflow-up", "MLFLOW_BACKEND_STORE_URI=secret:store")
        clone.make("mlflow-status", "MLFLOW_BACKEND_STORE_URI=secret:store")
        clone.make("mlflow-extend", "BY=1d")
        clone.make("mlflow-logs", "MLFLOW_FOLLOW=no")
        clone.make("mlflow-backup", f"TO={clone.home}/runs.zip", "MLFLOW_BACKEND_STORE_URI=secret:store")
        assert (clone.home / "runs.zip").stat().st_size > 1000
        assert "running" in run("neuro-flow", "ps")
        clone.make("mlflow-down")
        run("apolo", "job", "ls", "--all")
        run("apolo", "ls", "storage:")
        run("apolo", "secret", "rm", "store")
    assert recorder.faults == []
    assert recorder.seen >= ASKED, ASKED - recorder.seen


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b'[{"key": "a", "owner": "o", "org_name": "x"}]', "project_name", id="missing"),
        pytest.param(
            b'[{"key": "a", "owner": "o", "org_name": "x", "project_name": "p", "value": "v"}]',
            "value",
            id="one too many",
        ),
        pytest.param(
            b'[{"key": "", "owner": "o", "org_name": "x", "project_name": "p"}]', "minLength", id="empty"
        ),
    ],
)
def test_another_shape_is_noticed(body: bytes, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=text):
        schemas.check("GET", "/secrets", "", 200, "application/json", body)


@pytest.mark.parametrize(
    ("path", "status"), [("/secrets", 202), ("/buckets", 200), ("/secrets/x", 200), ("/secrets", 500)]
)
def test_an_answer_without_a_schema_is_noticed(path: str, status: int) -> None:
    with pytest.raises(AssertionError, match="no schema"):
        schemas.check("GET", path, "", status, "application/json", b"{}")
