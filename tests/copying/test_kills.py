"""SIGKILL in the middle of the real scripts: the repository's own targets work, the next call mends it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from copying.transaction import recover
from tests.conftest import ROOT

from . import faults
from .conftest import FILES, commit, lay, snapshot, toolkit_in

pytestmark = pytest.mark.e2e


class Repository:
    """Somebody's repository and two versions of the toolkit, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = folder / "theirs", folder / "theirs/scripts/mlflow"
        self.old, self.new = folder / "old", folder / "new"
        self.home = folder / "home"

    def run(self, operation: str, fault: str = "kill", number: int = 10**6) -> int:
        """Run install, update or uninstall with a fault at the given change; return its exit code."""
        scripts = self.old / "scripts" if operation == "install" else self.folder
        words = {"INTO": str(self.root), "FROM": str(self.new), "HOME": str(self.home)}
        self.home.mkdir(exist_ok=True)
        words |= {
            "FAULTS_COUNT": str(self.home / "count"),
            "FAULTS_BELOW": str(self.root),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": "",
        }
        command = [sys.executable, "-B", faults.__file__, fault, str(number), f"{scripts}/{operation}.py"]
        cwd = self.old if operation == "install" else self.root
        run = subprocess.run(command, cwd=cwd, env=words, capture_output=True, text=True, check=False)
        assert "Traceback" not in run.stderr, run.stderr
        return run.returncode

    def copy(self, folder: Path) -> Repository:
        """Return a copy of the repository, with the same toolkits."""
        made = Repository(folder)
        made.old, made.new = self.old, self.new
        shutil.copytree(self.root, made.root, symlinks=True)
        return made


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repository]:
    """The repository before and after each operation."""
    first = Repository(tmp_path_factory.mktemp("kills"))
    lay(first.root, FILES)
    commit(first.root)
    toolkit_in(first.old)
    toolkit_in(first.new)
    lay(
        first.new,
        {"scripts/VERSION": "99.0\n", "scripts/open.py": "# changed\n", "scripts/more.py": "# new\n"},
    )
    (first.new / "scripts/extend.py").unlink()
    found = {"start": first}
    for operation in ("install", "update", "uninstall"):
        found[operation] = first = first.copy(tmp_path_factory.mktemp(operation))
        assert first.run(operation) == 0
    assert snapshot(found["uninstall"].root) == snapshot(found["start"].root)
    return found


@pytest.mark.parametrize(
    ("before", "operation"), [("start", "install"), ("install", "update"), ("update", "uninstall")]
)
def test_killed_at_random(states: dict[str, Repository], tmp_path: Path, before: str, operation: str) -> None:
    old, new = snapshot(states[before].root), snapshot(states[operation].root)
    assert old != new
    counted = states[before].copy(tmp_path / "count")
    assert counted.run(operation) == 0
    last = int((counted.home / "count").read_text())
    for number in {*random.sample(range(1, last), 3), last - 20, last - 5, last}:
        half = states[before].copy(tmp_path / f"at-{number}")
        code = half.run(operation, number=number)
        assert code == -9, number
        own = subprocess.run(["make", "all"], cwd=half.root, capture_output=True, text=True, check=False)
        assert own.stdout.endswith("all\n"), (number, own.stderr)
        if (half.folder / "uninstall.py").exists() or operation == "install":
            assert half.run(operation) == 0, number
        recover(half.root)
        assert snapshot(half.root) == new, number


@pytest.mark.parametrize("operation", ["install", "update", "uninstall"])
def test_a_full_disk(states: dict[str, Repository], tmp_path: Path, operation: str) -> None:
    before = {"install": "start", "update": "install", "uninstall": "update"}[operation]
    repository = states[before].copy(tmp_path)
    old = snapshot(repository.root)
    for number in (1, 3, 6):
        assert repository.run(operation, "full", number) == 1
        assert snapshot(repository.root) == old
        assert not (repository.root / ".mlflow-install").exists()
    assert str(ROOT) not in (repository.root / "Makefile").read_text()
