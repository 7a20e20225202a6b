"""What answers: MLflow's own scoring server for a model, and before it one that says what is being done."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from in_job.deployment.finding import example_of
from in_job.deployment.processes import END, Child, ended
from in_job.deployment.state import PATH, say
from in_job.waiting import FORKS
from in_job.words import Problem

FINISH = 30  # seconds in which a version that is replaced may finish what it has begun
EVENTS = "text/event-stream"
MODULES = ("mlflow.pyfunc.scoring_server", "fastapi", "uvicorn")


def answer_meanwhile(listener: socket.socket, path: Path) -> None:
    """Answer on a socket, until a signal comes, with the state in the file `path`, and 503 to all else."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds for a client that says nothing

        def handle_one_request(self) -> None:
            with suppress(OSError):
                super().handle_one_request()

        def do_GET(self) -> None:
            state = path.read_bytes()
            told = json.loads(state)
            code = 200 if self.path.partition("?")[0] == PATH else 503
            if code == 503:
                text = (
                    f"{told['model'] or told['uri']} does not answer yet: {told['problem'] or told['step']}"
                )
                state = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": text}).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(state)))
            if code == 503:
                self.send_header("Retry-After", "2")
            self.end_headers()
            self.wfile.write(state)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))  # else the answer may be lost
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            return

    def end(_number: int, _frame: object) -> None:
        raise SystemExit

    server = ThreadingHTTPServer(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.daemon_threads = False  # who is being answered is answered
    signal.signal(signal.SIGTERM, end)
    with suppress(SystemExit):
        server.serve_forever()
    server.server_close()


def why(error: BaseException, found: dict[str, Any]) -> str:
    """Return why a model does not load or predict, with the way out where it is known, else show where."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            name = cause.name.partition(".")[0]
            return (
                f"{found['uri']} needs the module {name}, which neither the image nor its requirements have: "
                f'log it with extra_pip_requirements=["{name}"], or take an image that has it'
            )
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(type(error), error, error.__traceback__)
    if "unexpected error" in str(error) and error.__context__:  # MLflow's word for any
        error = error.__context__
    return f"{type(error).__name__}: {getattr(error, 'message', '') or error}"[:500]


def load(found: dict[str, Any], tell: Callable[..., None]) -> Any:
    """Load a model, and let it predict its own input example where it has one; Problem where that fails."""
    server: Any = importlib.import_module("mlflow.pyfunc.scoring_server")
    tell(step="loading the model")
    try:
        model = server.load_model_with_mlflow_config(found["path"])
    except Exception as error:
        raise Problem(f"{found['uri']} cannot be loaded: {why(error, found)}") from error
    example = example_of(model.metadata, found["path"])
    if not example:
        return model
    tell(step="predicting the model's own input example")
    try:
        schema = model.metadata.get_input_schema()
        answer = server.invocations(example, "application/json", model, schema)
        if answer.status != 200:
            raise Problem(answer.response)
    except Exception as error:
        raise Problem(
            f"{found['uri']} does not predict its own input example: {why(error, found)}"
        ) from error
    return model


async def events(step: Callable[..., Any], chunk: Any, rest: Iterator[Any], encoder: Any) -> Any:
    """Yield a model's streamed answer as events: `data: JSON` each, `data: [DONE]` at the end.

    `chunk` is the first one, and `step` runs a function in the context that the answer has begun in.
    """
    try:
        while chunk is not None:
            yield f"data: {json.dumps(chunk, cls=encoder)}\n\n"
            chunk = await asyncio.to_thread(step, next, rest, None)
    except Exception as error:  # its head has been sent long ago
        say(f"a streamed answer has failed: {error!r}")
        yield f"data: {json.dumps({'error': str(error)})}\n\n"
    finally:
        with suppress(Exception):  # the client may have left in the middle of a step
            step(getattr(rest, "close", list))
    yield "data: [DONE]\n\n"


def wants_stream(accept: str, body: bytes) -> bool:
    """Tell whether a request asks for a stream: by `Accept`, or by `"stream": true` as chat clients do."""
    if EVENTS in accept:
        return True
    if b'"stream"' not in body:
        return False
    with suppress(ValueError):
        asked = json.loads(body)
        return isinstance(asked, dict) and asked.get("stream") is True
    return False


def application(model: Any, path: Path) -> Any:
    """Return MLflow's app for a model, which also answers `GET /deployment`, and streams where it can."""
    server: Any = importlib.import_module("mlflow.pyfunc.scoring_server")
    app = server.init(model)
    if not hasattr(app, "router"):
        raise Problem("the image's MLflow is too old to serve models here: take an image with MLflow 3")
    responses: Any = importlib.import_module("starlette.responses")
    routes: Any = importlib.import_module("starlette.routing")
    encoder = importlib.import_module("mlflow.utils.proto_json_utils").NumpyEncoder

    async def deployment(_request: Any) -> Any:
        return responses.Response(path.read_bytes(), media_type="application/json")

    def begin(body: bytes) -> tuple[Any, Iterator[Any]]:
        parsed = server._parse_json_data(body, model.metadata, model.metadata.get_input_schema())
        chunks = iter(model.predict_stream(parsed.data, params=parsed.params))
        return next(chunks, None), chunks

    async def invocations(request: Any) -> Any:
        body = await request.body()
        if wants_stream(request.headers.get("accept", ""), body):
            try:
                step = contextvars.copy_context().run
                first, rest = await asyncio.to_thread(step, begin, body)
                return responses.StreamingResponse(events(step, first, rest, encoder), media_type=EVENTS)
            except NotImplementedError:  # what the base class of models does
                pass
            except Exception as error:
                text = json.dumps(
                    {"error_code": "BAD_REQUEST", "message": f"{type(error).__name__}: {error}"}
                )
                return responses.Response(text, 400, media_type="application/json")
        return await plain(request)

    found = [route.endpoint for route in app.routes if getattr(route, "path", "") == "/invocations"]
    plain: Any = found[0]
    if getattr(model, "_predict_stream_fn", None):
        app.router.routes.insert(0, routes.Route("/invocations", invocations, methods=["POST"]))
    app.router.routes.insert(0, routes.Route(PATH, deployment))
    return app


def importable(name: str, added: str) -> bool:
    """Tell whether an imported module is one of a package, and no code of the model's own."""
    file = getattr(sys.modules[name], "__file__", None) or ""
    return f"{os.sep}site-packages{os.sep}" in file or (bool(added) and file.startswith(added + os.sep))


def serve(found: dict[str, Any], listener: socket.socket, path: Path, tell: Callable[..., None]) -> None:
    """Load a model, tell `ready` with the modules that it has imported, and answer until a signal comes."""
    app = application(load(found, tell), path)
    uvicorn: Any = importlib.import_module("uvicorn")
    options: dict[str, Any] = {"log_level": "warning", "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=FINISH, **options))
    tell(ready=True, modules=[name for name in list(sys.modules) if importable(name, found["added"])])
    server.run(sockets=[listener])


def share(names: Iterable[str]) -> None:
    """Import what processes are to share that are forked, where one that has imported MLflow can do that."""
    for name in names if FORKS else ():
        with suppress(Exception):  # a flavour need not be a module's name, and loading says what is missing
            importlib.import_module(name)


def lead(
    found: dict[str, Any], listener: socket.socket, path: Path, workers: int, tell: Callable[..., None]
) -> None:
    """Serve, until a signal comes, with processes that share their imports; the first is ready before others.

    Where a process that has imported MLflow cannot fork, each imports it itself.
    Each loads the model itself: what a library begins while it loads or predicts, such as OpenMP's threads,
    does not survive a fork. One that ends is replaced.

    Raises:
        Problem: the first does not answer.
    """
    children: set[int] = set()
    ending: list[int] = []

    def end(number: int, _frame: object) -> None:
        ending.append(number)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def start(work: Callable[[Callable[..., None]], None]) -> Child:
        signal.pthread_sigmask(signal.SIG_BLOCK, END)  # until it is among the children
        child = Child(work)
        children.add(child.pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
        return child

    def another(_tell: Callable[..., None]) -> None:
        try:
            serve(found, listener, path, lambda **_: None)
        except Problem as problem:
            say(str(problem))
            raise

    share([*MODULES, *found["modules"]])
    for number in END:
        signal.signal(number, end)
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, what is shared
    gc.enable()
    first = start(lambda tell: serve(found, listener, path, tell))
    for told in first.told():
        if "problem" in told:
            raise Problem(told["problem"])
        if "ready" in told:
            break
        tell(**told)
    tell(ready=True)
    share(told["modules"])
    while len(children) < workers and not ending:
        os.close(start(another).reader)
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if not ending:
            say(f"a process of {found['uri']}: {ended(status) or 'it has ended'}; another one is started")
            time.sleep(1)
            os.close(start(another).reader)
