"""Running MLflow's server in this process: imported once, with workers that share it."""

from __future__ import annotations

import gc
import importlib
import mmap
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from in_job.environment import JOBS, is_on
from in_job.serving.answers import write_faster
from in_job.serving.arrivals import take_turns
from in_job.serving.connections import look_before_asking
from in_job.serving.guards import guard_stores
from in_job.serving.limits import limit_bodies, max_body, watch_clients
from in_job.serving.new_runs import spare_inputs
from in_job.serving.older_clients import answer_older_paths
from in_job.serving.road import take_road
from in_job.serving.writers import queue_writers
from in_job.words import say

THREADS = 10  # of a worker, that answer API calls; files are sent and received beside them
END = (signal.SIGTERM, signal.SIGINT)


def prepare_to_fork() -> None:
    """Close the idle connections of SQLAlchemy's engines, which no child may use; keep what is shared so."""
    engine = importlib.import_module("sqlalchemy.engine").Engine
    for thing in gc.get_objects():
        if issubclass(type(thing), engine):
            thing.dispose()
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, what is shared


def send_at_once(config: Any) -> None:
    """Let uvicorn's workers send small answers at once: asyncio asks for it only where there is one worker.

    Otherwise the second packet of an answer waits for the client's delayed acknowledgement, 40 ms each time.
    """
    bind = config.bind_socket

    def bind_socket(self: Any) -> socket.socket:
        listener: socket.socket = bind(self)
        with suppress(OSError):  # it may be no TCP socket
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # those it accepts inherit that
        return listener

    config.bind_socket = bind_socket


def end_hopeless(config: Any, served: Any) -> None:
    """End the server, with one line, where a worker cannot load the app and none has ever `served`.

    uvicorn would start another one, for ever.
    """
    load, parent = config.load, os.getpid()

    def checked(self: Any) -> None:
        try:
            load(self)
        except BaseException as error:
            if not served[0]:
                reason = "see above" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
                say(f"the server cannot start: {reason}")
                if os.getpid() != parent:
                    os.kill(parent, signal.SIGTERM)
                os._exit(1)
            raise

    config.load = checked


def require_app(command: list[str], error: Exception) -> None:
    """End with one line where a new interpreter cannot import the app either; it would try again for ever."""
    words = [sys.executable, "-c", "import importlib, sys; importlib.import_module(sys.argv[1])"]
    app = re.split("[:(]", command[-1])[0]
    run = subprocess.run([*words, app], stderr=subprocess.PIPE, check=False)
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip().splitlines()
        say(f"the server cannot start: {said[-1] if said else repr(error)}")
        sys.exit(1)


def limit_threads(server: Any, served: Any) -> None:
    """Let each of uvicorn's workers answer with THREADS threads: anyio's 40 take memory and win nothing.

    Notes in `served`, which they share, that one has got so far.
    """
    startup = server.startup

    async def limited(self: Any, *arguments: Any, **options: Any) -> None:
        with suppress(Exception):  # the limit belongs to the event loop, so that it can be set only here
            importlib.import_module("anyio.to_thread").current_default_thread_limiter().total_tokens = THREADS
        await startup(self, *arguments, **options)
        served[0] = 1

    server.startup = limited


def run_web_server(command: list[str], env: dict[str, str]) -> None:
    """Run MLflow's command for uvicorn or gunicorn in this process, whose workers then share its imports.

    Where they cannot, because MLflow or its app are not what they are known to be, the command starts apart.
    """
    os.environ.update(env)
    start = 3 if command[1] == "-m" else 1
    module = Path(command[start - 1]).name
    try:
        importlib.import_module(module)  # MLflow checks host names only where it finds a web server imported
        for part in ("mlflow.server", re.split("[:(]", command[-1])[0]):  # their routes follow from `env`
            importlib.reload(sys.modules[part]) if part in sys.modules else importlib.import_module(part)
        if module == "uvicorn":
            workers: Any = importlib.import_module("uvicorn._subprocess")
            workers.spawn = multiprocessing.get_context("fork")
            config, served = importlib.import_module("uvicorn.config").Config, mmap.mmap(-1, 1)
            send_at_once(config)
            end_hopeless(config, served)
            server = importlib.import_module("uvicorn.server").Server
            limit_threads(server, served)
            watch_clients(server)
            take_turns(server)
            take_road(command, THREADS)
            write_faster()
            limit_bodies(command, max_body(os.environ))
            answer_older_paths(command)
        guard_stores(os.environ)
        for help_store in (queue_writers, look_before_asking, spare_inputs):
            help_store(os.environ.get("MLFLOW_BACKEND_STORE_URI", ""))
        prepare_to_fork()
        if threading.active_count() > 1:
            raise RuntimeError("the app has started a thread")
    except Exception as error:
        require_app(command, error)
        say(f"the web server imports MLflow anew: {error!r}")
        os.execvp(command[0], command)  # noqa: S606
    gc.enable()
    os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in END])
    sys.argv = [module, *command[start:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_mlflow(command: list[str]) -> None:
    """Run `python -m mlflow …` in this process, which becomes the web server, or forks it for a job runner.

    So MLflow is imported once, not once here and once in each worker, which took most of the time and memory.
    """
    for number in END:
        signal.signal(number, signal.SIG_DFL)
    server: Any = importlib.import_module("mlflow.server")
    apart: Any = getattr(server, "_exec_cmd", None)  # of MLflow 2 and 3

    def execute(words: list[str], **options: Any) -> Any:
        known = re.search("uvicorn|gunicorn", " ".join(words[:3])) and "--reload" not in words
        if not known or threading.active_count() > 1:  # a fork has none of the other threads
            return apart(words, **options)
        arguments = (words, options.get("extra_env") or {})
        if options.get("synchronous", True) or not is_on(os.environ, JOBS):
            run_web_server(*arguments)  # MLflow would only wait for it
            sys.exit()
        prepare_to_fork()
        child: Any = multiprocessing.get_context("fork").Process(target=run_web_server, args=arguments)
        child.start()
        child.poll, child.wait = lambda: child.exitcode, child.join
        child.send_signal = lambda number: os.kill(child.pid, number)
        for number in END:
            signal.signal(number, lambda *_: None)  # the group has it, and the child ends in its own time
        return child

    server._exec_cmd = execute
    sys.argv = command[2:]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
