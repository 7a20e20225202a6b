"""Where a server is that has a path before it, and who gets into one that has users of its own."""

from __future__ import annotations

import subprocess

import pytest

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
