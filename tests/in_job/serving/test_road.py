"""The direct road: the same answers as MLflow's own way, and taken only where MLflow is as it is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..harness import DATA, SCRIPTS, mlflow_python

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("prefix", "every"), [("", "4"), ("/a-b", "16")])
def test_both_roads_answer_alike(prefix: str, every: str, template: Path, tmp_path: Path) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    code = (DATA / "both_roads.py").read_text("utf-8")
    said = mlflow_python(
        code, str(tmp_path / "mlflow.db"), prefix, every, cwd=tmp_path, PYTHONPATH=str(SCRIPTS)
    )
    found = json.loads(said.splitlines()[-1])
    assert found["different"] == []
    assert found["asked"] > 300
    assert found["taken"] > 200
    assert found["good"] > 30


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param("", "", id="known"),
        pytest.param("os.environ['MLFLOW_ENABLE_WORKSPACES'] = 'true'", "workspaces", id="workspaces"),
        pytest.param(
            "from starlette.middleware.gzip import GZipMiddleware; module.app.add_middleware(GZipMiddleware)",
            "the layer starlette.middleware.gzip.GZipMiddleware",
            id="another-layer",
        ),
        pytest.param(
            "module.app.user_middleware.reverse()", "its layers in another order: starlette", id="order"
        ),
        pytest.param("module.app.routes.pop()", "another app than Flask's", id="no-flask"),
        pytest.param("del module.build_environ", "AttributeError(", id="newer"),
        pytest.param("words.insert(0, '--factory')", "users of its own", id="basic-auth"),
    ],
)
def test_it_is_taken_only_where_mlflow_is_as_it_is_known(change: str, reason: str, tmp_path: Path) -> None:
    code = f"""
import os, sys
import uvicorn
import mlflow.server.fastapi_app as module
from in_job.serving import road
before, words = module.app, ["mlflow.server.fastapi_app:app"]
{change}
sys.stderr = sys.stdout
road.take_road(words, 4)
print(module.app is before)
"""
    said = mlflow_python(code, cwd=tmp_path, PYTHONPATH=str(SCRIPTS)).splitlines()
    lines = [line for line in said if line.startswith("mlflow-server: ")]
    assert said[-1] == str(bool(reason))
    assert len(lines) == bool(reason)
    assert all(f"since this app has {reason}" in line for line in lines)
