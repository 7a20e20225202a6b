"""The ingress: a port on loopback for each job with HTTP, which does what the platform's ingress does."""

import asyncio
import contextlib
import html
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
from aiohttp import WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from . import network
from .gate import Gate
from .jobs import Job

log = logging.getLogger(__name__)

#: Header fields that concern one connection only (RFC 9110, 7.6.1), and what the proxy sets itself.
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
HOP_BY_HOP |= {"te", "trailer", "transfer-encoding", "upgrade", "expect"}
#: As an ingress in front of Kubernetes: no limit on bodies, none on how long a job thinks about a request.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
HEADER_LIMIT = 2**16


class Target(Protocol):
    """The job behind an ingress, and where its HTTP server is now."""

    job: Job
    address: str
    port: int | None


class Ingress:
    """Serves one job at `http://127.0.0.1:PORT`, under the names that the job has on the platform."""

    def __init__(self, target: Target, gate: Gate, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._gate = gate
        self._session = session
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._own: tuple[str, ...] = ()
        self._public = target.job.public_hosts[-1]
        self._protected = bool(target.job.request["http"].get("requires_auth"))
        self.port = 0

    async def open(self, wanted: int | None) -> int:
        """Begin to listen, at the `wanted` port if it is free; returns the port."""
        server = network.listen(network.LOCALHOST, wanted)
        self.port = server.getsockname()[1]
        own = (network.LOCALHOST, "localhost", *self._target.job.public_hosts)
        self._own = tuple(f"http://{host}:{self.port}" for host in own)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # bodies pass as they are
            handler_cancellation=True,  # a client that left ends its request to the job
            shutdown_timeout=0.5,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
        )
        await self._runner.setup()
        self._site = web.SockSite(self._runner, server)
        await self._site.start()
        return self.port

    async def stop_listening(self) -> None:
        """Give the port free; connections that there are stay."""
        if self._site:
            await self._site.stop()
            self._site = None

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._runner:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if not self._is_own_host(request.host):
            return _plain(404, f"there is nothing called {request.host!r} here")
        path = request.raw_path
        if not path.startswith("/"):
            return _plain(400, "only paths are served here")
        if self._protected:
            answer = self._gate.check(request, self.port)
            if answer is not None:
                return answer
        if self._target.port is None:
            return _page(503, f"{self._title()} is being started; try again")
        url = URL(f"http://{self._target.address}:{self._target.port}{path}", encoded=True)
        try:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request, url)
            return await self._forward(request, url)
        except aiohttp.ClientConnectorError:
            text = f"{self._title()} does not answer at its port {self._target.port} yet; see its log"
            return _page(503, text)
        except aiohttp.ClientError as error:
            return _page(502, f"{self._title()} broke off the request: {error or type(error).__name__}")
        except (ValueError, OSError) as error:  # what cannot be passed on, as a malformed header
            return _plain(400, f"the request cannot be passed on: {error}")

    def _title(self) -> str:
        return f"job {self._target.job.name or self._target.job.id}"

    def _is_own_host(self, host: str) -> bool:
        """Whether a Host header is the ingress's; anything else is another site's page (DNS rebinding)."""
        name, _, port = host.partition(":")
        if name.lower() in self._target.job.public_hosts:
            return port in ("", str(self.port), "80", "443")
        return name.lower() in (network.LOCALHOST, "localhost") and port == str(self.port)

    def _request_headers(self, request: web.Request) -> "CIMultiDict[str]":
        headers = _end_to_end(request.headers)
        headers["Host"] = self._public
        for name in ("Origin", "Referer"):
            if name in headers:
                headers[name] = self._to_public(headers[name])
        if self._protected:
            self._gate.strip(headers, self.port)
        headers["X-Forwarded-For"] = request.remote or network.LOCALHOST
        headers["X-Real-IP"] = headers["X-Forwarded-For"]
        headers["X-Forwarded-Host"] = self._public
        headers["X-Forwarded-Proto"] = headers["X-Forwarded-Scheme"] = headers["X-Scheme"] = "https"
        headers["X-Forwarded-Port"] = "443"
        return headers

    def _to_public(self, value: str) -> str:
        for own in self._own:
            if value == own or value.startswith(own + "/"):
                return f"https://{self._public}{value[len(own) :]}"
        return value

    def _response_headers(self, request: web.Request, original: Mapping[str, str]) -> "CIMultiDict[str]":
        headers = _end_to_end(original)
        # What the browser called this ingress: the cookie and the origin hang on it.
        own = f"http://{request.host}"
        for name in ("Location", "Content-Location", "Access-Control-Allow-Origin"):
            if name not in headers:
                continue
            for public in self._target.job.public_hosts:
                for scheme in ("https", "http"):
                    old = f"{scheme}://{public}"
                    if headers[name] == old or headers[name].startswith((old + "/", old + "?")):
                        headers[name] = own + headers[name][len(old) :]
        return headers

    async def _forward(self, request: web.Request, url: URL) -> web.StreamResponse:
        headers = self._request_headers(request)
        async with self._session.request(
            request.method,
            url,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            timeout=TIMEOUT,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            if answer.status >= 500:  # what the job says of it, its body, gets no further than its log
                return _page(answer.status)
            response = web.StreamResponse(
                status=answer.status,
                reason=answer.reason,
                headers=self._response_headers(request, answer.headers),
            )
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            except (aiohttp.ClientError, ConnectionError):
                # The status is out: all that can be told now is that the answer is not whole.
                if request.transport:
                    request.transport.abort()
            return response

    async def _websocket(self, request: web.Request, url: URL) -> web.StreamResponse:
        headers = self._request_headers(request)
        protocols = [
            word.strip() for word in headers.pop("Sec-WebSocket-Protocol", "").split(",") if word.strip()
        ]
        for name in [name for name in headers if name.lower().startswith("sec-websocket-")]:
            headers.popall(name, None)
        async with self._session.ws_connect(
            url, headers=headers, protocols=protocols, autoping=False, max_msg_size=0, autoclose=False
        ) as upstream:
            chosen = (upstream.protocol,) if upstream.protocol else ()
            client = web.WebSocketResponse(protocols=chosen, autoping=False, max_msg_size=0, autoclose=False)
            await client.prepare(request)
            pumps = [
                asyncio.create_task(_pump(client, upstream)),
                asyncio.create_task(_pump(upstream, client)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            return client


async def _pump(source: Any, sink: Any) -> None:
    """Pass messages of one websocket to the other, its closing included."""
    with contextlib.suppress(ConnectionError):
        while True:
            message = await source.receive()
            if message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.PING:
                await sink.ping(message.data)
            elif message.type is WSMsgType.PONG:
                await sink.pong(message.data)
            else:
                code = message.data if message.type is WSMsgType.CLOSE else source.close_code
                text = message.extra if message.type is WSMsgType.CLOSE else ""
                await sink.close(code=code or 1001, message=(text or "").encode())
                return


def _end_to_end(original: Mapping[str, str]) -> "CIMultiDict[str]":
    """Copy header fields without those of the connection."""
    headers: CIMultiDict[str] = CIMultiDict(original)
    listed = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    for name in HOP_BY_HOP | listed:
        headers.popall(name, None)
    return headers


def _plain(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _page(status: int, text: str = "the job said so; see its log") -> web.Response:
    """Return the page that a client gets for every 5xx, whatever it asked for."""
    title = f"{status} {HTTPStatus(status).phrase if status in set(HTTPStatus) else 'Server Error'}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n"
    page += f"<p>{html.escape(text)}</p>\n</body>\n</html>\n"
    return web.Response(status=status, text=page, content_type="text/html")
