"""A fresh volume: the names a server answers to, what it serves as artifacts, and many clients at once."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from in_job import web_server

from .harness import API, ARTIFACTS, LABELS, Server, StartServer, burst, wait_for

pytestmark = pytest.mark.e2e
PUBLIC = f"{LABELS[1]}.jobs.local.localhost"


@pytest.fixture(scope="module")
def fresh(start_for_module: StartServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Path]:
    """A server on a volume that was empty, and the volume."""
    volume = tmp_path_factory.mktemp("volume")
    return start_for_module(volume).wait_until_up(), volume


def test_it_says_what_it_serves(fresh: tuple[Server, Path]) -> None:
    server, volume = fresh
    assert server.lines[-1:] == [
        f"mlflow-server: MLflow 3.17.2, server mode, backend store sqlite:///{volume}/mlflow.db, "
        f"artifacts {volume}/artifacts"
    ]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (PUBLIC, 200),
        (f"{LABELS[0]}.jobs.local.localhost:8080", 200),
        (f"{LABELS[1]}.platform-jobs:5000", 200),
        ("localhost:5000", 200),
        ("evil.com", 403),
        (f"evil.com/{PUBLIC}", 403),
        (f"{LABELS[1]}.jobs.evil.com", 403),
        (f"x{PUBLIC}", 403),
        ("", 403),
    ],
)
def test_hosts(fresh: tuple[Server, Path], host: str, status: int) -> None:
    path = f"{API}/experiments/search?max_results=1"
    assert fresh[0].call("GET", path, headers={"Host": host})[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"https://{PUBLIC}", 200),
        (f"https://{PUBLIC}:8443", 200),
        (f"http://{LABELS[1]}.platform-jobs:5000", 200),
        ("https://evil.com", 403),
        (f"http://{LABELS[1]}.jobs.evil.com", 403),
        ("null", 403),
    ],
)
def test_origins(fresh: tuple[Server, Path], origin: str, status: int) -> None:
    headers = {"Host": f"{PUBLIC}:8080", "Origin": origin}
    body = {"experiment_ids": ["0"]}
    assert fresh[0].call("POST", f"{API}/runs/search", body, headers)[0] == status


def test_artifacts_are_kept_on_the_volume(fresh: tuple[Server, Path]) -> None:
    server, volume = fresh
    path = f"{ARTIFACTS}/0/some-run/artifacts/model.txt"
    assert server.call("PUT", path, b"weights")[0] == 200
    assert server.call("GET", path) == (200, b"weights")
    assert (volume / "artifacts/0/some-run/artifacts/model.txt").read_text() == "weights"


def test_the_log_is_written_ahead_on_a_local_volume(fresh: tuple[Server, Path]) -> None:
    with sqlite3.connect(fresh[1] / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_64_clients_at_once_meet_no_error_and_few_threads(
    fresh: tuple[Server, Path], processes: Callable[[int], list[int]]
) -> None:
    assert burst(fresh[0], clients=64, rounds=2) == []
    threads = [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in processes(fresh[0].process.pid)]
    # Both roads have THREADS each; beside them are the main one, the writers' and those of the libraries.
    assert all(number <= 2 * web_server.THREADS + 8 for number in threads), threads


@pytest.mark.timeout(180)
def test_the_job_runner_starts_beside_the_server_and_ends_with_it(
    start: StartServer, tmp_path: Path, processes: Callable[[int], list[int]]
) -> None:
    server = start(tmp_path / "volume", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="true").wait_until_up()
    wait_for(lambda: len(processes(server.process.pid)) > 5, "the job runner's processes")
    assert "imports MLflow anew" not in server.log.read_text()
    tree = processes(server.process.pid)
    assert server.stop() in (0, 143)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), "the end of all of them")


def test_small_and_quiet(fresh: tuple[Server, Path], processes: Callable[[int], list[int]]) -> None:
    server, _ = fresh
    tree = processes(server.process.pid)
    assert len(tree) == 3  # uvicorn and its two workers: forks of one process, so no import is made twice
    assert len({Path(f"/proc/{pid}/cmdline").read_text() for pid in [server.process.pid, *tree]}) == 1
    own = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in tree]
    shared = [int(re.findall(r"Shared_Dirty: *(\d+) kB", text)[0]) for text in own]
    assert all(kilobytes > 100_000 for kilobytes in shared), shared
    log = server.log.read_text()
    assert "GET /" not in log
    assert "POST /" not in log


def test_a_killed_worker_is_replaced_and_no_answered_write_is_lost(
    fresh: tuple[Server, Path], processes: Callable[[int], list[int]]
) -> None:
    server, volume = fresh
    before = processes(server.process.pid)
    answered: list[str] = []
    refused: list[AssertionError] = []  # an answer that is none is as bad as a write that is lost

    def replaced() -> bool:
        now = processes(server.process.pid)
        return before[-1] not in now and len(now) == len(before)

    def write() -> None:
        while not replaced():
            try:
                made = server.ask("POST", "/runs/create", {"experiment_id": "0"})
                answered.append(made["run"]["info"]["run_id"])
            except AssertionError as error:
                refused.append(error)
            except (OSError, http.client.HTTPException):
                pass  # it was at the killed worker

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) > 50, "runs")
    os.kill(before[-1], signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    with closing(sqlite3.connect(volume / "mlflow.db")) as database:
        kept = {row[0] for row in database.execute("SELECT run_uuid FROM runs")}
    assert set(answered) <= kept
    assert refused == []
    assert replaced()
    assert burst(server, clients=16, rounds=2) == []


def test_it_stops_under_load_and_leaves_no_process(
    ready_volume: Path, start: StartServer, processes: Callable[[int], list[int]]
) -> None:
    server = start(ready_volume).wait_until_up()
    assert len(processes(server.process.pid)) == 3
    tree = processes(server.process.pid)
    hung = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)  # a request that never ends
    hung.putrequest("POST", f"{API}/runs/create")
    hung.putheader("Content-Length", "100")
    hung.endheaders(b"{")
    errors: list[str] = []
    busy = burst(server, clients=16, rounds=200, wait=False, errors=errors)
    time.sleep(1)
    assert server.stop() == 0
    for thread in busy:
        thread.join(60)
    hung.close()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), "the end of all processes")
    with sqlite3.connect(ready_volume / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_artifacts_beside_an_old_database_stay_readable(ready_volume: Path, start: StartServer) -> None:
    (ready_volume / "1/run/artifacts").mkdir(parents=True)
    (ready_volume / "1/run/artifacts/plot.txt").write_text("plot")
    server = start(
        ready_volume, MLFLOW_BACKEND_STORE_URI=f"sqlite:///{ready_volume}/mlflow.db"
    ).wait_until_up()
    assert server.call("GET", f"{ARTIFACTS}/1/run/artifacts/plot.txt") == (200, b"plot")
    assert sum("WARNING" in line for line in server.lines) == 5  # one of keys that are not kept there
    assert json.loads(server.call("GET", f"{API}/experiments/get?experiment_id=0")[1])["experiment"]
