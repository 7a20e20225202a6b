"""The platform's API: routes, authentication, and errors as the clients expect them."""

import asyncio
import contextlib
import json
import logging
import os
import secrets as random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any

from aiohttp import WSMsgType, web

from .auth import Auth
from .gate import Gate
from .jobs import Job, is_minutes
from .manager import Manager
from .names import CLUSTER, USER, ApiError
from .platform_config import PRESETS, config
from .project_stores import Disks, Flows, Secrets, body
from .runner import Process
from .state import State
from .storage import NDJSON, Storage

log = logging.getLogger(__name__)

PREFIX = "/api/v1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Handlers of the jobs and monitoring services, and the application that holds all services."""

    def __init__(
        self, state: State, auth: Auth, manager: Manager, gate: Gate, secrets: Secrets, disks: Disks
    ) -> None:
        self._state = state
        self._auth = auth
        self._manager = manager
        self._gate = gate
        self._requests = 0  # that are being answered
        self._last = time.monotonic()
        storage = Storage(state, f"{PREFIX}/storage")
        flows = Flows(state)
        self.app = web.Application(middlewares=[self._errors], client_max_size=2**24)
        self.app.add_routes(
            [
                web.get("/ping", self._ping),
                web.get("/v2/_catalog", self._images),
                *(
                    web.route(method, PREFIX + path, handler)
                    for method, path, handler in (
                        ("GET", "/config", self._config),
                        ("GET", "/jobs", self._list),
                        ("POST", "/jobs", self._create),
                        ("GET", "/jobs/{id}", self._status),
                        ("DELETE", "/jobs/{id}", self._delete),
                        ("PUT", "/jobs/{id}/max_run_time_minutes", self._extend),
                        ("GET", "/monitoring/capacity", self._capacity),
                        ("GET", "/monitoring/{id}/log_ws", self._log),
                        ("GET", "/monitoring/{id}/attach", self._attach),
                        ("POST", "/browser_link", self._browser_link),
                        ("*", "/storage/{path:.*}", storage.handle),
                        ("GET", "/secrets", secrets.handle_list),
                        ("POST", "/secrets", secrets.handle_add),
                        ("DELETE", "/secrets/{key}", secrets.handle_delete),
                        ("GET", "/disks", disks.handle_list),
                        ("POST", "/disks", disks.handle_create),
                        ("GET", "/disks/{disk}", disks.handle_get),
                        ("DELETE", "/disks/{disk}", disks.handle_delete),
                        ("GET", "/flow/projects", flows.handle_projects),
                        ("POST", "/flow/projects", flows.handle_create_project),
                        ("GET", "/flow/projects/{project}", flows.handle_project),
                        ("GET", "/flow/live_jobs", flows.handle_live_jobs),
                        ("PUT", "/flow/live_jobs/replace", flows.handle_replace_live_job),
                    )
                ),
            ]
        )

    @property
    def quiet(self) -> float:
        """Seconds for which nobody has asked for anything."""
        return 0.0 if self._requests else time.monotonic() - self._last

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let only bearers of the token in; answer errors as `{"error": …}`, for websockets in a header."""
        self._requests += 1
        try:
            if request.path != "/ping":  # which says nothing to strangers
                self._auth.bearer(request)
            return await handler(request)
        except ApiError as error:
            status, text, errno = error.status, str(error), error.errno
        except web.HTTPException as error:
            status, errno = error.status, None
            text = f"the local platform does not support {request.method} {request.path}"
            if status not in (404, 405):
                text = error.text or error.reason
            else:
                status = 400  # 404 would mean to clients that the job, file or secret is missing
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:  # as where the disk is full
            status, text, errno = 400, f"the local platform: {error}", None
        except Exception:
            log.exception("%s %s", request.method, request.path)
            status, errno = 400, None
            text = f"the local platform made a mistake; see {self._state.root / 'platform.log'}"
        finally:
            self._requests -= 1
            self._last = time.monotonic()
        data = {"error": text, **({"errno": errno} if errno else {})}
        header = text.encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
        return web.json_response(data, status=status, headers={"X-Error": header})

    async def _ping(self, request: web.Request) -> web.Response:
        """Tell the bearer of the token which state folder is served, by which process."""
        try:
            self._auth.bearer(request)
        except ApiError:
            return web.json_response({})
        return web.json_response({"state": os.path.realpath(self._state.root), "pid": os.getpid()})

    async def _config(self, request: web.Request) -> web.Response:
        """Tell where the services are: where this one was found, be it through a forwarder."""
        return web.json_response(config(f"http://{request.host}{PREFIX}"))

    async def _images(self, _request: web.Request) -> web.Response:
        """Tell the registry's images: there is none to push to, so it has none (images.yaml maps names)."""
        return web.json_response({"repositories": []})

    async def _capacity(self, _request: web.Request) -> web.Response:
        """Tell how many more jobs of each preset there can be: presets limit nothing here."""
        return web.json_response(dict.fromkeys(PRESETS, 100))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        since, until = _time(query.get("since")), _time(query.get("until"))
        found = [
            job
            for job in self._manager.jobs.values()
            if (not query.getall("status", []) or job.status in query.getall("status"))
            and set(query.getall("tag", [])) <= set(job.request.get("tags") or [])
            and query.get("name") in (None, "", job.name)
            and _among(query.getall("owner", []), USER)
            and _among(query.getall("cluster_name", []), CLUSTER)
            and _among(query.getall("org_name", []), job.project.org)
            and _among(query.getall("project_name", []), job.project.name)
            and (since is None or job.created_at >= since)
            and (until is None or job.created_at <= until)
        ]
        if query.get("reverse", "0").lower() in ("1", "true", "yes"):
            found.reverse()
        with contextlib.suppress(ValueError):
            found = found[: int(query.get("limit", len(found)))]
        if NDJSON in request.headers.get("Accept", ""):
            return web.Response(
                text="".join(json.dumps(job.to_api()) + "\n" for job in found), content_type=NDJSON
            )
        return web.json_response({"jobs": [job.to_api() for job in found]})

    async def _create(self, request: web.Request) -> web.Response:
        data = await body(request)
        if "from_preset" not in request.query:
            raise ApiError(400, "the local platform runs jobs from a preset only (POST /jobs?from_preset)")
        if data.get("privileged"):
            raise ApiError(400, "privileged: the local platform runs no privileged jobs")
        return web.json_response((await self._manager.create(data)).to_api(), status=202)

    def _job(self, request: web.Request) -> Job:
        return self._manager.get(request.match_info["id"])

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).to_api())

    async def _delete(self, request: web.Request) -> web.Response:
        await self._manager.cancel(self._job(request))
        return web.Response(status=204)

    async def _extend(self, request: web.Request) -> web.Response:
        data, job = await body(request), self._job(request)
        minutes = data.get("additional_max_run_time_minutes")
        if not is_minutes(minutes):
            raise ApiError(400, f"additional_max_run_time_minutes {minutes!r} is not a number of minutes")
        if not job.active:
            raise ApiError(400, f"job {job.id} is over ({job.status})")
        self._manager.extend(job, minutes)
        return web.Response(status=204)

    async def _browser_link(self, request: web.Request) -> web.Response:
        """Give a link by which a browser gets into a job with http_auth; other addresses stay as they are."""
        url = (await body(request)).get("url")
        if not isinstance(url, str):
            raise ApiError(400, "url is missing")
        for run in self._manager.runs.values():
            own = f"http://127.0.0.1:{run.job.ingress_port}"
            if (
                run.ingress
                and run.job.request["http"].get("requires_auth")
                and (url + "/").startswith(own + "/")
            ):
                return web.json_response({"url": self._gate.link(url)})
        return web.json_response({"url": url})

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """Send the log in binary frames and close at its end; `since` and `timestamps` are ignored."""
        output = self._manager.output(self._job(request))
        # A client that expects a line between old and new says which; others get one that no job has written.
        separator = request.query.get("separator", f"=== Live logs ==={random.token_hex(30)}")
        socket = web.WebSocketResponse(heartbeat=30)
        await socket.prepare(request)

        async def send() -> None:
            async for data in output.follow(separator.encode()):
                await socket.send_bytes(data)

        return await _while_open(socket, send())

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        """
        Send what the running process writes: a byte 1 or 2 for the stream and the data, 3 at the end.

        A terminal takes what the client sends: 0 and what was typed, or 4 and its size.
        """
        job = self._job(request)
        run = self._manager.runs.get(job.id)
        if run is None or run.process is None or job.status != "running":
            raise ApiError(404, f"job {job.id} is not running")
        wanted = {number for number, name in ((1, "stdout"), (2, "stderr")) if request.query.get(name) == "1"}
        queue = run.output.attach()
        socket = web.WebSocketResponse(heartbeat=30)

        async def send() -> None:
            while (item := await queue.get()) is not None:
                if item[0] in wanted:
                    await socket.send_bytes(bytes([item[0]]) + item[1])
            await socket.send_bytes(b"\x03" + json.dumps({"exit_code": run.exit_code}).encode())

        def receive(data: bytes) -> None:
            if job.request.get("tty") and run.process:
                _use_terminal(run.process, data)

        try:
            await socket.prepare(request)
            return await _while_open(socket, send(), receive)
        finally:
            run.output.detach(queue)


def _use_terminal(process: Process, message: bytes) -> None:
    """Do what a client says to a process's terminal; what cannot be understood is left out."""
    kind, data = message[:1], message[1:]
    if kind == b"\x00" and data:
        process.type(data)
    elif kind == b"\x04":
        with contextlib.suppress(ValueError, TypeError, KeyError):
            size = json.loads(data)
            lines, columns = (min(max(int(size[name]), 0), 9999) for name in ("height", "width"))
            process.resize(lines, columns)


async def _while_open(
    socket: web.WebSocketResponse,
    sending: Coroutine[Any, Any, None],
    receive: Callable[[bytes], None] = lambda _: None,
) -> web.WebSocketResponse:
    """Send until there is no more, or the client leaves; `receive` gets what it sends."""

    async def read() -> None:
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                receive(message.data)

    tasks = [asyncio.create_task(sending), asyncio.create_task(read())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await socket.close()
    return socket


def _among(wanted: list[str], only: str) -> bool:
    return not wanted or only in wanted


def _time(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError as error:
        raise ApiError(400, f"{text!r} is not a time in ISO 8601") from error
