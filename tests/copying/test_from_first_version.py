"""An installed copy of version 1.0.0, the real one of the history here, becomes one of this version."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from copying.transaction import files_below
from tests.conftest import ROOT
from tests.e2e.conftest import VENVS

from .conftest import commit, snapshot
from .project import Project, call, log_run
from .test_repositories import REPOSITORIES

pytestmark = pytest.mark.e2e

FIRST = "ef05121"
"""The commit of version 1.0.0, whose scripts lay in one flat folder."""
LOCKS = dict(zip(VENVS, ("requirements.lock", "local_platform/mlflow.lock"), strict=True))


def first_version(folder: Path) -> Path:
    """Lay version 1.0.0 into a folder, out of this repository's history."""
    folder.parent.mkdir()
    command = ["git", "archive", "--prefix", f"{folder.name}/", FIRST]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.fail(f"no commit {FIRST} in the history here, it is shallow: git fetch --unshallow gets it")
    subprocess.run(["tar", "-x"], cwd=folder.parent, input=archive.stdout, check=True)
    return folder


class Copy(Project):
    """A repository with a copy of version 1.0.0, and the toolkit of today beside."""

    def __init__(self, folder: Path, name: str, files: dict[str, str]) -> None:
        super().__init__(folder, name, files)
        self.today = self.toolkit
        self.toolkit = first_version(folder / "toolkit of then/mine")
        self.set_up_in(self.toolkit)
        self.scripts = self.path / "scripts/mlflow"

    def set_up_in(self, folder: Path) -> None:
        """Lend a folder those environments that version 1.0.0 would make just so; others it makes."""
        (folder / ".mlflow").mkdir(exist_ok=True)
        for venv, lock in LOCKS.items():
            if (self.toolkit / "scripts" / lock).read_bytes() == (ROOT / "scripts" / lock).read_bytes():
                (folder / ".mlflow" / venv).symlink_to(ROOT / ".mlflow" / venv)

    def set_up(self) -> None:
        self.set_up_in(self.path)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    made = Copy(tmp_path, *REPOSITORIES["habits"][:2])
    yield made
    made.end()


def test_it_is_brought_to_this_version(copy: Copy) -> None:
    before = snapshot(copy.path)
    copy.install()
    assert copy.make("mlflow-help")[0].startswith("MLflow server toolkit 1.0.0 ")
    commit(copy.path)
    run = log_run(copy.up())
    edited = {"open.py": "# mine\n", "drift.py": "# mine\n"}  # one has its new text beside, the other is gone
    for name, text in edited.items():
        edited[name] = (copy.scripts / name).read_text() + text
        (copy.scripts / name).write_text(edited[name])

    out, err = copy.make("mlflow-update", f"FROM={copy.today}")
    assert "drop  serve.py" in out
    assert "keep  open.py, which was edited here; the new one is open.py.new" in out
    assert "drift.py was edited here and stays as it is" in err
    there = {name for name in files_below(copy.scripts) if name != "installed.json"}
    beside = {"LICENSE", "action.yaml", "mlflow.example.yaml", "mlflow.schema.json"}
    assert there - beside == {*files_below(copy.today / "scripts"), "drift.py", "open.py.new"}
    assert {name: (copy.scripts / name).read_text() for name in edited} == edited
    folders = {path.name for path in copy.scripts.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {path.name for path in (copy.today / "scripts").iterdir() if path.is_dir()}

    assert "serving" in copy.local("mlflow-status")[0]  # what 1.0.0 has started
    _, err = copy.local("mlflow-open", code=1)
    assert err.startswith(
        "mlflow: error: scripts/mlflow/open.py: edited here, and may not fit the files of this"
    )
    shutil.move(copy.scripts / "open.py.new", copy.scripts / "open.py")
    copy.local("mlflow-open", BROWSER="true")
    copy.local("mlflow-down")
    url = copy.up()
    assert call(f"{url}/api/2.0/mlflow/runs/get?run_id={run}")["run"]["info"]["run_id"] == run
    assert "serving" in copy.local("mlflow-status")[0]
    _, err = copy.local("mlflow-deploy", "MODEL=iris", code=1)
    assert "deploy.yaml is missing" in err  # which 1.0.0 does not know
    copy.local("mlflow-down")
    out, _ = copy.make("mlflow-update", f"FROM={copy.today}")  # notes that open.py has been merged, too
    assert "write deploy.yaml" in out
    assert "nothing to do" in copy.make("mlflow-update", f"FROM={copy.today}")[1]

    _, err = copy.local("mlflow-uninstall")
    assert "drift.py" in err
    left = snapshot(copy.path)
    assert left.pop("scripts/mlflow/drift.py")[1] == edited["drift.py"].encode()
    assert {name: kept for name, kept in left.items() if name in before} == before
    assert {name for name in left if name not in before} <= {"scripts", "scripts/mlflow"}
    assert copy.processes() == []
