"""The direct road: by MLflow's own security layers to its Flask app, which answers the tracking API.

MLflow's other layers (workspaces, gateway timing), FastAPI's routing and the hand-over by task groups take
most of the time in which a worker holds Python, and do nothing here. The road is taken only where it means
the same; with an app that is not as it is known, nothing is, and one line in the log says so.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any

from in_job.serving.threads import Threads
from in_job.words import say

PREFIXES = tuple(f"/{kind}/{version}/mlflow/" for kind in ("api", "ajax-api") for version in ("2.0", "3.0"))
OUTER = {  # layers that do nothing for a request of these, by module and name
    "starlette.middleware.errors.ServerErrorMiddleware",  # the road has one of its own
    "fastapi.telemetry._asgi.ExceptionTelemetryMiddleware",
    "fastapi._body_limit.AppBodyLimitMiddleware",
    "mlflow.server.fastapi_app.add_gateway_timing_middleware",
    "mlflow.server.fastapi_app.add_fastapi_workspace_middleware",
}
KEPT = {
    "mlflow.server.fastapi_security.HostValidationMiddleware",
    "starlette.middleware.cors.CORSMiddleware",
    "mlflow.server.fastapi_security.CORSBlockingMiddleware",
    "mlflow.server.fastapi_security.SecurityHeadersMiddleware",
}
INNER = {
    "starlette.middleware.exceptions.ExceptionMiddleware",
    "fastapi.middleware.asyncexitstack.AsyncExitStackMiddleware",
}
MARK = "mlflow-server.direct"  # of a request that takes the road
PIECE = 2**18  # bytes of an answer that are made before they are sent


class Unknown(Exception):
    """What MLflow's app has that is not known here."""


def kind(layer: Any) -> str:
    """Return the name of a layer: of its class, or of what MLflow made it by."""
    function = getattr(layer, "dispatch_func", None)
    thing = function or type(layer)
    return f"{thing.__module__}.{thing.__qualname__}".partition(".<locals>")[0]


def layers(app: Any) -> list[Any]:
    """Return the layers of a FastAPI app, from the outermost to the one before its router."""
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    found, layer = [], app.middleware_stack
    while layer is not app.router:
        found.append(layer)
        layer = layer.app
    return found


def kept(found: list[Any]) -> list[Any]:
    """Return the layers that the road keeps; Unknown where others are among them, or in another order."""
    names = [kind(layer) for layer in found]
    for name in names:
        if name not in OUTER | KEPT | INNER:
            raise Unknown(f"the layer {name}")
    order = [0 if name in OUTER else 1 if name in KEPT else 2 for name in names]
    if order != sorted(order) or names[0] not in OUTER:
        raise Unknown(f"its layers in another order: {', '.join(names)}")
    return [layer for layer in found if kind(layer) in KEPT]


class Road:
    """An app that answers the tracking API directly, and lets MLflow's app answer whatever else there is."""

    def __init__(self, app: Any, threads: int) -> None:
        module: Any = importlib.import_module("mlflow.server.fastapi_app")
        handlers: Any = importlib.import_module("mlflow.server.handlers")
        workspaces: Any = importlib.import_module("mlflow.utils.workspace_context")
        helpers: Any = importlib.import_module("mlflow.server.workspace_helpers")
        self._none: Any = importlib.import_module("starlette.routing").Match.NONE
        variables: Any = importlib.import_module("mlflow.environment_variables")
        if variables.MLFLOW_ENABLE_WORKSPACES.get():
            raise Unknown("workspaces")
        found = layers(app)
        security = kept(found)
        mount = app.routes[-1]
        self._flask: Any = importlib.import_module("mlflow.server").app
        if kind(mount) != "starlette.routing.Mount" or mount.path or mount.app.app is not self._flask:
            raise Unknown("another app than Flask's")
        self.app, self._routes = app, app.routes[:-1]
        self._prefixes = tuple(handlers._add_static_prefix(prefix) for prefix in PREFIXES)
        self._environ, self._enter = module.build_environ, workspaces.set_server_request_workspace
        self._workspace = helpers.WORKSPACE_HEADER_NAME.lower().encode()
        self._threads = Threads(threads)
        self._is_native = functools.lru_cache(1024)(self._looks_native)
        first: Any = self._answer
        if security:
            security[-1].app = self._fork(security[-1].app)
            first = security[0]
        errors = found[0]
        self._direct: Any = type(errors)(first, handler=errors.handler, debug=errors.debug)

    def _fork(self, further: Any) -> Any:
        """Return what follows the last layer that both roads have."""

        async def fork(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await (self._answer if MARK in scope else further)(scope, receive, send)

        return fork

    def _looks_native(self, path: str) -> bool:
        """Tell whether one of FastAPI's routes serves a path."""
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        return any(route.matches(dict(scope))[0] != self._none for route in self._routes)

    def takes(self, scope: dict[str, Any]) -> bool:
        """Tell whether a request takes the road."""
        return (
            scope["type"] == "http"
            and scope["path"].startswith(self._prefixes)
            and not scope.get("root_path")
            and all(name != self._workspace for name, _ in scope["headers"])
            and not self._is_native(scope["path"])
        )

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request."""
        if not self.takes(scope):
            await self.app(scope, receive, send)
            return
        scope[MARK] = True
        await self._direct(scope, receive, send)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        del parts, message
        head, data, rest = await self._threads.run(self._begin, scope, body)
        await send({"type": "http.response.start", **head})
        while rest is not None:  # no thread waits for a slow client
            await send({"type": "http.response.body", "body": data, "more_body": True})
            data, rest = await self._threads.run(gather, rest)
        await send({"type": "http.response.body", "body": data})

    def _begin(self, scope: dict[str, Any], body: bytes) -> tuple[Any, bytes, Iterator[bytes] | None]:
        """Let Flask answer; return the head of its answer, the first bytes, and the rest if there is one."""
        self._enter(None)
        head: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            pairs = ((name.strip().lower(), value.strip()) for name, value in headers)
            lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in pairs]
            head.update(status=int(status.split(" ", 1)[0]), headers=lines)

        answer = self._flask(self._environ(scope, body), start)
        return (head, *gather(closing(answer)))


def closing(answer: Any) -> Iterator[bytes]:
    """Yield the pieces of a WSGI answer, and close it."""
    try:
        yield from answer
    finally:
        if hasattr(answer, "close"):
            answer.close()


def gather(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes] | None]:
    """Return the next bytes of an answer, and what is left to be asked for more."""
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= PIECE:
            return b"".join(parts), pieces
    return b"".join(parts), None


def take_road(command: list[str], threads: int) -> None:
    """Put the road before the app that a command names for uvicorn, where both are known."""
    place, _, name = command[-1].partition(":")
    try:
        if "--factory" in command:
            raise Unknown("users of its own")
        module = importlib.import_module(place)
        setattr(module, name, Road(getattr(module, name), threads))
    except Exception as error:
        reason = str(error) if isinstance(error, Unknown) else repr(error)
        say(f"every request takes MLflow's own, longer road, since this app has {reason}")
