"""Every command of the pages, typed one after the other by a newcomer who has no account."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from local_platform import client
from tests.conftest import ROOT
from tests.dev.test_pages import PAGES, commands

from .conftest import VENVS, Clone

TYPED = ("README.md", "docs/data.md")
"""In this order, on one server."""
NOT_HERE = {".mlflow/venv/bin/neuro login": ".mlflow/venv/bin/neuro login --help"}  # it asks in a browser
TRAIN = """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("m", 1)
    mlflow.log_text("text", "notes.txt")
"""
BACKUP = "mlflow-20261203T131500Z.zip"
NEWEST = '"$(basename "$(find .mlflow/local/storage -name \'mlflow-2*.zip\' | sort | tail -1)")"'


def test_the_pages_that_are_typed_have_commands() -> None:
    assert set(TYPED) <= {page for page in PAGES if commands(page)}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone and, beside it, the repository `my-project`; both with the environments that set-up makes."""
    clone = Clone(tmp_path_factory.mktemp("newcomer"))
    project = clone.path.parent / "my-project"
    (project / ".mlflow").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    for venv in VENVS:
        (project / ".mlflow" / venv).symlink_to(ROOT / ".mlflow" / venv)
    (clone.path / "train.py").write_text(TRAIN)
    (clone.path / "python").mkdir()
    python = clone.path / "python/python"  # one with MLflow
    python.write_text(f"#!/bin/sh\nexec '{ROOT}/.mlflow/venv-mlflow/bin/python' \"$@\"\n")
    python.chmod(0o755)
    (clone.path / "uri").write_text("sqlite:////mnt/mlflow/other.db")
    clone.env |= {"MLFLOW_PLATFORM": "local", "PATH": f"{clone.path}/python:{clone.env['PATH']}"}
    yield clone
    subprocess.run(["make", "-s", "mlflow-down"], cwd=project, env=clone.env, check=False)
    client.stop(project / ".mlflow/local")
    clone.end()


@pytest.mark.e2e
@pytest.mark.parametrize("page", TYPED)
def test_typed_one_after_the_other(page: str, newcomer: Clone) -> None:
    if page == "docs/data.md":
        apolo = newcomer.path / ".mlflow/local/bin/apolo"
        subprocess.run([apolo, "secret", "add", "mlflow-db", "@uri"], cwd=newcomer.path, check=True)
    typed = [NOT_HERE.get(command, command).replace(BACKUP, NEWEST) for command in commands(page)]
    said = newcomer.typed(typed)
    told = {
        "README.md": ["MLflow is up: ", "accuracy", "stopped job", "Targets", "include $(wildcard"],
        "docs/data.md": ["holds ", "kept as ", "copy ", "restored"],
    }
    for words in told[page]:
        assert words in said, words


@pytest.mark.e2e
def test_the_tests_that_contributing_names_are_there() -> None:
    named = [command for command in commands("CONTRIBUTING.md") if " pytest " in command]
    assert len(named) == 3
    for command in named:
        words = shlex.split(f"{command} --collect-only -q")
        run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert re.search(r"(?m)^\d+(/\d+)? tests? collected", run.stdout), run.stdout + run.stderr
