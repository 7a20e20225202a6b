"""Who uses a store: servers for as long as they live, or a task that changes it, never both at once.

The platform calls a job ended before its processes are gone. So the store itself says who is there, by locks
that end with who has them: of files beside it, else in the database server, else a folder that is touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from in_job.database_server import reach
from in_job.location import store_path
from in_job.sql import connect
from in_job.waiting import wait
from in_job.words import Problem, explain, say

USED, FIRST = "used", "first"
"""The two locks: servers share the one, which a task has alone; the first server has the other alone, so that
the next one notices it."""
SERVER_WAIT = 60.0  # seconds in which a server that was stopped is gone: the platform gives it 30, and a poll
TASK_WAIT = 600.0  # seconds
LOOK = 20.0  # seconds between two looks at the connection that has a lock
STALE = 10.0  # seconds without a touch
SLOTS = 8
"""Servers on MySQL, which has no shared locks: each has a lock of its own, and a task all of them."""
NUMBERS = {USED: 5079, FIRST: 5080}
"""PostgreSQL's."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def lock_file(store: Path, name: str) -> Path:
    """Return the file for a lock: beside the store; in one that is a folder, it may be the whole volume."""
    return store / f".mlflow.{name}" if store.is_dir() else store.with_name(f".{store.name}.{name}")


def holder(store: Path) -> str:
    """Return the id of the job that was the last to be the first server."""
    with contextlib.suppress(OSError):
        return lock_file(store, FIRST).read_text("utf-8") or "another job"
    return "another job"


def lock(store: Path, name: str, alone: bool) -> int:
    """Return the descriptor of a lock of a file: BlockingIOError where somebody has it.

    All processes that inherit the descriptor have the lock, and the last one frees it by its end.
    """
    descriptor = os.open(lock_file(store, name), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise BlockingIOError(f"{holder(store)} has it") from None
        raise
    return descriptor


def has_locks(uri: str, store: Path) -> bool:
    """Tell whether files beside a store can be locked."""
    if "vfs=unix-dotfile" in uri:
        return False
    try:
        os.close(lock(store, USED, False))
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextlib.contextmanager
def folder_lock(path: Path, seconds: float, busy: str, stale: float = STALE) -> Iterator[None]:
    """Hold a lock where there are no locks of files: a folder, which is touched as long as it is held.

    One that has not been touched for `stale` seconds, as this machine's clock has them, is of a holder that
    was killed.
    """
    folder, end = path.with_name(f"{path.name}.lock"), threading.Event()
    seen, since = (0, 0), 0.0

    def touch() -> None:
        while not end.wait(stale / 10):
            os.utime(folder)

    def make() -> None:
        nonlocal seen, since
        try:
            folder.mkdir()
        except FileExistsError:
            found = folder.stat()
            touched = found.st_ino, found.st_mtime_ns
            if touched != seen:
                seen, since = touched, time.monotonic()
            elif time.monotonic() - since > stale:
                folder.rmdir()
            raise BlockingIOError("another job has it") from None

    wait(make, seconds, busy)
    toucher = threading.Thread(target=touch, daemon=True)
    toucher.start()
    try:
        yield
    finally:
        end.set()
        toucher.join()
        folder.rmdir()


class Session:
    """The locks in a database server: they end with the connection."""

    def __init__(self, uri: str) -> None:
        self.uri, self.kind = uri, uri.partition(":")[0].partition("+")[0]
        self.connection, self.lost = connect(uri), False
        self.taken: set[str] = set()

    def take(self, name: str, alone: bool) -> None:
        """Take a lock; BlockingIOError where somebody has it."""
        if self.kind == "postgresql":
            function = "pg_try_advisory_lock" + ("" if alone else "_shared")
            got = self._ask(f"{function}({NUMBERS[name]})")
        else:
            got = self._take_slots(name, alone)
        if not got:
            raise BlockingIOError("held by another job")
        self.taken.add(name)

    def _take_slots(self, name: str, alone: bool) -> bool:
        slots = range(SLOTS if name == USED else 1)
        locks = [f"CONCAT('mlflow {name} {slot} ', MD5(DATABASE()))" for slot in slots]
        taken: list[str] = []
        for one in locks:
            got = self._ask(f"GET_LOCK({one}, 0)")
            if got and not alone:
                return True
            if got:
                taken.append(one)
            elif alone:
                break
        else:
            return alone
        for one in taken:
            self._ask(f"RELEASE_LOCK({one})")
        return False

    def look(self) -> None:
        """Take the locks again where the connection is lost; end the server where a task has them by then."""
        errors = importlib.import_module("sqlalchemy").exc.SQLAlchemyError
        if not self.lost:
            try:
                self._ask("1")
                return
            except errors:
                self.lost = True
                say("the connection that holds the store is lost: making another one")
        with contextlib.suppress(errors, Problem):  # else at the next look
            self.connection = connect(self.uri)
            try:
                self.take(USED, alone=False)
            except BlockingIOError:
                say("the store is being changed by a task: this server ends")
                os.killpg(0, signal.SIGTERM)
            if FIRST in self.taken:
                with contextlib.suppress(BlockingIOError):  # another server has come first
                    self.take(FIRST, alone=True)
            self.lost = False

    def _ask(self, expression: str) -> Any:
        return self.connection.exec_driver_sql(f"SELECT {expression}").scalar()


def keep(take: Callable[[contextlib.ExitStack], Callable[[], None]]) -> None:
    """Have a child take something, and hold it until the last process of this server is gone.

    `take` returns what is done from time to time meanwhile. Problem where the child does not get it.
    """
    # Nothing is ever written: reading ends when no process has the other end any more.
    alive, ours = os.pipe()
    hear, tell = os.pipe()
    os.set_inheritable(ours, True)
    if os.fork():
        os.close(alive)
        os.close(tell)
        with os.fdopen(hear, "rb") as stream:
            said = stream.read().decode()
        if said != "held":
            raise Problem(said or "what holds the store has been killed (out of memory?)")
        return
    try:
        os.close(ours)
        os.close(hear)
        with contextlib.ExitStack() as stack:
            look = take(stack)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)  # it ends after the server
            os.write(tell, b"held")
            os.close(tell)
            while not select.select([alive], [], [], LOOK)[0]:
                look()
    except Exception as error:
        with contextlib.suppress(OSError):
            os.write(tell, explain(error).encode())
    finally:
        os._exit(0)


def use(take: Callable[[str, bool], object], where: object, first: bool, seconds: float) -> None:
    """Take the locks of a server; a second server is let in, with a warning."""
    wait(lambda: take(USED, False), TASK_WAIT, f"the end of what changes {where}")
    if first:
        try:
            wait(lambda: take(FIRST, True), seconds, f"the end of the other server on {where}")
        except Problem as problem:
            say(f"WARNING: {problem}: two servers on one store see each other's runs; stop one of them")


def hold(uri: str, first: bool, timeout: float) -> None:
    """Use a store from now on, as a server: for as long as one of its processes lives.

    It waits for the end of a task that changes the store. The `first` server there, which one that only shows
    runs need not be, waits for the end of another, too: that has been stopped.
    """
    store, seconds = store_path(uri), min(SERVER_WAIT, timeout)
    try:
        if store:
            (store.parent if uri.startswith("sqlite") else store).mkdir(parents=True, exist_ok=True)
        locks = store and has_locks(uri, store)
    except OSError as error:  # what is wrong there is said when it is prepared
        say(f"{store} is used without a lock: {explain(error)}")
        return
    if store and locks:

        def take_file(name: str, alone: bool) -> None:
            descriptor = lock(store, name, alone)
            os.set_inheritable(descriptor, True)  # also where the web server starts apart
            if name == FIRST:
                with contextlib.suppress(OSError):  # the volume may be full
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, os.environ.get("NEURO_JOB_ID", "").encode())

        use(take_file, store, first, seconds)
    elif store:
        if first:
            path, busy = lock_file(store, USED), f"the end of the other server on {store}, or of a task"
            keep(
                lambda stack: stack.enter_context(folder_lock(path, seconds + STALE, busy)) or (lambda: None)
            )
    elif uri.partition(":")[0].partition("+")[0] in ("postgresql", "mysql"):
        connection, where = reach(uri, timeout)
        connection.close()
        connection.engine.dispose()

        def take_session(stack: contextlib.ExitStack) -> Callable[[], None]:
            session = Session(uri)
            stack.callback(session.connection.close)
            use(session.take, where, first, seconds)
            return session.look

        keep(take_session)


@contextlib.contextmanager
def alone_with(uri: str) -> Iterator[None]:
    """Let no server use a store while the block runs: wait for the end of those that do, keep others off."""
    store = store_path(uri)
    busy, seconds = f"the end of the server on {store or 'the database'}", 2 * SERVER_WAIT
    with contextlib.ExitStack() as stack:
        if store and has_locks(uri, store):
            stack.callback(os.close, wait(lambda: lock(store, USED, True), seconds, busy))
        elif store:
            stack.enter_context(folder_lock(lock_file(store, USED), seconds, busy))
        else:
            session = Session(uri)
            stack.callback(session.connection.close)
            wait(lambda: session.take(USED, True), seconds, busy)
        yield
