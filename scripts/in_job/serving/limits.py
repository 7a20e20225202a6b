"""What a client may make the server keep: so large a body, and a connection as long as it sends something."""

from __future__ import annotations

import asyncio
import importlib
import re
import resource
import time
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from in_job.words import Problem, say

VARIABLE = "MLFLOW_ACTION_MAX_BODY"
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
STREAMED = re.compile(r".*/(api|ajax-api)/2\.0/mlflow-artifacts/artifacts/")  # uploads, by PUT
LINGER = 2.0  # seconds in which the rest of a body is thrown away: its sender comes to read the answer
PATIENCE = 30.0  # seconds in which a client that is waited for
LEAST = 1000 * PATIENCE  # sends so many bytes, or is cut off
SMALL = 2**20  # bytes of a body that needs no room: no more has a batch that MLflow takes
CONNECTIONS = 1000  # of a worker; when there are more, those go that have been waited for longest
FILES = 65536  # that a process may have open, if it may say so itself


def max_body(env: MutableMapping[str, str]) -> int:
    """Return the most bytes that a body may have which is no artifact's."""
    text = env.get(VARIABLE, "").strip() or "100 MB"
    found = re.fullmatch(r"(\d+) *([kKMG][bB])?", text)
    if not found:
        raise Problem(f"{VARIABLE} is {text!r}: set it to a number of bytes, kB, MB or GB, such as 100 MB")
    return int(found.group(1)) * UNITS[(found.group(2) or "").lower()]


class Refused(Exception):
    """A body has become larger than it may be, or there is no room for it; the status of the answer."""


class Room:
    """So many bytes of large bodies that a worker takes at the same time; who has no room stands in line.

    To answer a body takes several times its size. To wait is what serves clients best: an answer takes less
    than a second, after which there is room, and not all of them try again by themselves.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._line: deque[tuple[int, Any]] = deque()

    async def take(self, size: int) -> bool:
        """Wait for room, and tell whether there was any in time."""
        if not self._line and size <= self._left:
            self._left -= size
            return True
        turn = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        try:
            await asyncio.wait([turn], timeout=PATIENCE)
        except BaseException:
            if turn.done():  # there is room, and nobody any more to give it back
                self.give(size)
            raise
        finally:
            if not turn.done():
                self._line.remove((size, turn))
                self.give(0)  # those behind may be smaller
        return turn.done()

    def give(self, size: int) -> None:
        """Give room back, and let those in who are the next."""
        self._left += size
        while self._line and self._line[0][0] <= self._left:
            size, turn = self._line.popleft()
            self._left -= size
            turn.set_result(None)


class LimitedBodies:
    """An app before MLflow's that refuses larger bodies; artifacts are streamed, and have no limit.

    Bodies of more than SMALL bytes need room, of which there is as much as for the largest one.
    """

    def __init__(self, app: Any, most: int) -> None:
        self.app, self._most, self._room = app, most, Room(most)
        text = f"The body is larger than {most:,} bytes, the most that this server takes but for artifacts. "
        self._texts = {
            413: f"{text}Send less at once, or set {VARIABLE} in the server's envs.\n",
            503: "The server answers other large requests; send this one again, or less at once.\n",
        }

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let the app answer a request whose body is small enough."""
        if scope["type"] != "http" or (scope["method"] == "PUT" and STREAMED.match(scope["path"])):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        size = int(declared) if declared.isdigit() else 0
        if size > self._most:
            await self._refuse(413, receive, send)
        elif size > SMALL or b"transfer-encoding" in headers:
            await self._count(size, scope, receive, send)
        else:  # what is declared is what the web server lets through
            await self.app(scope, receive, send)

    async def _count(self, declared: int, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let the app answer, unless more and more comes or there is no room for it."""
        size, room, begun, refused = 0, 0, False, 0

        def refuse(status: int) -> Refused:
            nonlocal refused
            refused = 0 if begun else status
            return Refused(status)

        async def make_room(wanted: int) -> None:
            nonlocal room
            if room:
                return
            if not await self._room.take(wanted):
                raise refuse(503)
            room = wanted

        async def counted() -> Any:
            nonlocal size
            if declared:
                await make_room(declared)
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise refuse(413)
            if size > SMALL:  # a chunked body may become the largest
                await make_room(self._most)
            return message

        async def noted(message: Any) -> None:
            nonlocal begun
            if not refused:  # what the app makes of the error is not sent
                begun = True
                await send(message)

        try:
            await self.app(scope, counted, noted)
        except Exception:
            if not refused:
                raise
        finally:
            self._room.give(room)
        if refused:
            await self._refuse(refused, receive, send)

    async def _refuse(self, status: int, receive: Any, send: Any) -> None:
        """Answer, and let the connection be closed; a little of the body is thrown away before."""
        text = self._texts[status].encode()
        head = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        head.append((b"content-length", b"%d" % len(text)))
        if status == 503:
            head.append((b"retry-after", b"10"))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": text, "more_body": True})

        async def rest() -> None:
            while (await receive()).get("more_body", False):
                pass

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), LINGER)
        await send({"type": "http.response.body", "body": b""})


def limit_bodies(command: list[str], most: int) -> None:
    """Put the limit before the app that a command names for uvicorn."""
    place, _, name = command[-1].partition(":")
    module = importlib.import_module(place)
    app = getattr(module, name)
    limited = (lambda: LimitedBodies(app(), most)) if "--factory" in command else LimitedBodies(app, most)
    setattr(module, name, limited)


def is_waited_for(protocol: Any) -> bool:
    """Tell whether a connection's client is to send something: a head, or more of a body."""
    cycle = protocol.cycle
    if cycle is None or cycle.response_complete:
        return protocol.timeout_keep_alive_task is None  # which is uvicorn's own limit
    return cycle.more_body and not (protocol.flow.read_paused or cycle.waiting_for_100_continue)


def most_connections() -> int:
    """Return how many connections a worker keeps at most: a process that can open no file serves nobody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        soft = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CONNECTIONS, soft // 2)


def watched(base: Any, most: int) -> Any:
    """Return one of uvicorn's protocols that counts what it receives, and makes room for itself."""

    class Watched(base):  # type: ignore[misc]
        received = 0

        def connection_made(self, transport: Any) -> None:
            self.mark = time.monotonic(), 0
            super().connection_made(transport)
            if len(self.connections) > most:
                others = [one for one in self.connections if one is not self and may_go(one)]
                if others:
                    min(others, key=lambda one: one.mark[0]).transport.abort()

        def data_received(self, data: bytes) -> None:
            self.received += len(data)
            super().data_received(data)

    return Watched


def may_go(protocol: Any) -> bool:
    """Tell whether nothing is being done for a connection's client."""
    idle = protocol.cycle is None or protocol.cycle.response_complete
    return not protocol.transport.is_closing() and (idle or is_waited_for(protocol))


def check(protocol: Any, now: float) -> None:
    """Cut off a client that has sent too little for too long, while it was waited for."""
    since, before = protocol.mark
    if not is_waited_for(protocol):
        protocol.mark = now, protocol.received
    elif now - since >= PATIENCE:
        protocol.mark = now, protocol.received
        if protocol.received - before < LEAST:
            protocol.transport.abort()


def watch_clients(server: Any) -> None:
    """Let uvicorn's servers cut off slow clients, and idle ones where there are too many."""
    startup, tick = server.startup, server.on_tick

    async def start(self: Any, *arguments: Any, **options: Any) -> None:
        try:
            most = most_connections()
            self.config.http_protocol_class = watched(self.config.http_protocol_class, most)
            self.config.backlog = min(self.config.backlog, most // 4)  # so many are accepted at one go
        except Exception as error:
            say(f"slow clients are not cut off: {error!r}")
        await startup(self, *arguments, **options)

    async def look(self: Any, counter: int) -> Any:
        if counter % 10 == 0:  # once a second
            now = time.monotonic()
            for protocol in list(self.server_state.connections):
                if hasattr(protocol, "mark"):
                    check(protocol, now)
        return await tick(self, counter)

    server.startup, server.on_tick = start, look
