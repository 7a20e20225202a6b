"""The commands of docs/moving.md, typed one after the other by somebody who moves in."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from local_platform import client
from tests.conftest import ROOT
from tests.copying.conftest import commit, lay
from tests.copying.older_flows import FLOWS
from tests.copying.project import call
from tests.dev.test_pages import TEXTS, commands
from tests.e2e.conftest import VENVS, Clone
from tests.in_job.harness import old_database

pytestmark = pytest.mark.e2e

PAGE = "docs/moving.md"
LOG = "import mlflow\nwith mlflow.start_run() as run:\n  mlflow.log_metric('m', 1)\nprint(run.info.run_id)"


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    """A clone on whose PATH are the MLflow commands; `my-project` and `old` may be beside it."""
    made = Clone(tmp_path)
    made.env |= {"MLFLOW_PLATFORM": "local", "PATH": f"{ROOT}/.mlflow/venv-mlflow/bin:{made.env['PATH']}"}
    for who in ("AUTHOR", "COMMITTER"):
        made.env |= {f"GIT_{who}_NAME": "n", f"GIT_{who}_EMAIL": "e@example.org"}
    yield made
    client.stop(made.path.parent / "my-project/.mlflow/local")
    made.end()


def test_each_section_is_typed() -> None:
    tried = ("From the older action", "From `mlflow server`", "From a file store", "From somebody's")
    assert sum(len(commands(PAGE, title)) for title in tried) == len(commands(PAGE)) > 10


def test_from_the_older_action(clone: Clone) -> None:
    project = clone.path.parent / "my-project"
    lay(project, {".neuro/live.yaml": FLOWS["example of 3.1.4"]})
    commit(project)
    (project / ".mlflow").mkdir()
    for venv in VENVS:
        (project / ".mlflow" / venv).symlink_to(ROOT / ".mlflow" / venv)
    said = clone.typed(commands(PAGE, "From the older action"))
    for words in ("+     action: ws:.mlflow/action.yaml", "installed; commit it", "MLflow is up: "):
        assert words in said, words


def test_from_a_plain_server(clone: Clone) -> None:
    old = clone.path.parent / "old"
    old_database(old / "mlflow.db")
    with closing(sqlite3.connect(old / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = 'mlflow-artifacts:/0/' || run_uuid || '/artifacts'")
        runs = [run for (run,) in database.execute("SELECT run_uuid FROM runs")]
    lay(old, {f"mlartifacts/0/{run}/artifacts/notes.txt": "kept" for run in runs})
    said = clone.typed(commands(PAGE, "From `mlflow server`"))
    assert "restored: " in said
    api = f"{clone.up()}/api/2.0/mlflow"
    for run in runs:
        [file] = call(f"{api}/artifacts/list?run_id={run}")["files"]
        assert (file["path"], file["file_size"]) == ("notes.txt", 4)


def test_from_a_file_store_then_from_a_database(clone: Clone) -> None:
    store = clone.path.parent / "old/mlruns"
    logged = clone.python(LOG, MLFLOW_TRACKING_URI=str(store), MLFLOW_ALLOW_FILE_STORE="true").split()[-1]
    said = clone.typed(commands(PAGE, "From a file store"))
    assert "holds    1 experiment, 1 run" in said
    api = f"{clone.up()}/api/2.0/mlflow"
    assert call(f"{api}/runs/get?run_id={logged}")["run"]["data"]["metrics"][0]["value"] == 1

    old_database(clone.state / "storage/mlflow/other.db")
    (clone.path / "uri").write_text("sqlite:////mnt/mlflow/other.db")
    apolo = [str(clone.state / "bin/apolo"), "secret", "add", "mlflow-db", "@uri"]
    subprocess.run(apolo, cwd=clone.path, env=clone.env, check=True, capture_output=True)
    [settings] = re.findall(r"(?ms)^```yaml\n(.*?)^```", TEXTS[PAGE])
    (clone.path / "mlflow.yaml").write_text(settings)
    said = clone.typed(commands(PAGE, "From somebody's"))
    assert "is of an older MLflow" in said
    assert "upgraded: the schema is " in said
    assert "MLflow is up: " in said
