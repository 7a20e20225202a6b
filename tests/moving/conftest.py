"""Somebody's repository with the older action in its flow, and the store that its server left."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.copying.project import Project

DATA = Path(__file__).with_name("data")


class Moved(Project):
    """A project whose flow calls the older action."""

    def __init__(self, folder: Path, name: str, flow: str) -> None:
        super().__init__(folder, name, {".neuro/live.yaml": flow, "Makefile": "all: ; @echo all\n"})

    def volume(self, remote: str) -> Path:
        """Return the folder of a storage volume on the local platform."""
        return self.path / ".mlflow/local/storage" / remote

    def lay_store(self, remote: str, version: str) -> dict[str, Any]:
        """Put the store that a real older server wrote on a volume; return what was in it."""
        volume = self.volume(remote)
        volume.mkdir(parents=True)
        with closing(sqlite3.connect(volume / "mlflow.db")) as database:
            database.executescript((DATA / f"mlflow-{version}.sql").read_text())
            runs = database.execute("SELECT run_uuid, lifecycle_stage FROM runs").fetchall()
        files: dict[str, str] = json.loads((DATA / f"mlflow-{version}.json").read_text())
        for path, text in files.items():
            (volume / path).parent.mkdir(parents=True, exist_ok=True)
            (volume / path).write_text(text)
        return {"runs": dict(runs), "files": files}


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Moved]:
    """The flow is the test's parameter `flow`."""
    made = Moved(tmp_path, "their_project", request.getfixturevalue("flow"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def old_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with a real old client, MLflow 1.30 without its server."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    uv = str(ROOT / ".mlflow/venv/bin/uv")
    subprocess.run([uv, "venv", "-q", "--python", "3.11", str(folder)], check=True, timeout=120)
    words = [
        uv,
        "pip",
        "install",
        "-q",
        "--python",
        str(folder / "bin/python"),
        "-r",
        str(DATA / "old-client.txt"),
    ]
    subprocess.run(words, check=True, timeout=240)
    return folder / "bin/python"
