"""A queue of those who write to the server's SQLite database: threads of a worker, and the workers.

SQLite lets one write at a time. Whoever comes second sleeps and tries again, up to 100 ms apart, so that some
wait for seconds while the lock is free. Here they stand in line: from a connection's first INSERT, UPDATE or
DELETE until it is back in its pool. Whoever is outside of the queue, such as a job that writes to the file
itself, is still met by SQLite's own waiting; reads never queue.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import threading
import time
from collections import deque
from typing import Any

from in_job.words import say

LIMIT = 20.0  # seconds that a place is waited for, and kept: as long as MLflow waits for a locked database
PLACE = "mlflow-server place in the queue"  # where a connection keeps what it got
# Python begins a transaction for statements that begin so.
WRITES = ("INSERT", "UPDATE", "DELETE", "REPLAC")


class Place:
    """A place in the queue: `ready` is unlocked when it has become the first, `locked` when a thread that
    waited for it has the file's lock; `since` is when it began to write."""

    def __init__(self) -> None:
        self.ready, self.locked = threading.Lock(), threading.Lock()
        self.ready.acquire()
        self.locked.acquire()
        self.since: float | None = None


class Queue:
    """The line of one process's threads, of which the first competes with other processes for a file's lock.

    The kernel frees that lock when a process dies. Each process opens the file anew: a lock that is inherited
    would be one for both. What waits for it is a thread of the queue's own, since such a wait cannot be given
    up: the first in line gives up, and writes without a place.
    """

    def __init__(self, file: str, limit: float = LIMIT) -> None:
        self.file, self._limit = file, limit
        self._descriptor = -1
        self.begin_anew()

    def begin_anew(self) -> None:
        """Stand in nobody's line, which is where a forked process begins."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # this does not free the lock, which the parent may hold
        self._descriptor = -1
        self._guard = threading.Lock()
        self._waiting: deque[Place] = deque()
        self._first: Place | None = None
        self._asked = threading.Semaphore(0)

    def enter(self) -> Place | None:
        """Wait for a turn and return the place, None when it has not come within the limit."""
        place, deadline = Place(), time.monotonic() + self._limit
        with self._guard:
            if self._descriptor < 0:
                self._descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
                for work in (self._watch, self._fetch):
                    threading.Thread(target=work, args=(self._descriptor,), daemon=True).start()
            waits = self._first is not None
            if waits:
                self._waiting.append(place)
            else:
                self._first = place
        if waits and not place.ready.acquire(timeout=self._limit):
            with self._guard:
                if self._first is not place:
                    self._waiting.remove(place)
                    return None
        try:
            if not self._lock():
                self._asked.release()
                if not place.locked.acquire(timeout=max(deadline - time.monotonic(), 0)):
                    self.leave(place)
                    return None
        except BaseException:
            self.leave(place)
            raise
        place.since = time.monotonic()
        return place

    def _lock(self) -> bool:
        """Take the file's lock if nobody else has it; tell whether this process has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _fetch(self, descriptor: int) -> None:
        """Wait for the file's lock as often as it is asked for, and give it to who is the first by then."""
        while self._asked.acquire():
            given = False
            while not given:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with self._guard:
                    if self._first is None:  # who asked has given up
                        fcntl.flock(descriptor, fcntl.LOCK_UN)
                    elif not self._lock():  # one who gave up has given it back in the meantime
                        continue
                    elif self._first.locked.locked():
                        self._first.locked.release()
                    given = True

    def leave(self, place: Place) -> None:
        """Give a place back, and let the next have its turn; nothing where it has lapsed."""
        with self._guard:
            if self._first is not place:
                return
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._first = self._waiting.popleft() if self._waiting else None
            if self._first:
                self._first.ready.release()

    def _watch(self, descriptor: int) -> None:
        """Let a place lapse that is kept for too long: what SQLite itself has locked is locked on."""
        while self._descriptor == descriptor:
            time.sleep(self._limit / 10)
            place = self._first
            if place and place.since and time.monotonic() - place.since > self._limit:
                self.leave(place)


def queue_writers(uri: str) -> None:
    """Let SQLAlchemy's engines write to a SQLite database in turn, here and in processes forked from here."""
    if not uri.startswith("sqlite"):
        return
    alchemy: Any = importlib.import_module("sqlalchemy")
    database = alchemy.make_url(uri).database
    try:
        shared = os.memfd_create("mlflow-server-writers")  # stays open, here and in the workers
        queue = Queue(f"/proc/self/fd/{shared}", LIMIT)
        os.close(os.open(queue.file, os.O_RDWR))
    except (OSError, AttributeError) as error:
        say(f"those who write to SQLite do not queue: {error!r}")
        return
    os.register_at_fork(after_in_child=queue.begin_anew)

    def before(connection: Any, cursor: Any, statement: str, _values: Any, run: Any, _many: bool) -> None:
        plain = statement.lstrip()[:6].upper() in WRITES
        writes = plain or (run is not None and (run.isinsert or run.isupdate or run.isdelete))
        if not writes or connection.engine.url.database != database or PLACE in connection.info:
            return
        begun = time.monotonic()
        connection.info[PLACE] = queue.enter()
        waited = time.monotonic() - begun
        if waited > LIMIT / 20:  # all in all no longer than MLflow waits, which sets this for each session
            cursor.execute(f"PRAGMA busy_timeout = {max(LIMIT - waited, 0.1) * 1000:.0f}")

    def after(record: Any) -> None:
        place = record.info.pop(PLACE, None)
        if place:
            queue.leave(place)

    alchemy.event.listen(alchemy.Engine, "before_cursor_execute", before)
    pool = alchemy.pool.Pool  # committed or rolled back, a connection returns to it
    alchemy.event.listen(pool, "checkin", lambda _connection, record: after(record))
    alchemy.event.listen(pool, "close", lambda _connection, record: after(record))
    alchemy.event.listen(pool, "invalidate", lambda _connection, record, _error: after(record))
