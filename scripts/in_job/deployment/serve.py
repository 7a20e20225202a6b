"""Serve one registered model: below a small process, PID 1, that holds the port and follows an alias.

Settings come by environment only: MLFLOW_DEPLOY_MODEL, MLFLOW_DEPLOY_ENV_MANAGER, MLFLOW_DEPLOY_WORKERS,
MLFLOW_DEPLOY_PORT, MLFLOW_DEPLOY_FOLLOW, MLFLOW_DEPLOY_CACHE, and for tests MLFLOW_DEPLOY_FOLLOW_EVERY and
MLFLOW_DEPLOY_PATIENCE (seconds); beside them the platform's NEURO_JOB_* and MLflow's own variables.

The port is open from the first second. Each version has processes of its own, which take it from those
before: no request is passed on from one process to another, and none is refused in between.
"""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from in_job.deployment.answering import MODULES, answer_meanwhile, lead, share
from in_job.deployment.finding import check_python, find, plain, requirements_of
from in_job.deployment.following import alias_of, require_answer, version_at
from in_job.deployment.processes import END, Child, ended
from in_job.deployment.requirements import Missed, environment, interferes, mark_used
from in_job.deployment.state import State, say
from in_job.words import Problem, explain, redact

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # else it takes minutes to say that nobody answers any more
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
HOUR = 3600.0  # seconds
SHOWN = ("model", "version", "uri", "model_id", "flavors", "signature", "example")


def number(env: Mapping[str, str], name: str, default: float, least: float) -> float:
    """Return the number in a variable, `default` where it is empty; Problem where it is less than `least`."""
    text = env.get(name, "").strip()
    try:
        value = float(text or default)
    except ValueError:
        value = least - 1
    if not least <= value < float("inf"):
        raise Problem(f"{name} is {text!r}: set it to a number of at least {least:g}")
    return value


def open_port(env: Mapping[str, str]) -> socket.socket:
    """Return a socket that listens where the job's clients come from."""
    port = int(number(env, "NEURO_JOB_HTTP_PORT", number(env, "MLFLOW_DEPLOY_PORT", 8080, 1), 1))
    host = env.get("MLFLOW_HOST") or "0.0.0.0"  # noqa: S104 - the ingress and other jobs come from outside
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of those that it accepts, too
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", "") or error
        raise Problem(f"port {port} of {host} cannot be opened: {reason}") from error
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def prepare(uri: str, folder: str, tell: Callable[..., None]) -> dict[str, Any]:
    """Find a version, and make its environment; return what `find` does, and its folder as `added`."""
    env = os.environ
    tell(step="looking for it in the registry")
    require_answer(env)
    share(MODULES)
    looking, found = Child(lambda told: told(**find(uri, folder))), {}
    for found in looking.told():
        if "problem" in found:
            raise Problem(found["problem"])
    tell(**{name: found[name] for name in SHOWN}, step="looking what it requires")
    say(
        f"{found['uri']}: {', '.join(found['flavors'])}, logged by MLflow {found['mlflow']} and Python "
        f"{found['python'] or '?'}{' in the run ' + found['run_id'] if found['run_id'] else ''}"
    )
    warning = check_python(found)
    if warning:
        say(warning)
    cache = Path(env.get("MLFLOW_DEPLOY_CACHE") or Path(tempfile.gettempdir(), "mlflow-deploy"))
    manager = env.get("MLFLOW_DEPLOY_ENV_MANAGER", "").strip().lower() or "uv"
    tell(step="making its environment")
    return {**found, "added": str(environment(found, requirements_of(found["path"]), manager, cache) or "")}


def run_version(
    uri: str, listener: socket.socket, path: Path, tell: Callable[..., None], found: dict[str, Any]
) -> None:
    """Find a version, make its environment and serve it, until a signal comes; Problem where that fails.

    What MLflow imports is shared by the process that looks for the model, and by those that serve it. Where
    the environment has something else in its place, it ends, and tells `found` for another process.
    """
    for sign in END:
        signal.signal(sign, lambda number, _: sys.exit(128 + number))  # so that what is begun is tidied up
    folder = found.get("folder") or tempfile.mkdtemp(prefix="model-", dir=path.parent)
    gc.disable()  # until it has imported
    try:
        if not found:
            missed = Missed()
            found = {**prepare(uri, folder, tell), "folder": folder}
            if found["added"] and interferes(Path(found["added"]), missed.names):
                folder = ""
                tell(found=found)
                return
        if found["added"]:
            sys.path.insert(0, found["added"])
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [found["added"], before]))
        shown = {name: found[name] for name in SHOWN}
        tell(**shown, step="loading the model", environment=found["added"])
        lead(found, listener, path, int(number(os.environ, "MLFLOW_DEPLOY_WORKERS", 2, 1)), tell)
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


class Deployment:
    """The versions that are there: the one that serves, and one that starts, when there is one."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        uri = plain(env.get("MLFLOW_DEPLOY_MODEL", "").strip())
        if uri == plain(""):
            raise Problem("MLFLOW_DEPLOY_MODEL is empty: set it to a model, such as models:/iris/3")
        follow = env.get("MLFLOW_DEPLOY_FOLLOW", "").strip().lower() in ("true", "yes", "1", "on")
        self._env, self._alias = env, alias_of(uri, env) if follow else None
        self._every = number(env, "MLFLOW_DEPLOY_FOLLOW_EVERY", 30, 0.1)
        self._patience = number(env, "MLFLOW_DEPLOY_PATIENCE", 1800, 1)
        number(env, "MLFLOW_DEPLOY_WORKERS", 2, 1)
        self._listener = open_port(env)
        self._state = State(folder, uri, follow)
        self._look, self._tried, self._blind, self._asked = time.monotonic() + self._every, "", "", False
        self._children: set[int] = set()
        self._serving: Child | None = None
        self._environment, self._mark = "", 0.0
        self._meanwhile = self._fork(lambda _: answer_meanwhile(self._listener, self._state.path))
        self._start(uri)

    def _fork(self, work: Callable[[Callable[..., None]], None]) -> Child:
        signal.pthread_sigmask(signal.SIG_BLOCK, END)  # until it is among the children
        child = Child(work, leads=True)
        self._children.add(child.pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
        return child

    def _start(self, uri: str, found: dict[str, Any] = {}) -> None:  # noqa: B006 - it is only read
        listener, path = self._listener, self._state.path
        self._told: dict[str, Any] = {"uri": uri}
        self._deadline = time.monotonic() + self._patience
        self._starting: Child | None = self._fork(lambda tell: run_version(uri, listener, path, tell, found))

    def end(self, number: int, _frame: object = None) -> None:
        """Pass a signal on to all processes; the second one kills them."""
        for pid in self._children:
            end(pid, signal.SIGKILL if self._asked else number)
        self._asked = True  # the next one kills

    def run(self) -> int:
        """Serve until a signal comes, or nothing is left that could; return the exit code."""
        while self._serving or self._starting:
            readers = [self._starting.reader] if self._starting else []
            if select.select(readers, [], [], 0.2)[0]:
                self._hear()
            self._reap()
            if self._environment and time.monotonic() > self._mark:
                self._mark = time.monotonic() + HOUR
                mark_used(Path(self._environment))
            if self._starting and not self._asked and time.monotonic() > self._deadline:
                end(self._starting.pid, signal.SIGTERM)
                self._fail(f"it has not answered within {self._patience:g} s")
            elif self._alias and not self._asked and not self._starting and time.monotonic() > self._look:
                self._follow(*self._alias)
        for pid in self._children:
            end(pid, signal.SIGTERM)
        for pid in list(self._children):
            os.waitpid(pid, 0)
        return 0 if self._asked else 1

    def _hear(self) -> None:
        """Take in what the version that starts tells."""
        child = self._starting
        for told in (child.hear() or []) if child else []:
            self._told.update(told)
            if told.get("ready"):
                self._switch()
            elif not self._serving:
                self._state.set(**self._state.known(told))
            elif "step" in told:
                self._state.set(step=f"{self._told['uri']}: {told['step']}")

    def _switch(self) -> None:
        """Leave the port to the version that has started."""
        old, self._serving, self._starting = self._serving, self._starting, None
        self._environment, self._mark = self._told.get("environment", ""), 0.0
        end(old.pid if old else self._meanwhile.pid, signal.SIGTERM)
        self._state.set(**{**self._state.known(self._told), "state": "ready", "step": "", "problem": ""})
        tried = "predicts its own input example" if self._state.values["example"] else "is loaded"
        port = self._listener.getsockname()[1]
        instead = ", in the place of the one before" if old else ""
        say(f"{self._told['uri']} {tried}, and answers on port {port}{instead}")

    def _fail(self, reason: str) -> None:
        """Give up the version that starts."""
        self._starting = None
        if self._asked:
            return
        if self._serving:
            reason = (
                f"{self._told['uri']} does not answer: {reason}; {self._state.values['uri']} goes on serving"
            )
            self._state.set(step="", problem=redact(reason))
        else:
            self._state.set(state="failed", step="", problem=redact(reason))
        say(reason)

    def _reap(self) -> None:
        """Take notice of processes that have ended, those too that have lost their parents."""
        with suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            while pid:
                if pid in self._children:
                    end(pid, signal.SIGKILL)  # whatever is left of its group
                    self._children.discard(pid)
                if self._starting and pid == self._starting.pid:
                    self._hear()
                    found = self._told.get("found")
                    if found and not self._asked:
                        self._start(self._told["uri"], found)
                    else:
                        self._fail(self._told.get("problem") or ended(status))
                elif self._serving and pid == self._serving.pid:
                    self._serving = None
                    if not self._asked:
                        say(f"{self._state.values['uri']}: {ended(status) or 'it has ended'}")
                pid, status = os.waitpid(-1, os.WNOHANG)

    def _follow(self, name: str, alias: str) -> None:
        """Start the version that the alias has moved to, once."""
        self._look = time.monotonic() + self._every
        try:
            version = version_at(self._env, name, alias)
        except Problem as problem:
            if str(problem) != self._blind:
                self._blind = str(problem)
                say(f"{self._blind}; {self._state.values['uri']} goes on serving")
                self._state.set(problem=redact(self._blind))
            return
        if self._blind or (self._tried and version != self._tried):
            self._blind = self._tried = ""
            self._state.set(problem="")
        if version not in (self._state.values["version"], self._tried):
            self._tried = version
            say(f"{name}@{alias} is version {version} now: it is started beside {self._state.values['uri']}")
            self._start(f"models:/{name}/{version}")


def end(pid: int, number: int) -> None:
    """Send a signal to a process and those below it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def main() -> int:
    """Serve the model that the environment names; return the exit code."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    folder = tempfile.mkdtemp(prefix="mlflow-deploy-")
    try:
        deployment = Deployment(os.environ, Path(folder))
        for sign in END:
            signal.signal(sign, deployment.end)
        return deployment.run()
    except (Problem, OSError) as problem:
        say(explain(problem))
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
