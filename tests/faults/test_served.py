"""Load at one server, a job of the local platform: by the platform's proxy, and directly."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import resource
import socket
import time
from contextlib import ExitStack, closing, suppress
from urllib.parse import quote

import pytest

from tests.in_job.harness import API, ARTIFACTS

from .conftest import MakeFault
from .harness import Ledger, writing
from .served import MIB, Served, require_whole

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("served")]
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers LIMIT {}) "
RUNS = """
INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage,
  artifact_uri, experiment_id)
SELECT printf('%032x', n), 'run ' || n, 'UNKNOWN', 'me', 'FINISHED', n, n, 'active',
  'mlflow-artifacts:/{0}/' || printf('%032x', n) || '/artifacts', {0} FROM numbers
"""
METRICS = "INSERT INTO metrics SELECT 'loss', n, n, '{}', n, 0 FROM numbers"
LATEST = "INSERT INTO latest_metrics SELECT key, value, max(timestamp), step, is_nan, run_uuid FROM metrics"


def test_64_clients(served: Served, fault: MakeFault) -> None:
    ledger = Ledger()
    with fault("64 clients at once, by the proxy and directly") as row, served.memory() as memory:
        for _ in row.tries(full=1):
            with writing(
                ledger, served.proxy, served.direct, count=64, headers=served.authorization
            ) as clients:
                clients.until(row.pick(200, 1000))
                time.sleep(row.pick(2, 60))
        lost = ledger.lost(served.store, served.volume / "artifacts")
        row.lost = len(lost)
        assert (lost, ledger.errors, served.store.damage()) == ([], [], [])
        row.ended = f"{len(ledger)} writes, no error, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 400 * MIB


def test_a_large_artifact(served: Served, fault: MakeFault) -> None:
    path, block = f"{ARTIFACTS}/0/large.bin", os.urandom(MIB)
    with fault("a large artifact is uploaded and fetched by the proxy") as row, served.memory() as memory:
        for _ in row.tries(full=1):
            size, digest = row.pick(128, 1024), hashlib.sha256()
            for _ in range(size):
                digest.update(block)
            with closing(http.client.HTTPConnection(*served.proxy, timeout=600)) as connection:
                headers = {"Content-Length": str(size * MIB), **served.authorization}
                connection.request("PUT", path, (block for _ in range(size)), headers)
                assert connection.getresponse().status == 200
            with closing(http.client.HTTPConnection(*served.proxy, timeout=600)) as connection:
                connection.request("GET", path, headers=served.authorization)
                response, fetched = connection.getresponse(), hashlib.sha256()
                while data := response.read(MIB):
                    fetched.update(data)
            assert (response.status, fetched.digest()) == (200, digest.digest())
            assert served.call("DELETE", path)[0] == 200
        row.ended = f"{size} MiB, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 100 * MIB


def test_many_runs_and_a_long_history(served: Served, fault: MakeFault) -> None:
    experiment = served.ask("POST", "/experiments/create", {"name": "many"})["experiment_id"]
    with fault("runs are listed page by page") as row, served.memory() as memory:
        for _ in row.tries(full=1):
            count, names, token = row.pick(2_000, 10_000), set(), ""
            served.store.write(NUMBERS.format(count) + RUNS.format(experiment))
            while token is not None:
                body = {"experiment_ids": [experiment], "max_results": 1000, "page_token": token}
                page = served.ask("POST", "/runs/search", body)
                names |= {run["info"]["run_name"] for run in page["runs"]}
                token = page.get("next_page_token")
            assert len(names) == count
        row.ended = f"{count} runs, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 400 * MIB

    with (
        fault("a long metric history is read page by page, and by the chart") as row,
        served.memory() as memory,
    ):
        for _ in row.tries(full=1):
            count, run, seen, token = row.pick(50_000, 1_000_000), f"{0:032x}", 0, ""
            served.store.write(NUMBERS.format(count) + METRICS.format(run), LATEST)
            while token is not None:
                query = f"run_id={run}&metric_key=loss&max_results=25000&page_token={quote(token)}"
                page = served.ask("GET", f"/metrics/get-history?{query}")
                assert [metric["step"] for metric in page["metrics"]] == list(range(seen, seen + 25_000))
                seen += len(page["metrics"])
                token = page.get("next_page_token")
            assert seen == count
            query = f"run_ids={run}&metric_key=loss&max_results=2500"
            status, answer = served.call(
                "GET", f"/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?{query}"
            )
            points = [metric["step"] for metric in json.loads(answer)["metrics"]]
            assert (status, points[0], points[-1]) == (200, 0, count - 1)
            assert len(points) <= 2501
            status, answer = served.call("GET", f"{API}/metrics/get-history?run_id={run}&metric_key=loss")
            assert (status, b"ask for pages" in answer) == row.pick((200, False), (400, True))
        row.ended = f"{count} points, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 400 * MIB


def test_what_moves_is_never_cut_off(served: Served, fault: MakeFault) -> None:
    """Uploads and downloads that take longer than a client may be silent, slowly but without a rest."""
    path, seconds = f"{ARTIFACTS}/0/moves", 40
    with fault("a slow upload, and a slow download of the same") as row, ExitStack() as stack:
        large = os.urandom(8 * MIB)
        assert served.call("PUT", f"{path}.bin", large, served.direct)[0] == 200
        uploading, downloading = socket.socket(), socket.socket()
        downloading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the server has to wait
        for connection in (uploading, downloading):
            stack.enter_context(closing(connection))
            connection.settimeout(120)
            connection.connect(served.direct)
        head = f"HTTP/1.1\r\nHost: localhost:{served.direct[1]}\r\nConnection: close\r\n"
        size = seconds * 3000
        uploading.sendall(f"PUT {path}.txt {head}Content-Length: {size}\r\n\r\n".encode())
        downloading.sendall(f"GET {path}.bin {head}\r\n".encode())
        found = b""
        for _ in range(seconds):
            row.tried += 1
            uploading.sendall(bytes(3000))
            found += downloading.recv(2000)
            time.sleep(1)
        assert uploading.recv(65536).startswith(b"HTTP/1.1 200 ")
        while data := downloading.recv(MIB):
            found += data
        assert found.partition(b"\r\n\r\n")[2] == large
        for name in (f"{path}.bin", f"{path}.txt"):
            assert served.call("DELETE", name)[0] == 200
        row.ended = f"both whole after {seconds} s"


def test_slow_clients_keep_nobody_waiting(served: Served, fault: MakeFault) -> None:
    with fault("slow clients, by the proxy and directly") as row, ExitStack() as stack:
        for _ in row.tries(full=1):
            slow = []
            for number in range(row.pick(200, 800)):
                address = (served.proxy, served.direct)[number % 2]
                slow.append(stack.enter_context(closing(socket.create_connection(address, timeout=60))))
                text = f"PUT {ARTIFACTS}/0/slow{number} HTTP/1.1\r\nHost: localhost:{address[1]}\r\n"
                text += (
                    f"Authorization: {served.authorization['Authorization']}\r\nContent-Length: 99\r\n\r\nx"
                )
                slow[-1].sendall(text.encode()[: None if number % 4 < 2 else 60])
            ledger = Ledger()
            for address in (served.proxy, served.direct):
                with writing(ledger, address, headers=served.authorization) as clients:
                    for connection in slow:
                        with suppress(OSError):
                            connection.sendall(b"y")
                    clients.until(50)
            assert ledger.errors == []
        row.ended = f"{len(slow)} of them, and others are served"


def test_slow_clients_are_cut_off(served: Served, fault: MakeFault) -> None:
    with fault("clients that send nothing, half a head, half a body") as row, ExitStack() as stack:
        half = f"PUT {ARTIFACTS}/0/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx".encode()
        slow = []
        for sent in (b"", half[:9], half):
            row.tried += 1
            slow.append(stack.enter_context(closing(socket.create_connection(served.direct, timeout=300))))
            slow[-1].sendall(sent)
        for connection in slow:
            with suppress(ConnectionError):
                assert connection.recv(65536) == b""
        row.ended = "cut off"


def test_idle_connections_keep_nobody_out(served: Served, fault: MakeFault) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_000), hard))
    with fault("more idle connections than are kept") as row, ExitStack() as stack, served.memory() as memory:
        for _ in range(row.pick(2500, 8000)):
            row.tried += 1
            stack.enter_context(closing(socket.create_connection(served.direct, timeout=300)))
        status, _ = served.call("GET", f"{API}/experiments/search?max_results=1", None, served.direct)
        assert status == 200
        row.ended = f"others are served, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 200 * MIB


def test_after_all_that_the_store_is_whole(served: Served, fault: MakeFault) -> None:
    require_whole(served, fault, "load")
