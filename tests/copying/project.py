"""A repository of somebody's for the tests that start servers, beside a clone of the toolkit."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.e2e.conftest import VENVS, Clone

from .conftest import commit, lay


class Project(Clone):
    """A repository of somebody's beside a clone of the toolkit."""

    def __init__(self, folder: Path, name: str, files: dict[str, str]) -> None:
        super().__init__(folder / "toolkit of mine")
        self.toolkit = self.path
        self.path = folder / "where they work" / name
        self.state = self.path / ".mlflow/local"
        self.path.mkdir(parents=True)
        lay(self.path, files)
        commit(self.path)

    def install(self, *words: str) -> tuple[str, str]:
        """Install from the clone, and lend it the clone's environments."""
        into = f"INTO=../../where they work/{self.path.name}"
        done = Clone.make(self.toolkit_clone(), "mlflow-install", into, *words)
        self.set_up()
        return done

    def toolkit_clone(self) -> Clone:
        """Return the clone as something to call make in."""
        clone = object.__new__(Clone)
        clone.path, clone.env = self.toolkit, self.env
        return clone

    def set_up(self) -> None:
        """Lend the repository the environments that were made already."""
        (self.path / ".mlflow").mkdir(exist_ok=True)
        for venv in VENVS:
            if not (self.path / ".mlflow" / venv).exists():
                (self.path / ".mlflow" / venv).symlink_to(ROOT / ".mlflow" / venv)

    def own(self, goals: list[str]) -> dict[str, tuple[int, str, str]]:
        """Return what the repository's own targets do."""
        found = {}
        for goal in goals:
            words = ["make", *goal.split()]
            run = subprocess.run(
                words, cwd=self.path, env=self.env, capture_output=True, text=True, check=False
            )
            found[goal] = (run.returncode, run.stdout, run.stderr)
        return found

    def database(self) -> list[str]:
        """Return make's rules and variables but for those with our names."""
        run = subprocess.run(
            ["make", "-pn", "no-such-target"],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = []
        for line in run.stdout.splitlines():
            if line.startswith((".PHONY:", "MAKEFILE_LIST")):
                line = " ".join(word for word in line.split() if not word.startswith("mlflow-"))
            if not re.search(r"^#|^[>\s]*$|mlflow-|MLFLOW_|/mlflow\.mk", line):
                lines.append(line)
        return sorted(line for line in lines if line != ".PHONY:")  # make's own order depends on their number


def call(
    url: str, method: str = "GET", data: object = None, raw: bytes | None = None, token: str = ""
) -> Any:
    """Call MLflow's API."""
    body = raw if raw is not None else json.dumps(data).encode() if data is not None else None
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def log_run(url: str, token: str = "") -> str:
    """Log a run with a metric and an artifact, read it back, and return its id."""
    api = f"{url}/api/2.0/mlflow"
    ask = functools.partial(call, token=token)
    run = ask(f"{api}/runs/create", "POST", {"experiment_id": "0"})["run"]["info"]
    metric = {"run_id": run["run_id"], "key": "m", "value": 0.5, "timestamp": 1}
    ask(f"{api}/runs/log-metric", "POST", metric)
    artifact = f"{url}/api/2.0/mlflow-artifacts/artifacts/0/{run['run_id']}/artifacts/a.txt"
    ask(artifact, "PUT", raw=b"data")
    got = ask(f"{api}/runs/get?run_id={run['run_id']}")["run"]
    assert got["data"]["metrics"][0]["value"] == 0.5
    listed = ask(f"{api}/artifacts/list?run_id={run['run_id']}")
    assert [file["path"] for file in listed["files"]] == ["a.txt"]
    return str(run["run_id"])
