"""What the toolkit adds to a bare `neuro-flow run`, on the local platform, in a copy of this repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from contenders import LIST, ROOT, START_LIMIT
from machine import Unable

TARGETS = ("mlflow-render", "mlflow-config", "mlflow-help")
KEEP = "import time; time.sleep(3600)"


class Workspace:
    """A copy of this repository with the environments of the original, whose local platform stays up."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "workspace"
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.path / name)
        (self.path / ".mlflow").mkdir()
        for venv in ("venv", "venv-mlflow"):
            (self.path / ".mlflow" / venv).symlink_to(ROOT / ".mlflow" / venv)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.env = {**kept, "MLFLOW_PLATFORM": "local"}
        said = self.run("make", "-s", "mlflow-up")  # makes the platform, the database and the rendered action
        self.url = re.findall(r"http://[\w.]+:\d+", said)[0]
        self.apolo = str(self.path / ".mlflow/local/bin/apolo")
        self.flow = str(self.path / ".mlflow/local/bin/neuro-flow")
        # A job keeps the platform up, so that neither contender has to start it.
        self.run(self.apolo, "run", "--detach", "--name", "keep", "python:3.11", "--", f"python -c '{KEEP}'")
        self.run("make", "-s", "mlflow-down")

    def run(self, *words: str) -> str:
        """Run a command in the workspace and return its output.

        Raises:
            Unable: it failed.
        """
        done = subprocess.run(
            words,
            cwd=self.path,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unable(f"{' '.join(words[:3])} failed: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def timed(self, *words: str) -> float:
        """Return the seconds that a command takes."""
        begun = time.monotonic()
        self.run(*words)
        return time.monotonic() - begun

    def up(self) -> float:
        """Return the seconds of `make mlflow-up`, which ends when the server answers."""
        seconds = self.timed("make", "-s", "mlflow-up")
        self.run("make", "-s", "mlflow-down")
        return seconds

    def bare(self) -> float:
        """Return the seconds from a bare `neuro-flow run` to the server's first answer."""
        begun = time.monotonic()
        self.run(self.flow, "run", "mlflow_server")
        while not self._answers():
            if time.monotonic() - begun > START_LIMIT:
                raise Unable(f"neuro-flow run mlflow_server: no answer from {self.url}")
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        self.run("make", "-s", "mlflow-down")
        return seconds

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + LIST) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def close(self) -> None:
        """End the platform and its jobs."""
        self.run(self.apolo, "kill", "keep")
        self.run("make", "-s", "mlflow-down")
