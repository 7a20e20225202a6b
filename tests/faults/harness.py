"""Clients that remember what was acknowledged, stores to look for it, and the processes of a server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jose import jwt

from flow import program
from local_platform.auth import Auth
from local_platform.names import USER
from local_platform.runner import namespace_command
from local_platform.state import State
from tests.in_job.harness import API, ARTIFACTS, Database, descendants, wait_for
from tests.local_platform import harness as platform_harness
from tests.local_platform.harness import Platform

Address = tuple[str, int]


class Refused(Exception):
    """An answer that acknowledges nothing."""


class Store:
    """A backend store, and how to look into it without its server."""

    def __init__(self, name: str, uri: str) -> None:
        self.name, self.uri = name, uri

    def query(self, sql: str) -> list[tuple[str, ...]]:
        """Return the rows of a query, every value as text."""
        raise NotImplementedError

    def damage(self) -> list[str]:
        """Return what is wrong in the store itself."""
        orphan = "SELECT count(*) FROM {} a LEFT JOIN {} b USING (run_uuid{}) WHERE b.run_uuid IS NULL"
        pairs = [
            ("metrics", "runs", ""),
            ("params", "runs", ""),
            ("latest_metrics", "metrics", ", key, step"),
        ]
        return [
            f"{a} without {b}" for a, b, more in pairs if self.query(orphan.format(a, b, more)) != [("0",)]
        ]


class SQLite(Store):
    """A SQLite file."""

    def __init__(self, path: Path, name: str = "SQLite") -> None:
        super().__init__(name, f"sqlite:///{path}")
        self.path = path

    def query(self, sql: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.path, 20)) as database:
            return [tuple(map(str, row)) for row in database.execute(sql)]

    def write(self, *statements: str) -> None:
        """Execute statements in one transaction."""
        with closing(sqlite3.connect(self.path, 20)) as database, database:
            for statement in statements:
                database.execute(statement)

    def damage(self) -> list[str]:
        checks = [
            row[0]
            for pragma in ("integrity_check", "foreign_key_check")
            for row in self.query(f"PRAGMA {pragma}")
        ]
        return [*(line for line in checks if line != "ok"), *super().damage()]


class PostgreSQL(Store):
    """A database of the PostgreSQL server."""

    def __init__(self, server: Database, database: str, template: str = "template1") -> None:
        super().__init__("PostgreSQL", server.uri(database))
        self._server, self.database = server, database
        server.execute(f"CREATE DATABASE {database} TEMPLATE {template}")

    def query(self, sql: str) -> list[tuple[str, ...]]:
        found = self._server.execute(sql, self.database)
        return [tuple(line.split("|")) for line in found.splitlines()]


class Ledger:
    """Every write that a server has acknowledged, to be looked for afterwards, and what was refused."""

    def __init__(self) -> None:
        self.runs: set[tuple[str, str]] = set()  # id, name
        self.finished: set[str] = set()
        self.metrics: set[tuple[str, str]] = set()  # run, step
        self.params: set[tuple[str, str]] = set()  # run, value
        self.artifacts: dict[str, bytes] = {}  # path below the destination
        self.errors: list[str] = []

    def __len__(self) -> int:
        written = (self.runs, self.finished, self.metrics, self.params, self.artifacts)
        return sum(len(part) for part in written)

    def lost(self, store: Store, artifacts: Path) -> list[str]:
        """Return the acknowledged writes that are not there."""
        there = set(store.query("SELECT run_uuid, name FROM runs"))
        finished = {run for (run,) in store.query("SELECT run_uuid FROM runs WHERE status = 'FINISHED'")}
        metrics = set(store.query("SELECT run_uuid, step FROM metrics WHERE key = 'loss' AND value = step"))
        params = set(store.query("SELECT run_uuid, value FROM params WHERE key = 'name'"))
        files = [path for path, data in self.artifacts.items() if not _holds(artifacts / path, data)]
        rest = (self.runs - there, self.finished - finished, self.metrics - metrics, self.params - params)
        return [*files, *(str(entry) for part in rest for entry in part)]


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


class Clients:
    """Clients that write runs without a pause until they are stopped, and note what was acknowledged."""

    def __init__(
        self, ledger: Ledger, addresses: Sequence[Address], count: int, headers: Mapping[str, str]
    ) -> None:
        self.ledger, self._headers, self._end = ledger, headers, threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(addresses[number % len(addresses)], str(number)))
            for number in range(count)
        ]
        self._before = len(ledger)
        for thread in self._threads:
            thread.start()

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged since the beginning."""
        return len(self.ledger) - self._before

    def until(self, writes: int) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = self.acknowledged + writes
        wait_for(lambda: self.acknowledged >= wanted, f"{writes} writes; {self.ledger.errors[-3:]}")

    def until_refused(self, requests: int) -> None:
        """Wait until so many more requests have failed."""
        wanted = len(self.ledger.errors) + requests
        wait_for(lambda: len(self.ledger.errors) >= wanted, f"{requests} failures")

    def stop(self) -> None:
        """End all clients; what they are waiting for is waited for."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, address: Address, name: str) -> None:
        number = 0
        connection = http.client.HTTPConnection(*address, timeout=60)
        while not self._end.is_set():
            number += 1
            try:
                self._log_run(_Session(connection, self._headers), f"{name}-{number}-{time.time_ns()}")
            except (OSError, http.client.HTTPException, Refused) as error:
                self.ledger.errors.append(str(error) if isinstance(error, Refused) else repr(error))
                connection.close()
                self._end.wait(0.1)
        connection.close()

    def _log_run(self, session: _Session, name: str) -> None:
        ledger = self.ledger
        created = session.ask(f"{API}/runs/create", {"experiment_id": "0", "run_name": name, "start_time": 1})
        run = json.loads(created)["run"]["info"]["run_id"]
        ledger.runs.add((run, name))
        for step in range(3):
            metric = {"key": "loss", "value": step, "timestamp": step, "step": step}
            params = [{"key": "name", "value": name}] if step == 0 else []
            session.ask(f"{API}/runs/log-batch", {"run_id": run, "metrics": [metric], "params": params})
            ledger.metrics.add((run, str(step)))
            if params:
                ledger.params.add((run, name))
        path, data = f"0/{run}/artifacts/notes.txt", name.encode() * 100
        session.ask(f"{ARTIFACTS}/{path}", data, "PUT")
        ledger.artifacts[path] = data
        session.ask(f"{API}/runs/update", {"run_id": run, "status": "FINISHED", "end_time": 2})
        ledger.finished.add(run)


class _Session:
    """A connection that stays open, and what every request on it carries."""

    def __init__(self, connection: http.client.HTTPConnection, headers: Mapping[str, str]) -> None:
        self._connection, self._headers = connection, {"Content-Type": "application/json", **headers}

    def ask(self, path: str, body: object, method: str = "POST") -> bytes:
        """Return the answer to a request; Refused for one that acknowledges nothing."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(method, path, data, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise Refused(f"{response.status} {answer[:200]!r}")
        return answer


@contextlib.contextmanager
def writing(
    ledger: Ledger, *addresses: Address, count: int = 16, headers: Mapping[str, str] | None = None
) -> Iterator[Clients]:
    """Let clients write to servers during the block."""
    clients = Clients(ledger, addresses, count, headers or {})
    try:
        yield clients
    finally:
        clients.stop()


class Processes:
    """The processes of a server, told apart by who started whom and who listens, not by their names."""

    def __init__(self, serve: int, port: int) -> None:
        self.serve = serve
        tree = descendants(serve)
        holding = {pid for pid in tree if _listens(pid, port)}
        self.workers = [pid for pid in holding if not holding & set(descendants(pid))]
        self.server = [pid for pid in tree if set(self.workers) & set(descendants(pid))]
        self.all = [serve, *tree]


def _listens(pid: int, port: int) -> bool:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {
        f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"
    }
    with contextlib.suppress(OSError):  # it has just ended
        return any(_target(entry) in sockets for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):
        return str(link.readlink())
    return ""


def namespaces() -> tuple[str, ...]:
    """Words before a command that is the first process of its own namespaces, as the platform's jobs are."""
    return namespace_command() or pytest.fail(
        "namespaces are missing: apt-get install util-linux, or run as root"
    )


def environment(pid: int) -> dict[str, str]:
    """Return the variables of a process (Linux), none where it has ended."""
    with contextlib.suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return {}


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(pids: Sequence[int]) -> None:
    """Wait until none of these processes is left."""
    wait_for(lambda: not any(map(alive, pids)), f"the end of {pids}", 30)


def pss(pids: Sequence[int]) -> int:
    """Return the memory of processes in bytes: pages that they share are counted once (Linux)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


class Memory:
    """Watches the memory of a process and all below it: `peak` is the most that was seen, in bytes."""

    def __init__(self, *roots: int) -> None:
        self._roots, self._end = roots, threading.Event()
        self.before = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """How much more it was at its peak than before, in bytes."""
        return self.peak - self.before

    def _now(self) -> int:
        return pss([pid for root in self._roots for pid in (root, *descendants(root))])

    def _watch(self) -> None:
        while not self._end.wait(0.2):
            self.peak = max(self.peak, self._now())


def start_server(platform: Platform, name: str, auth: bool, **env: str) -> tuple[str, Address]:
    """Start serve.py as a job with a volume of the same name; return its id and its address at the proxy."""
    (platform.state / "storage" / name).mkdir(exist_ok=True)
    uri = f"storage://local/local/mlflow/{name}"
    job = platform.run(
        *("python3", "-uc", program.command("serve")),
        image="mlflow:3",
        name=name,
        http={"port": 5000, "requires_auth": auth},
        env={**program.variables("serve"), "MLFLOW_ARTIFACTS_DESTINATION": "/mnt/mlflow", **env},
        volumes=[{"src_storage_uri": uri, "dst_path": "/mnt/mlflow", "read_only": False}],
    )
    return job, ("127.0.0.1", urlsplit(platform.job(job)["http_url"]).port or 0)


def until_serving(platform: Platform, job: str, address: Address) -> None:
    """Wait until a server answers at the proxy; one that ends before fails the test with its log."""
    headers = {"Authorization": f"Bearer {platform.login.token}"}
    url = f"http://{address[0]}:{address[1]}{API}/experiments/search?max_results=1"

    def serves() -> bool:
        assert platform.job(job)["status"] in ("pending", "running"), platform.log(job)
        return platform_harness.http("GET", url, None, headers).status == 200

    wait_for(serves, f"the server {job}")


def fill(volume: Path, free: int = 0) -> Path:
    """Fill a volume but for some bytes, by a file that is returned."""
    filler = volume / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(filler.stat().st_size - free, 0))
    return filler


def hostile_tokens(platform: Platform, folder: Path) -> dict[str, str]:
    """Return values of `Authorization` that must not open a platform, by what is wrong with them."""
    state = State(platform.state)
    key, now = state.load("key.json", {})["key"], int(time.time())
    own = {"identity": USER, "use": "api", "iat": now, "exp": now + 600}

    def signed(key: str = key, algorithm: str = "HS256", **changes: object) -> str:
        claims = {name: value for name, value in {**own, **changes}.items() if value is not None}
        return "Bearer " + str(jwt.encode(claims, key, algorithm=algorithm))

    def unsigned(algorithm: str) -> str:
        head, body = (json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT"}, own))
        return (
            "Bearer "
            + ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (head, body))
            + "."
        )

    other = State(folder / "other")
    other.create()
    token = platform.login.token
    return {
        "none": "",
        "empty": "Bearer ",
        "no token": "Bearer x",
        "not text": "Bearer \xff\xfe",
        "very long": "Bearer " + "x" * 7000,
        "another scheme": f"Basic {base64.b64encode(token.encode()).decode()}",
        "cut": f"Bearer {token[:-1]}",
        "without signature": f"Bearer {token.rpartition('.')[0]}.",
        "another user's": f"Bearer {Auth(other).token}",
        "another identity": signed(identity="mallory"),
        "no identity": signed(identity=None),
        "another use": signed(use="ingress:1"),
        "expired": signed(exp=now - 1),
        "never expires": signed(exp=None),
        "another key": signed("x" * 64),
        "an empty key": signed("\0"),
        "another algorithm": signed(algorithm="HS512"),
        **{f"algorithm {name}": unsigned(name) for name in ("none", "None", "NONE", "", "HS256")},
    }
