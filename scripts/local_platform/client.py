"""Starts, finds and stops the platform of a state folder. Imports nothing but the standard library."""

import base64
import contextlib
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Exit code of a platform process that found another one serving its state folder.
LOCKED = 3
START_SECONDS = 60.0
#: Jobs get 10 s to end, then some more until they are gone.
STOP_SECONDS = 30.0
LOG_LIMIT = 2**20
#: What the platform's process gets of the user's environment; jobs get less (environment.py).
_PASSED_ON = (
    *(
        "PATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    ),
    *("CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("LOCAL_PLATFORM_ISOLATION", "LOCAL_PLATFORM_MINUTE", "LOCAL_PLATFORM_GRACE"),
    *("LOCAL_PLATFORM_POLL", "LOCAL_PLATFORM_LOG_LAG", "LOCAL_PLATFORM_IDLE"),
)


class PlatformError(Exception):
    """The local platform cannot be started, reached or stopped; the message is one line for the user."""


@dataclass(frozen=True)
class Login:
    """How to speak to a running platform."""

    url: str
    """The API, `http://127.0.0.1:PORT/api/v1`."""
    state: Path
    environment: dict[str, str]
    """What a child process needs besides, so that neuro-flow and apolo speak to the platform."""

    @property
    def token(self) -> str:
        """The bearer token of the API, and of jobs with http_auth."""
        return (self.state / "token").read_text().strip()


def start(state: Path) -> Login:
    """
    Find the running platform of this state folder, or start it.

    Two calls at once find the same one. Raises PlatformError with one line if that does not work.
    """
    state = state.absolute()
    deadline = time.monotonic() + START_SECONDS
    child: subprocess.Popen[bytes] | None = None
    while True:
        answer = _ping(state)
        if answer is not None:
            if child is not None and child.pid != answer["pid"]:
                child.kill()  # another one was faster; it must not take over when that one ends
                child.wait()
            return _login(state, answer["port"])
        if child is not None and child.poll() not in (None, LOCKED):
            raise PlatformError(f"the local platform ended while starting: {_last_line(state)}")
        if time.monotonic() > deadline:
            raise PlatformError(
                f"the local platform did not start in {START_SECONDS:.0f} s: {_last_line(state)}"
            )
        if child is None or child.poll() == LOCKED:  # another one is starting, or still stopping
            if child is not None:
                time.sleep(0.1)
            child = _spawn(state)
        time.sleep(0.02)


def find(state: Path) -> Login | None:
    """Return the login of the platform that serves this very state folder, None if none does."""
    state = state.absolute()
    answer = _ping(state)
    return None if answer is None else _login(state, answer["port"])


def stop(state: Path) -> None:
    """Stop the platform and its jobs, and wait until it is gone. Nothing running is fine."""
    state = state.absolute()
    deadline = time.monotonic() + STOP_SECONDS
    told = False
    while _is_locked(state):
        # One that is just starting does not answer yet, one that is ending does not any more.
        answer = None if told else _ping(state)
        if answer is not None:
            told = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(answer["pid"], signal.SIGTERM)
        if time.monotonic() > deadline:
            raise PlatformError(
                f"the local platform did not end in {STOP_SECONDS:.0f} s; {_last_line(state)}"
            )
        time.sleep(0.02)


def browser_link(login: Login, url: str) -> str:
    """
    Return a link that opens `url` in a browser.

    For a job with http_auth the link holds a code that works once, for a minute, and gives the browser its
    cookie; any other `url` is returned as it is. Raises PlatformError if the platform does not answer.
    """
    answer = _request("POST", login.url + "/browser_link", login.token, {"url": url})
    if answer is None:
        raise PlatformError(f"the local platform does not answer at {login.url}")
    return str(answer["url"])


def secret(login: Login, name: str) -> tuple[str, str]:
    """Return a secret's value and a shell command that prints it; both empty where there is no such secret.

    They are the user's own, in a file of theirs: only the API keeps them to itself.
    """
    file = login.state / "secrets.json"
    try:
        value = base64.b64decode(json.loads(file.read_bytes())[name]).decode()
    except (OSError, ValueError, KeyError):
        return "", ""
    code = (
        "import base64, json, sys; "
        "sys.stdout.buffer.write(base64.b64decode(json.load(open(sys.argv[1]))[sys.argv[2]]))"
    )
    return value, shlex.join([sys.executable, "-c", code, str(file), name])


def commands(state: Path, executables: Path) -> dict[str, str]:
    """Return shell scripts, by name, that run the command lines of `executables` on this platform."""
    lines = [
        "#!/bin/sh",
        "# Speaks to the local platform, not to your own login.",
        "unset APOLO_PASSED_CONFIG",
    ]
    lines += ["unset NEURO_PASSED_CONFIG"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in _environment(state).items()]
    lines += [f'export PATH={shlex.quote(str(executables))}:"$PATH"']
    ended = "mlflow: the local platform has ended; make mlflow-up MLFLOW_PLATFORM=local starts it"
    lines += [f"[ -e {shlex.quote(str(state / 'server.json'))} ] || echo {shlex.quote(ended)} >&2"]
    return {
        name: "\n".join([*lines, f'exec {shlex.quote(str(executables / name))} "$@"\n'])
        for name in ("neuro-flow", "apolo-flow", "apolo", "neuro")
    }


def _environment(state: Path) -> dict[str, str]:
    login = str(state / "login")
    return {
        "HOME": str(state / "home"),
        "APOLO_CONFIG": login,
        "NEUROMATION_CONFIG": login,  # the older name, looked at when the newer finds nothing
        "NEURO_CLI_DISABLE_PYPI_VERSION_CHECK": "1",
    }


def _login(state: Path, port: int) -> Login:
    return Login(f"http://127.0.0.1:{port}/api/v1", state, _environment(state))


def _ping(state: Path) -> dict[str, Any] | None:
    """Return {port, pid} if a platform answers that serves this state folder, not one it was copied from."""
    try:
        port = int(json.loads((state / "server.json").read_bytes())["port"])
        token = (state / "token").read_text().strip()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    answer = _request("GET", f"http://127.0.0.1:{port}/ping", token)
    if not answer or answer.get("state") != os.path.realpath(state):
        return None
    return {"port": port, "pid": int(answer["pid"])}


def _request(method: str, url: str, token: str, data: object = None) -> dict[str, Any] | None:
    """Call the API; None if nobody answers, or not with JSON and 200."""
    from http.client import HTTPConnection, HTTPException  # not needed to import this module
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = HTTPConnection("127.0.0.1", parts.port, timeout=10)
    try:
        body = None if data is None else json.dumps(data)
        connection.request(method, parts.path, body, {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        return answer if response.status == 200 and isinstance(answer, dict) else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _spawn(state: Path) -> "subprocess.Popen[bytes]":
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        log = state / "platform.log"
        too_long = log.exists() and log.stat().st_size > LOG_LIMIT
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if too_long else os.O_APPEND), 0o600)
    except OSError as error:
        raise PlatformError(
            f"the local platform's folder {state} cannot be used: {error.strerror}"
        ) from error
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env["HOME"] = str(state / "home")
    scripts = Path(__file__).absolute().parents[1]
    words = [str(scripts / "start.py"), str(scripts / "local_platform/__main__.py"), str(state)]
    if "compiled" in sys._xoptions:  # start.py has it
        words[:0] = ["-X", f"compiled={sys._xoptions['compiled']}"]
    try:
        # Of its own session and away from the user's folder: neither ^C nor an unmount meets it.
        return subprocess.Popen(
            [sys.executable, *words],
            cwd="/",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def _is_locked(state: Path) -> bool:
    try:
        descriptor = os.open(state / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _last_line(state: Path) -> str:
    """Return the last thing that the platform's process said."""
    log = state / "platform.log"
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return f"{lines[-1].strip()} ({log})"
    return str(log)
