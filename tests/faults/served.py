"""A server as a job of the local platform, to be reached by its proxy, and directly."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.in_job.harness import API, descendants, wait_for
from tests.local_platform.harness import Platform

from .harness import (
    Address,
    Ledger,
    Memory,
    Processes,
    SQLite,
    environment,
    start_server,
    until_serving,
    writing,
)

if TYPE_CHECKING:
    from .conftest import MakeFault

MIB = 2**20


class Served:
    """The server: `direct` is the job's own address, `proxy` the platform's before it, with `http_auth`."""

    def __init__(self, folder: Path) -> None:
        self.platform = Platform(folder)
        self.volume = self.platform.state / "storage/mlflow"
        self.store = SQLite(self.volume / "mlflow.db")
        self.authorization = {"Authorization": f"Bearer {self.platform.login.token}"}
        self.job, self.proxy = start_server(self.platform, "mlflow", True)
        until_serving(self.platform, self.job, self.proxy)
        env = next(
            env for pid in descendants(self.platform.pid) if "NEURO_JOB_ID" in (env := environment(pid))
        )
        self.direct = env["MLFLOW_HOST"], int(env["NEURO_JOB_HTTP_PORT"])

    def call(
        self, method: str, path: str, body: object = None, address: Address | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Status and body of a request, by the proxy with the token unless an address is given."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        more = {} if address else self.authorization
        with closing(http.client.HTTPConnection(*(address or self.proxy), timeout=120)) as connection:
            connection.request(method, path, data, {"Content-Type": "application/json", **more, **headers})
            response = connection.getresponse()
            return response.status, response.read()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer to a request that must succeed."""
        status, answer = self.call(method, API + path, body)
        assert status == 200, answer[:300]
        return json.loads(answer)

    @property
    def workers(self) -> list[int]:
        """The processes that answer requests."""
        serve = next(pid for pid in descendants(self.platform.pid) if "NEURO_JOB_ID" in environment(pid))
        return Processes(serve, self.direct[1]).workers

    def memory(self) -> Memory:
        """Watch the memory of the platform and all of its jobs."""
        return Memory(self.platform.pid)


def require_whole(served: Served, fault: MakeFault, what: str) -> None:
    """Try that a server serves on after all that was done to it, and that its store is whole."""
    with fault(f"all of that {what} on one server") as row:
        for _ in row.tries(full=1):
            assert served.store.damage() == []
            assert served.platform.job(served.job)["status"] == "running"
            wait_for(lambda: len(served.workers) == 2, "both workers")
            ledger = Ledger()
            with writing(ledger, served.proxy, headers=served.authorization) as clients:
                clients.until(50)
            assert (ledger.errors, ledger.lost(served.store, served.volume / "artifacts")) == ([], [])
        row.ended = "serves on"
