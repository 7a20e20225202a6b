"""The servers that are compared, and how each is started, watched and stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import MemoryLimit, Unable, end, free_port, processor_seconds, pss, session, tree

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

from flow import program  # noqa: E402

MLFLOW = ROOT / ".mlflow/venv-mlflow/bin/python"
OLD_MLFLOW = ROOT / ".mlflow/venv-mlflow-3.1.4/bin/python"
LIST = "/api/2.0/mlflow/experiments/search?max_results=1"
START_LIMIT = 240.0
"""Seconds that a server may take to start."""


@dataclass(frozen=True)
class Contender:
    """A way to run an MLflow server; `words` follow `mlflow server`, or are none for the toolkit's script."""

    name: str
    title: str
    python: Path
    words: tuple[str, ...] | None
    env: Mapping[str, str] = field(default_factory=dict)

    def command(self, uri: str, destination: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command and its environment; no contender phones home."""
        env = {"MLFLOW_DISABLE_TELEMETRY": "true", **self.env}
        if self.words is None:  # as the action runs it
            return [str(self.python), "-uc", program.command("serve")], {
                **program.variables("serve"),
                "MLFLOW_ACTION_MODE": "server",
                "MLFLOW_BACKEND_STORE_URI": uri,
                "MLFLOW_ARTIFACTS_DESTINATION": str(destination),
                "MLFLOW_HOST": "127.0.0.1",
                "NEURO_JOB_HTTP_PORT": str(port),
                "NEURO_JOB_INTERNAL_HOSTNAME": "job-1.platform-jobs",
                **env,
            }
        command = [str(self.python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", uri, "--artifacts-destination", str(destination), *self.words]
        return command, env


CONTENDERS = [
    Contender("toolkit", "this toolkit", MLFLOW, None),
    Contender("plain", "plain `mlflow server`", MLFLOW, ()),
    Contender(
        "tuned",
        "tuned by hand",
        MLFLOW,
        ("--workers", "2", "--uvicorn-opts", "--no-access-log"),
        {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "20",
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "20",
        },
    ),
    Contender("older", "MLflow 3.1.4, gunicorn", OLD_MLFLOW, ("--workers", "4")),
]


class Server:
    """A contender's server, on a port of its own."""

    first: tuple[Any, ...] = ("GET", LIST)
    """The request whose answer ends its start."""

    def __init__(
        self,
        contender: Contender,
        uri: str,
        folder: Path,
        env: Mapping[str, str],
        limit: MemoryLimit | None = None,
    ) -> None:
        self.contender = contender
        self.port = free_port()
        self.log = folder / f"{contender.name}-{self.port}.log"
        self.limit = limit
        command, own = contender.command(uri, folder / f"artifacts-{self.port}", self.port)
        enter: Callable[[], None] | None = limit.enter if limit else None
        begun = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **env, **own},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=enter,
            )
        try:
            self._wait_for_an_answer(begun)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begun

    def _wait_for_an_answer(self, begun: float) -> None:
        while not self.answers():
            words = self.log.read_text(encoding="utf-8", errors="replace").strip()[-400:]
            if self.process.poll() is not None:
                raise Unable(f"{self.contender.name} ended with code {self.process.returncode}: {words}")
            if self.limit and self.limit.kills():
                raise Unable(f"{self.contender.name} has too little memory to start")
            if time.monotonic() - begun > START_LIMIT:
                raise Unable(f"{self.contender.name} does not answer after {START_LIMIT:.0f} s: {words}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Tell whether what it is for is answered: an API call that reads the store."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(*self.first)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def settle(self, limit: float = 60.0) -> None:
        """Wait until all of its processes have done what they do at the start."""
        deadline = time.monotonic() + limit
        used = processor_seconds(self.process.pid)
        while time.monotonic() < deadline:
            time.sleep(0.8)
            now = processor_seconds(self.process.pid)
            if now - used < 0.12:
                return
            used = now

    def memory(self) -> float:
        """Return the memory of its processes in MB."""
        return pss(self.process.pid)

    def processes(self) -> int:
        """Return how many processes it has."""
        return len(tree(self.process.pid))

    def load(
        self, operation: str, clients: int, seconds: float, warm_up: float = 0.2, body: object = None
    ) -> dict[str, Any]:
        """Return what a load of `clients` comes to, as `load.measure` describes it."""
        job = {"port": self.port, "operation": operation, "clients": clients}
        job |= {"seconds": seconds, "warm_up": warm_up, "body": body}
        script = Path(__file__).with_name("load.py")
        done = subprocess.run(
            [sys.executable, str(script)], input=json.dumps(job), capture_output=True, text=True, check=False
        )
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1:] or ["?"]
            raise Unable(f"{operation} by {clients} clients of {self.contender.name}: {words[0]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def stop(self) -> None:
        """End it, and whatever it leaves behind."""
        members = tree(self.process.pid)
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)

        def left() -> list[int]:
            self.process.poll()  # what has ended is there until somebody asks
            return [pid for pid in members if Path(f"/proc/{pid}").exists()] + session(self.process.pid)

        end(left)
