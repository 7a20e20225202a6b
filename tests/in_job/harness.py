"""Real MLflow servers, databases and their preparation, for the tests of serve.py; all on loopback."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from flow import program

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
DATA = Path(__file__).parent / "data"
MLFLOW_PYTHON = ROOT / ".mlflow" / "venv-mlflow" / "bin" / "python"
NUMBERS = itertools.count()  # of servers
OLD_REVISION = "97727af70f4d"  # of MLflow 2.1.1
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
LABELS = ("job-1f2e", "mlflow--abc")
JOB = {
    "NEURO_JOB_INTERNAL_HOSTNAME": f"{LABELS[0]}.platform-jobs",
    "NEURO_JOB_INTERNAL_HOSTNAME_NAMED": f"{LABELS[1]}.platform-jobs",
}


def needed(program: str, hint: str, *folders: str) -> str:
    """Path of a program that the tests need; a missing one fails the test with the way to get it."""
    found = shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *folders]))
    if not found:
        pytest.fail(f"{program} is missing: {hint}")
    return found


def python_with_mlflow() -> str:
    """The Python that runs the servers."""
    return needed(str(MLFLOW_PYTHON), "bash scripts/bootstrap.sh --local")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(ready: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The processes below a process (Linux)."""
    found: list[int] = []
    with suppress(OSError):  # it has just ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return [each for child in found for each in (child, *descendants(child))]


SERVE = """
import io, os, sys, types, warnings
anew = tuple(os.environ.pop("ANEW").split())
for name in list(sys.modules):
    if name.startswith(anew):
        del sys.modules[name]
sys.path[:] = ["", *(path for path in sys.path if "site-packages" in path or "lib/python" in path)]
sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), "utf-8", write_through=True) for n in (1, 2))
warnings.filters.remove(("ignore", None, Warning, None, 0))  # of warm.py
sys.modules["__main__"] = types.ModuleType("__main__")
exec(os.environ.pop("SERVE"), vars(sys.modules["__main__"]))
"""
"""Becomes the program SERVE in a fork of `warm`; what begins with a word of ANEW is imported anew."""


class Server:
    """The server in a process of its own, run as the action runs it, with its output in a file.

    With `fork`, which runs code in a fork of a process that has imported what MLflow needs, it is up in half
    of the time. MLflow itself is imported anew: it reads settings, such as keys, while that is done.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        prefix: tuple[str, ...] = (),
        fork: Callable[..., Any] | None = None,
    ) -> None:
        self.port = free_port()
        self.log = folder / f"server-{next(NUMBERS)}.log"  # a port may be free once more
        path = f"{MLFLOW_PYTHON.parent}:{os.environ['PATH']}"
        common = {"PATH": path, "HOME": str(folder), "MLFLOW_HOST": "127.0.0.1", **JOB}
        common |= {"MLFLOW_ACTION_MODE": "server", "MLFLOW_PORT": str(self.port)}
        common |= program.variables("serve") | dict(env)
        self._forks = "--fork" in prefix
        self.process: Any
        if fork and not prefix and not any(name.startswith(("LD_", "PYTHON")) for name in env):
            self.log.touch()
            self.process = fork(
                SERVE, self.log, **common, SERVE=program.command("serve"), ANEW="in_job mlflow"
            )
            return
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*prefix, python_with_mlflow(), "-uc", program.command("serve")],
                env=common,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process of serve.py itself; `unshare --fork` before it has it as its child."""
        return descendants(self.process.pid)[0] if self._forks else self.process.pid

    def signal(self, number: int) -> None:
        """Send serve.py a signal."""
        with suppress(IndexError, ProcessLookupError):  # it has just ended
            os.kill(self.pid, number)

    @property
    def lines(self) -> list[str]:
        """What serve.py itself has said."""
        text = self.log.read_text("utf-8", "replace")
        return [line for line in text.splitlines() if line.startswith("mlflow-server: ")]

    def wait_until_up(self, status: int = 200) -> Server:
        """Wait until the server answers its API; with 401 where it asks for a password."""

        def up() -> bool:
            if self.process.poll() is not None:
                pytest.fail(
                    f"the server ended with {self.process.returncode}:\n{self.log.read_text('utf-8')}"
                )
            try:
                return self.call("GET", f"{API}/experiments/search?max_results=1")[0] == status
            except OSError:
                return False

        wait_for(up, f"the server ({self.log})")
        return self

    def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one request; the path and the headers go out exactly as given."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer of MLflow's API to a request that must succeed."""
        status, answer = self.call(method, API + path, body)
        assert status == 200, (path, answer)
        return json.loads(answer)

    def stop(self) -> int:
        """End the server as the platform does; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return int(self.process.wait(60))

    def kill(self) -> None:
        """End whatever is left, at the end of a test."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGTERM)  # the second one kills the server's group
                self.process.wait(30)


StartServer = Callable[..., Server]


def servers(folder: Path, fork: Callable[..., Any] | None = None) -> Iterator[StartServer]:
    started: list[Server] = []

    def start(destination: str | Path, *, prefix: tuple[str, ...] = (), **env: str) -> Server:
        server = Server(folder, {"MLFLOW_ARTIFACTS_DESTINATION": str(destination), **env}, prefix, fork)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


def old_database(path: Path) -> Path:
    """Make the database that MLflow 2.1.1 left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript((DATA / "mlflow-2.1.1.sql").read_text("utf-8"))
    return path


def preparing(path: Path, prefix: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    """Start what serve.py does before the server, for a SQLite database, with the server's Python."""
    code = "import sys; from in_job import sqlite; sqlite.prepare_sqlite('sqlite:///' + sys.argv[1], 20.0)"
    command = [*prefix, python_with_mlflow(), "-c", code, str(path)]
    environ = {**os.environ, "PYTHONPATH": str(SCRIPTS), **env}
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def prepare(path: Path, **env: str) -> str:
    """Do the same and wait for it; what it said."""
    process = preparing(path, (), **env)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    return said


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def mlflow_python(code: str, *arguments: str, cwd: Path, **env: str) -> str:
    """Run code of an MLflow client in the server's Python; its output."""
    command = [python_with_mlflow(), "-c", code, *arguments]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **env}
    done = subprocess.run(
        command, cwd=cwd, env=environ, timeout=900, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Database:
    """A database server started by the tests: PASSWORD has signs in it that a URI must escape."""

    PASSWORD = "s3cret/p:w"
    ESCAPED = "s3cret%2Fp%3Aw"

    def __init__(self, scheme: str, port: int, execute: Callable[..., str]) -> None:
        self.scheme, self.port, self.execute = scheme, port, execute
        self.templates: set[str] = set()
        """Databases of which tests take copies, so far."""

    def create(self, name: str, template: str = "") -> None:
        """Make a database, empty or a copy of another that nobody is connected to."""
        if self.scheme == "postgresql":
            self.execute(f"CREATE DATABASE {name}{f' TEMPLATE {template}' if template else ''}", "postgres")
            return
        # its own default is latin1, of which a server warns
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        if template:
            tables = self.execute("SHOW TABLES", template).split()
            shown = self.execute(";".join(f"SHOW CREATE TABLE {table}" for table in tables), template)
            made = [line.partition("\t")[2].replace("\\n", " ") for line in shown.splitlines()]
            rows = [f"INSERT INTO {table} SELECT * FROM {template}.{table}" for table in tables]
            self.execute(";".join(["SET FOREIGN_KEY_CHECKS = 0", *made, *rows]), name)

    def uri(self, name: str, *, password: str = ESCAPED, scheme: str = "", port: int = 0) -> str:
        return f"{scheme or self.scheme}://mlflow:{password}@127.0.0.1:{port or self.port}/{name}"


def unprivileged() -> list[str]:
    """Words before a command that must not run as root, as databases do not."""
    if os.geteuid():
        return []
    return [
        needed("setpriv", "apt-get install util-linux"),
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]


def short_folder(name: str) -> Path:
    """A folder for sockets, whose paths may have 107 characters only and whose parents must be public."""
    folder = Path(subprocess.check_output(["mktemp", "-d", f"/tmp/{name}-XXXXXX"], text=True).strip())
    if not os.geteuid():
        os.chown(folder, 65534, 65534)
    return folder


def burst(
    server: Server, *, clients: int, rounds: int, wait: bool = True, errors: list[str] | None = None
) -> list[Any]:
    """Let clients write and read all at once, as training jobs do: errors; with `wait=False` the threads."""
    if not list(MLFLOW_PYTHON.parents[1].glob("lib/*/site-packages/flask_wtf")):
        pytest.fail(
            "flask-wtf is missing: without it MLflow answers some concurrent searches with HTTP 500; "
            "put it into scripts/local_platform/mlflow.in, then run bash scripts/bootstrap.sh --local"
        )
    found = [] if errors is None else errors
    barrier = threading.Barrier(clients)
    metrics = [{"key": f"m{number}", "value": number, "timestamp": 1, "step": 0} for number in range(10)]

    def client() -> None:
        barrier.wait()
        try:
            for _ in range(rounds):
                run = server.ask("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
                server.ask("POST", "/runs/log-batch", {"run_id": run, "metrics": metrics})
                server.ask("POST", "/runs/search", {"experiment_ids": ["0"], "max_results": 10})
                server.ask("GET", "/registered-models/search?max_results=5")
        except (OSError, AssertionError, HTTPException) as error:
            found.append(repr(error)[:300])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    if not wait:
        return threads
    for thread in threads:
        thread.join()
    return found
