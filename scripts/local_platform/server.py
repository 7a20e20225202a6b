"""The platform's process: one per state folder, from its lock to its orderly end."""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from . import jobs, network, output
from .api import PREFIX, Api
from .auth import Auth
from .client import LOCKED, commands
from .environment import Resources
from .gate import Gate
from .manager import Manager, Run
from .platform_config import config
from .project_stores import Disks, Secrets
from .proxy import HEADER_LIMIT, Ingress
from .state import State, write_atomic
from .storage import locate

log = logging.getLogger(__name__)

#: Seconds between two looks whether the state folder is still there.
WATCH_SECONDS = 2.0
#: Seconds without a job and a request after which the platform ends.
IDLE_SECONDS = 15.0


def run(root: Path) -> int:
    """Serve the state folder `root` until SIGTERM; returns the exit code: LOCKED if another one serves it."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    state = State(root)
    state.create()
    lock = os.open(state.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return LOCKED
    state.server.unlink(missing_ok=True)
    asyncio.run(_serve(state, lock))
    return 0


async def _serve(state: State, lock: int) -> None:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    auth = Auth(state)
    gate = Gate(auth)
    secrets = Secrets(state)
    # The services know each other: jobs use disks, and a disk in use is not deleted.
    disks = Disks(state, lambda disk: manager.disk_user(disk))
    server = network.listen(network.LOCALHOST, state.load("port.json", None))
    port = server.getsockname()[1]
    url = f"http://{network.LOCALHOST}:{port}{PREFIX}"
    resources = Resources(
        lambda project, parts: locate(state.storage_of(project), parts),
        disks.folder,
        secrets.value,
        auth.token,
        url,
    )
    jobs.MINUTE = _seconds("LOCAL_PLATFORM_MINUTE", jobs.MINUTE)
    output.LAG = _seconds("LOCAL_PLATFORM_LOG_LAG", output.LAG)
    async with aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Shorter than servers do (uvicorn: 5 s), or a request meets a connection that is just closing.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        max_line_size=HEADER_LIMIT,
        max_field_size=HEADER_LIMIT,
    ) as session:

        def open_ingress(target: Run) -> Ingress:
            return Ingress(target, gate, session)

        manager = Manager(
            state,
            resources,
            state.root.parent / "venv-mlflow" / "bin",
            open_ingress,
            _seconds("LOCAL_PLATFORM_GRACE", 10.0),
            _seconds("LOCAL_PLATFORM_POLL", 0.5),
        )
        manager.load()
        api = Api(state, auth, manager, gate, secrets, disks)
        runner = web.AppRunner(api.app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        await web.SockSite(runner, server).start()
        state.save("port.json", port)
        await _write_login(state, auth, url)
        _write_commands(state)
        state.save("server.json", {"pid": os.getpid(), "port": port})
        log.info("serving %s at %s", state.root, url)
        await _until(end, state, lock, lambda: 0.0 if manager.runs else api.quiet)
        log.info("stopping")
        with contextlib.suppress(OSError):
            state.server.unlink(missing_ok=True)
        await manager.close()
        await runner.cleanup()


def _seconds(name: str, default: float) -> float:
    """Return a time that a test has set by a variable of the platform's process."""
    return float(os.environ.get(name, default))


async def _until(end: asyncio.Event, state: State, lock: int, quiet: Callable[[], float]) -> None:
    """
    Wait for the end: it is asked for, the state folder was removed or replaced under the platform, or nobody
    uses it any more: no job, no request for a while (`quiet()` in seconds), and no target of the toolkit.
    """
    limit = _seconds("LOCAL_PLATFORM_IDLE", IDLE_SECONDS)
    while not end.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(end.wait(), WATCH_SECONDS)
        with contextlib.suppress(OSError):
            if state.lock.stat().st_ino == os.fstat(lock).st_ino:
                if quiet() > limit and state.take_from_users():
                    log.info("nobody uses it any more")
                    return
                continue
        log.warning("%s is gone", state.root)
        return


async def _write_login(state: State, auth: Auth, url: str) -> None:
    """Store a login for the command lines in `state/login`, unless the stored one still says the same."""
    version = importlib.metadata.version("apolo-sdk")
    current = auth.fingerprint(version, auth.token, json.dumps(config(url)))
    if state.load("login.json", None) == current and (state.login / "db").exists():
        return
    from apolo_sdk import Factory  # takes most of a second to import, and is needed here only

    factory = Factory(path=state.login)
    await factory.logout()
    state.login.mkdir(mode=0o700, exist_ok=True)
    await factory.login_with_token(auth.token, url=URL(url))
    state.save("login.json", current)


def _write_commands(state: State) -> None:
    """Write `state/bin/neuro-flow` and others: the command lines, speaking to this platform."""
    for name, text in commands(state.root, Path(sys.executable).parent).items():
        write_atomic(state.bin / name, text.encode(), 0o700)
