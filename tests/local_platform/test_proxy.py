"""The ingress: names, origins, authentication, streams, websockets, ports."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from local_platform import client
from tests.local_platform.harness import Platform, eventually, http

pytestmark = pytest.mark.e2e

#: A server that echoes websocket messages, and streams events at other paths.
STREAMER = """
import os, socket, threading, base64, hashlib
def serve(connection):
    stream = connection.makefile("rb")
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        line = stream.readline()
        if not line:
            return
        head += line
    fields = dict(line.split(": ", 1) for line in head.decode().split("\\r\\n")[1:] if line)
    fields = {name.lower(): value for name, value in fields.items()}
    if "sec-websocket-key" in fields:
        key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        connection.sendall(f"HTTP/1.1 101 Switching\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
            f"Sec-WebSocket-Accept: {accept}\\r\\nSec-WebSocket-Protocol: two\\r\\n\\r\\n".encode())
        while True:
            first = stream.read(2)
            if len(first) < 2 or first[0] & 15 == 8:
                connection.sendall(b"\\x88\\x02\\x03\\xe9")
                return
            length = first[1] & 127
            if length == 126:
                length = int.from_bytes(stream.read(2), "big")
            mask, data = stream.read(4), stream.read(length)
            text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)).upper()
            connection.sendall(bytes([first[0], len(text)]) + text)
    # Server-sent events: the second comes when the client has answered the first, by another connection.
    if b" /go " in head:
        go.set()
        connection.sendall(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
        return
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n")
    connection.sendall(b"Transfer-Encoding: chunked\\r\\n\\r\\n")
    connection.sendall(b"5\\r\\none\\n\\n\\r\\n")
    go.wait(30)
    connection.sendall(b"5\\r\\ntwo\\n\\n\\r\\n0\\r\\n\\r\\n")
go = threading.Event()
server = socket.create_server((os.environ["MLFLOW_HOST"], int(os.environ["NEURO_JOB_HTTP_PORT"])))
print("serving", flush=True)
while True:
    connection, _ = server.accept()
    def handle(connection=connection):
        with connection:
            serve(connection)
    threading.Thread(target=handle, daemon=True).start()
"""


@pytest.fixture(scope="module")
def web(shared: Platform) -> Iterator[Any]:
    job = shared.serve(name="web")
    yield job
    shared.api("DELETE", f"jobs/{job['id']}")
    shared.until(job["id"], "cancelled")


def _public(job: Any) -> str:
    return str(job["internal_hostname_named"]).partition(".")[0] + ".jobs.local.localhost"


def test_the_job_sees_what_it_sees_on_the_platform(web: Any) -> None:
    url = web["http_url"]
    answer = http("GET", f"{url}/a%2Fb/../c?d=%20e", None, {"Origin": url, "Referer": f"{url}/x"})
    seen = answer.json
    assert seen["path"] == "/a%2Fb/../c?d=%20e"
    headers = seen["headers"]
    assert headers["host"] == headers["x-forwarded-host"] == _public(web)
    assert headers["origin"] == f"https://{_public(web)}"
    assert headers["referer"] == f"https://{_public(web)}/x"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-for"]) == ("https", "127.0.0.1")
    assert answer.headers["Access-Control-Allow-Origin"] == url
    assert http("GET", f"{url}/redirect").headers["Location"] == f"{url}/target?x=1"
    authorization = {"Authorization": "Basic eDp5"}  # the job's own business
    assert http("GET", url, None, authorization).json["headers"]["authorization"] == "Basic eDp5"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
def test_foreign_origins_reach_the_job_unchanged(web: Any, origin: str) -> None:
    answer = http("GET", web["http_url"], None, {"Origin": origin})
    assert answer.json["headers"]["origin"] == origin
    assert answer.headers["Access-Control-Allow-Origin"] == origin


def test_only_its_own_names_are_served(web: Any) -> None:
    url, port = web["http_url"], urlsplit(web["http_url"]).port
    id_host = f"{web['id']}.jobs.local.localhost"
    for host in (f"127.0.0.1:{port}", f"LOCALHOST:{port}", _public(web), f"{_public(web)}:{port}", id_host):
        assert http("GET", url, None, {"Host": host}).status == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1.evil.example:{port}",
    ):
        assert http("GET", url, None, {"Host": host}).status == 404, host


def test_a_large_upload_passes_in_constant_memory(shared: Platform, web: Any) -> None:
    size = 200 * 2**20

    def resident() -> int:
        with open(f"/proc/{shared.pid}/status") as status:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

    async def upload() -> int:
        async def chunks() -> Any:
            for _ in range(size // 2**20):
                yield bytes(2**20)

        async with aiohttp.ClientSession() as session:
            headers = {"Content-Length": str(size), "Content-Encoding": "gzip", "Expect": "100-continue"}
            async with session.put(web["http_url"], data=chunks(), headers=headers) as answer:
                return int((await answer.json(content_type=None))["size"])

    before = resident() if os.path.exists("/proc/self/status") else None  # noqa: PTH110
    assert asyncio.run(upload()) == size
    if before is not None:
        assert resident() - before < 30 * 2**20


def test_streams_and_websockets_pass_through(shared: Platform) -> None:
    job_id = shared.run("python", "-c", STREAMER, http={"port": 5000, "requires_auth": False})
    eventually(lambda: "serving" in shared.log(job_id))
    url = shared.job(job_id)["http_url"]

    async def talk() -> tuple[Any, ...]:
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                first = await answer.content.readuntil(b"\n\n")
                async with session.get(f"{url}/go"):
                    pass
                second = await answer.content.read()
            async with session.ws_connect(url + "/ws", protocols=["one", "two"]) as ws:
                await ws.send_str("hello")
                text = await ws.receive_str()
                await ws.send_bytes(b"bytes")
                data = await ws.receive_bytes()
                chosen = ws.protocol
            return first, second, text, data, chosen

    assert asyncio.run(talk()) == (b"one\n\n", b"two\n\n", "HELLO", b"BYTES", "two")
    shared.api("DELETE", f"jobs/{job_id}")
    shared.until(job_id, "cancelled")


def test_http_auth_is_enforced(shared: Platform) -> None:
    job = shared.serve(name="guarded", auth=True)
    url = job["http_url"]
    bearer = {"Authorization": f"Bearer {shared.login.token}"}
    answer = http("GET", url)
    assert (answer.status, "WWW-Authenticate" in answer.headers) == (401, True)
    page = http("GET", url, None, {"Accept": "text/html,*/*"})
    assert (page.status, b"make mlflow-open" in page.body) == (401, True)
    assert http("GET", url, None, {"Authorization": f"Bearer {shared.login.token}x"}).status == 401
    assert http("GET", url, None, {"Authorization": "Bearer "}).status == 401
    passed = http("GET", url, None, {**bearer, "Cookie": "a=b"})
    assert passed.status == 200
    assert "authorization" not in passed.json["headers"]
    assert passed.json["headers"]["cookie"] == "a=b"

    link = client.browser_link(shared.login, f"{url}//evil.example/?x=1#/experiments")
    assert shared.login.token not in link
    first = http("GET", link)
    assert (first.status, first.headers["Location"]) == (303, "/evil.example/?x=1#/experiments")
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    value = cookie.partition(";")[0]
    assert http("GET", link).status == 401
    inside = http("GET", url, None, {"Cookie": f"a=b; {value}"})
    assert (inside.status, inside.json["headers"]["cookie"]) == (200, "a=b")
    assert shared.api("GET", "jobs", token=value.partition("=")[2]).status == 401
    forged = value.partition("=")[0] + "=" + shared.login.token
    assert http("GET", url, None, {"Cookie": forged}).status == 401

    other = shared.serve(name="other", auth=True)
    renamed = value.replace(str(urlsplit(url).port), str(urlsplit(other["http_url"]).port), 1)
    assert http("GET", other["http_url"], None, {"Cookie": renamed}).status == 401
    foreign = client.browser_link(shared.login, url).replace(url, other["http_url"])
    assert http("GET", foreign).status == 401
    assert client.browser_link(shared.login, "http://example.com/x") == "http://example.com/x"
    for job_id in (job["id"], other["id"]):
        shared.api("DELETE", f"jobs/{job_id}")
        shared.until(job_id, "cancelled")


def test_an_address_outlives_the_job_and_the_platform(new: Callable[[], Platform]) -> None:
    platform = new()
    url = platform.serve(name="kept")["http_url"]
    link = client.browser_link(platform.login, url)
    assert link == url
    client.stop(platform.state)
    platform.restart()
    assert platform.job(platform.api("GET", "jobs?name=kept").json["jobs"][0]["id"])["status"] == "cancelled"
    again = platform.serve(name="kept")
    assert again["http_url"] == url
    platform.api("DELETE", f"jobs/{again['id']}")
    platform.until(again["id"], "cancelled")
    with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        assert platform.serve(name="kept")["http_url"] != url


def test_a_job_that_does_not_answer_is_named(shared: Platform) -> None:
    job_id = shared.run("sleep", "60", name="silent", http={"port": 5000, "requires_auth": False})
    url = shared.until(job_id, "running")["http_url"]
    answer = http("GET", url)
    assert (answer.status, answer.headers.get_content_type()) == (503, "text/html")
    assert "job silent" in answer.body.decode()
    shared.api("DELETE", f"jobs/{job_id}")
    shared.until(job_id, "cancelled")
    with pytest.raises(OSError, match="refused"):
        http("GET", url)


def test_a_declared_port_that_is_taken_is_replaced(shared: Platform) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        fields = {"http": {"port": port, "requires_auth": False}, "name": "moved"}
        from tests.local_platform.harness import SERVER

        job_id = shared.run("python", "-c", SERVER, **fields)
        eventually(lambda: "serving" in shared.log(job_id))
        job = shared.job(job_id)
        answer = eventually(lambda: http("GET", job["http_url"]), lambda answer: answer.status == 200)
        assert json.loads(answer.body)["path"] == "/"
        program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status)"
        reader = shared.ended("python", "-c", program, f"http://{job['internal_hostname_named']}:{port}/")
        assert shared.log(reader["id"]) == "200\n"
    shared.api("DELETE", f"jobs/{job_id}")
    shared.until(job_id, "cancelled")
