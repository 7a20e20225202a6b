"""Bodies that are too large, clients that are too slow, and connections that are too many."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from in_job.serving.limits import Room, max_body
from in_job.words import Problem

from ..harness import DATA, SCRIPTS, python_with_mlflow

MOST, SECONDS = 100_000, 3
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/0/x"


async def test_room_for_a_client_that_has_gone_is_given_back() -> None:
    room = Room(10)
    assert await room.take(10)
    waiting = asyncio.create_task(room.take(10))
    await asyncio.sleep(0)
    room.give(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(room.take(10), 5)


@pytest.mark.parametrize(
    ("text", "size"), [("", 10**8), ("5", 5), ("20 MB", 2 * 10**7), ("1GB", 10**9), (" 3kB ", 3000)]
)
def test_the_most_of_a_body_is_set_in_the_environment(text: str, size: int) -> None:
    assert max_body({"MLFLOW_ACTION_MAX_BODY": text}) == size


@pytest.mark.parametrize("text", ["-1", "much", "1 TB", "1.5 GB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(
        Problem, match=re.escape(f"MLFLOW_ACTION_MAX_BODY is '{text}': set it to a number of")
    ):
        max_body({"MLFLOW_ACTION_MAX_BODY": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [python_with_mlflow(), str(DATA / "limited.py"), str(MOST), str(SECONDS)]
    env = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.terminate()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the connection is closed, "" for one that is cut off."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def chunks(size: int) -> bytes:
    return b"".join(b"3e8\r\n" + bytes(1000) + b"\r\n" for _ in range(size // 1000)) + b"0\r\n\r\n"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(head("POST", "/", f"Content-Length: {MOST}") + bytes(MOST), 200, id="the-most"),
        pytest.param(head("POST", "/", f"Content-Length: {MOST + 1}") + bytes(MOST + 1), 413, id="one-more"),
        pytest.param(head("POST", "/", f"Content-Length: {2**50}") + b"x", 413, id="declared"),
        pytest.param(head("POST", "/", "Transfer-Encoding: chunked") + chunks(MOST), 200, id="chunked"),
        pytest.param(head("POST", "/", "Transfer-Encoding: chunked") + chunks(2 * MOST), 413, id="chunks"),
        pytest.param(head("PUT", "/v1/traces", f"Content-Length: {2**50}") + b"x", 413, id="traces"),
        pytest.param(head("POST", ARTIFACT, f"Content-Length: {2**50}") + b"x", 413, id="no-artifact"),
        pytest.param(
            head("PUT", ARTIFACT, f"Content-Length: {2 * MOST}") + bytes(2 * MOST), 200, id="artifact"
        ),
        pytest.param(
            head("PUT", "/a-b" + ARTIFACT, "Transfer-Encoding: chunked") + chunks(2 * MOST), 200, id="prefix"
        ),
    ],
)
def test_a_body_has_a_limit_and_an_artifact_has_none(port: int, sent: bytes, status: int) -> None:
    with closing(connected(port)) as connection:
        connection.sendall(sent.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
        found = answer(connection)
    assert found.split()[1] == str(status).encode()
    if status == 413:
        assert found.endswith(
            b"The body is larger than 100,000 bytes, the most that this server takes but for artifacts. "
            b"Send less at once, or set MLFLOW_ACTION_MAX_BODY in the server's envs.\n"
        )


@pytest.mark.e2e
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("seconds", "status"), [(SECONDS / 10, b"200"), (3 * SECONDS, b"503")])
def test_large_bodies_take_turns_and_small_ones_do_not(
    port: int, seconds: float, status: bytes, declared: bool
) -> None:
    size = f"Content-Length: {MOST - 1000}" if declared else "Transfer-Encoding: chunked"
    body = bytes(MOST - 1000) if declared else chunks(MOST - 1000)
    with ExitStack() as stack:
        first, small, second = (stack.enter_context(closing(connected(port))) for _ in range(3))
        first.sendall(head("POST", f"/?{seconds}", size, "Connection: close") + body)
        small.sendall(head("POST", "/", "Content-Length: 9", "Connection: close") + bytes(9))
        assert answer(small).startswith(b"HTTP/1.1 200")
        second.sendall(head("POST", "/", size, "Connection: close") + body)
        found = answer(second)
        assert found.split()[1] == status
        assert (b"\r\nretry-after: 10\r\n" in found) == (status == b"503")
        assert answer(first).startswith(b"HTTP/1.1 200")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"POST / HT", id="half-a-head"),
        pytest.param(head("POST", "/", "Content-Length: 9") + b"x", id="half-a-body"),
        pytest.param(
            head("PUT", ARTIFACT, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n", id="half-an-artifact"
        ),
        pytest.param(head("POST", "/", "Content-Length: 0") + b"GET /", id="half-of-the-next"),
    ],
)
def test_a_client_that_sends_too_little_is_cut_off(port: int, sent: bytes) -> None:
    with closing(connected(port)) as connection:
        connection.sendall(sent)
        found = answer(connection)  # it ends
    assert found.count(b"HTTP/1.1") == (b"GET /" in sent)


@pytest.mark.e2e
def test_a_client_that_moves_is_never_cut_off(port: int) -> None:
    with closing(connected(port)) as uploading, closing(connected(port)) as waiting:
        uploading.sendall(head("PUT", ARTIFACT, "Content-Length: 60000", "Connection: close"))
        waiting.sendall(head("GET", f"/?{3 * SECONDS}", "Connection: close"))
        for _ in range(20):  # twice the patience
            time.sleep(SECONDS / 10)
            uploading.sendall(bytes(3000))
        assert b"\r\n60000\r\n" in answer(uploading)
        assert b"\r\n1\r\n0\r\n" in answer(waiting)


@pytest.mark.e2e
def test_idle_connections_make_room_for_others(port: int) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(connected(port))) for _ in range(120)]
        with closing(connected(port)) as other:
            other.sendall(head("GET", "/", "Connection: close"))
            assert answer(other).startswith(b"HTTP/1.1 200")
        assert answer(idle[0]) == b""  # it has been closed
