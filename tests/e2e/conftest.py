"""Clones of this repository in which tests run the make targets, as a newcomer does."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_platform import client
from tests.conftest import ROOT
from tests.in_job.conftest import template  # noqa: F401 - a fixture

VENVS = ("venv", "venv-mlflow")


class Clone:
    """A copy of the working tree in a path with a blank, with a HOME of its own that is empty."""

    def __init__(self, folder: Path, *, set_up: bool = True) -> None:
        self.path = folder / "my project"
        self.home = folder / "home"
        self.path.mkdir(parents=True)
        self.home.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).exists():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.path / name)
        if set_up:  # the set-up itself has tests of its own
            (self.path / ".mlflow").mkdir()
            for venv in VENVS:
                made = ROOT / ".mlflow" / venv
                assert (made / "stamp").exists(), f"{made} is missing: bash dev/setup.sh makes it"
                (self.path / ".mlflow" / venv).symlink_to(made)
        self.state = self.path / ".mlflow/local"
        self.url = ""
        """The server's address when it was last asked for."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        kept |= {
            name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))
        }
        self.env = {"UV_CACHE_DIR": str(Path.home() / ".cache/uv"), **kept, "HOME": str(self.home)}

    def lend_store(self, database: Path) -> None:
        """Lay a store with tables ready, for tests that are not about its sixty migrations."""
        folder = self.state / "storage/mlflow"
        folder.mkdir(parents=True)
        shutil.copyfile(database, folder / "mlflow.db")

    def start(self, target: str, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start `make target words` in a process group of its own."""
        return subprocess.Popen(
            ["make", "-s", target, *words],
            cwd=self.path,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, target: str, *words: str, code: int = 0, **env: str) -> tuple[str, str]:
        """Run `make target words`, check the script's exit code, return stdout and stderr."""
        process = self.start(target, *words, **env)
        out, err = process.communicate(timeout=240)
        expected = (2, f"Error {code}\n") if code else (0, "")
        assert (process.returncode, err[-len(expected[1]) :] if code else "") == expected, f"{out}\n{err}"
        return out, err

    def local(self, target: str, *words: str, code: int = 0, **env: str) -> tuple[str, str]:
        """Run a target on the local platform."""
        return self.make(target, "MLFLOW_PLATFORM=local", *words, code=code, **env)

    def typed(self, lines: list[str]) -> str:
        """Type commands one after the other, which have to do; return all that a terminal would show."""
        script = "\n".join(f"echo {shlex.quote(line)}\n{line}" for line in lines)
        run = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.path,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        return run.stdout

    def up(self, *words: str) -> str:
        """Start the server on the local platform and return its address."""
        out, _ = self.local("mlflow-up", *words)
        self.url = out.splitlines()[0].rpartition(" ")[2]
        return self.url

    def python(self, code: str, *arguments: str, **env: str) -> str:
        """Run code with the Python of the MLflow environment, and return what it printed."""
        command = [str(ROOT / ".mlflow/venv-mlflow/bin/python"), "-c", code, *arguments]
        run = subprocess.run(
            command,
            env={**self.env, **env},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def processes(self) -> list[int]:
        """Return the ids of the processes that work in this clone (Linux), the platform's and its jobs'."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if str(self.path).encode() in words and not zombie:
                found.append(int(entry.name))
        return found

    def end(self) -> None:
        """Stop what a test has left."""
        client.stop(self.state)
        for pid in self.processes() if Path("/proc").exists() else []:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    made = Clone(tmp_path)
    yield made
    made.end()


@pytest.fixture
def tables(clone: Clone, template: Path) -> None:  # noqa: F811
    """Lays a store with tables ready for the clone."""
    clone.lend_store(template)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Clone]:  # noqa: F811
    """A clone whose server is up, for tests that leave it so."""
    made = Clone(tmp_path_factory.mktemp("served"))
    made.lend_store(template)
    made.up()
    yield made
    made.end()
