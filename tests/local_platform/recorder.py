"""A forwarder in front of a platform that hands each answer of its API to a check."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from local_platform.proxy import HOP_BY_HOP

Check = Callable[[str, str, str, int, str, bytes], None]


@dataclass
class Recorder:
    """Where the forwarder is, what it has passed on, and what was wrong with it."""

    api: str
    check: Check
    url: str = ""
    seen: set[tuple[str, str, int]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def judge(self, request: web.Request, status: int, kind: str = "", body: bytes = b"") -> None:
        """Note an answer, and what the check finds."""
        path = request.path.removeprefix(urlsplit(self.api).path)
        parts = path.split("/")
        self.seen.add((request.method, "/".join(parts[: 3 if parts[1] == "flow" else 2]), status))
        try:
            self.check(request.method, path, request.query.get("op", ""), status, kind, body)
        except Exception as error:
            text = " ".join(str(error).split())[:600]
            self.faults.append(f"{request.method} {request.path_qs} {status}: {text}")

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and its answer back."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = URL(f"http://{urlsplit(self.api).netloc}{request.raw_path}", encoded=True)
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(session, request, url, headers)
            body = await request.read()
            async with session.request(request.method, url, headers=headers, data=body) as answer:
                data = await answer.read()
                self.judge(request, answer.status, answer.content_type, data)
                kept = answer.headers.copy()
                for name in HOP_BY_HOP | {"content-length"}:
                    kept.popall(name, None)
                return web.Response(status=answer.status, headers=kept, body=data)

    async def _websocket(
        self, session: aiohttp.ClientSession, request: web.Request, url: URL, headers: dict[str, str]
    ) -> web.StreamResponse:
        kept = {n: v for n, v in headers.items() if not n.lower().startswith("sec-websocket-")}
        try:
            upstream = await session.ws_connect(url, headers=kept)
        except aiohttp.WSServerHandshakeError as error:
            return web.json_response({"error": error.message}, status=error.status)
        self.judge(request, 101)
        client = web.WebSocketResponse()
        await client.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client may leave before the end
            async for message in upstream:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    self.faults.append(f"{request.path}: a message of type {message.type}")
                await client.send_bytes(message.data)
        await client.close()
        return client


@contextmanager
def recording(api: str, check: Check) -> Iterator[Recorder]:
    """Forward to the API at `api` while the block runs; `check` gets what schemas.check does."""
    recorder, loop, stop = Recorder(api, check), asyncio.new_event_loop(), asyncio.Event()
    ready = threading.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", recorder.forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        recorder.url = f"http://127.0.0.1:{runner.addresses[0][1]}{urlsplit(api).path}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield recorder
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
