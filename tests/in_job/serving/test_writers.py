"""The queue of SQLite writers: in turn, between processes, and never longer than its limit."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from in_job.serving.writers import Queue

from ..harness import StartServer, wait_for
from ..places import Warm


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "lock"
    path.touch()
    return str(path)


@contextmanager
def another_process(queue: Queue) -> Iterator[int]:
    """Fork a process that takes a place and keeps it until it is killed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        queue.begin_anew()
        queue.enter()
        os.write(write, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_threads_write_in_the_order_of_their_coming(file: str) -> None:
    queue, order = Queue(file), []
    first = queue.enter()
    assert first

    def write(number: int) -> None:
        place = queue.enter()
        assert place
        order.append(number)
        queue.leave(place)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for(lambda: len(queue._waiting) == number + 1, "the thread's place")  # noqa: B023
    queue.leave(first)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_nobody_waits_longer_than_the_limit(file: str) -> None:
    queue = Queue(file, limit=0.2)
    setattr(queue, "_watch", lambda _descriptor: None)  # noqa: B010 - it would lapse before
    held = queue.enter()
    assert held
    assert queue.enter() is None
    assert not queue._waiting
    other = Queue(file, limit=0.2)  # as another process: its first in line waits for the file's lock
    assert other.enter() is None
    assert other.enter() is None
    queue.leave(held)

    def is_free() -> bool:  # what was waited for in vain is given back when it comes
        place = queue.enter()
        if place:
            queue.leave(place)
        return place is not None

    wait_for(is_free, "the file's lock")
    assert other.enter()


def test_a_place_that_is_kept_too_long_lapses(file: str) -> None:
    queue = Queue(file, limit=0.3)
    hung = queue.enter()
    second = Queue(file).enter()  # as another process: it gets the file's lock when that lapses
    assert hung
    assert second
    queue.leave(hung)  # which must not give back what is another's by now
    assert queue._first is None


def test_a_process_that_dies_gives_its_place_back(file: str) -> None:
    queue = Queue(file)
    with another_process(queue) as child:
        got: list[object] = []
        waiting = threading.Thread(target=lambda: got.append(queue.enter()))
        waiting.start()
        time.sleep(0.2)
        assert not got
        os.kill(child, signal.SIGKILL)
        waiting.join(30)
        assert got
        assert got[0]


def test_a_forked_process_holds_nothing(file: str) -> None:
    queue = Queue(file)
    place = queue.enter()
    assert place
    child = os.fork()
    if not child:
        queue.begin_anew()
        queue._limit = 0.1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    other, got = Queue(file), []
    waiting = threading.Thread(target=lambda: got.append(other.enter()))
    waiting.start()
    time.sleep(0.2)
    assert not got  # the child's end has not freed what its parent holds
    queue.leave(place)
    waiting.join(30)
    assert got
    assert got[0]


ENGINES = """
import sqlite3, sys, threading, time
import sqlalchemy
from in_job.serving import writers
path = sys.argv[1]
writers.LIMIT = 3.0
made = []
class Noting(writers.Queue):
    def __init__(self, *arguments): super().__init__(*arguments); made.append(self)
writers.Queue = Noting
writers.queue_writers("sqlite:///" + path)
[queue] = made
engine = sqlalchemy.create_engine("sqlite:///" + path)
other = sqlalchemy.create_engine("sqlite:///" + path + ".other")
text = sqlalchemy.text
def first(): return queue._first is not None
for one in (engine, other):
    with one.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER UNIQUE)"))
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            """
with engine.connect() as connection:
    assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0 and not first()
    connection.execute(text("INSERT INTO t VALUES (1)"))
    assert first()
    with engine.connect() as reader:
        assert reader.execute(text("SELECT count(*) FROM t")).scalar() == 0
    connection.commit()
assert not first()
""",
            id="reads-do-not-queue",
        ),
        pytest.param(
            """
for _ in range(2):
    try:
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
            connection.execute(text("  insert into t values (1)"))
        raise SystemExit("no error")
    except sqlalchemy.exc.IntegrityError:
        assert not first()
""",
            id="an-error-in-the-middle",
        ),
        pytest.param(
            """
connection = engine.connect()
connection.execute(text("DELETE FROM t"))
assert first()
connection.invalidate()
assert not first()
connection = engine.connect()
connection.execute(text("UPDATE t SET x = 2"))
del connection
import gc; gc.collect()
assert not first()
""",
            id="a-connection-that-is-lost",
        ),
        pytest.param(
            """
with other.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES (1)"))
    assert not first()
    with engine.begin() as second:
        second.execute(text("INSERT INTO t VALUES (1)"))
""",
            id="another-database",
        ),
        pytest.param(
            """
outside = sqlite3.connect(path, isolation_level=None)
outside.execute("BEGIN IMMEDIATE")
begun = time.monotonic()
try:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 500")
        connection.execute(text("INSERT INTO t VALUES (1)"))
    raise SystemExit("no error")
except sqlalchemy.exc.OperationalError as error:
    assert "database is locked" in str(error) and not first()
outside.execute("COMMIT")
with engine.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES (1)"))
""",
            id="a-writer-outside",
        ),
        pytest.param(
            """
hung = engine.connect()
hung.execute(text("INSERT INTO t VALUES (1)"))
begun = time.monotonic()
try:
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 60000")
        connection.execute(text("INSERT INTO t VALUES (2)"))
    raise SystemExit("no error")
except sqlalchemy.exc.OperationalError as error:
    assert "database is locked" in str(error)
assert time.monotonic() - begun < 55  # it has not waited for what it was told to
hung.commit()
hung.close()
with engine.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES (2)"))
assert not first()
""",
            id="a-transaction-that-hangs",
        ),
    ],
)
def test_connections_stand_in_line_while_they_write(code: str, warm: Warm, tmp_path: Path) -> None:
    warm.python(ENGINES + code, str(tmp_path / "a.db"))


@pytest.mark.e2e
def test_a_server_queues_its_writers_and_meets_those_outside(ready_volume: Path, start: StartServer) -> None:
    server = start(ready_volume).wait_until_up()
    with closing(sqlite3.connect(ready_volume / "mlflow.db", isolation_level=None)) as outside:
        outside.execute("BEGIN IMMEDIATE")
        errors: list[str] = []

        def write() -> None:
            status, answer = server.call("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0"})
            if status != 200:
                errors.append(answer.decode())

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert server.ask("GET", "/experiments/search?max_results=1")  # a reader does not wait
        time.sleep(2)
        outside.execute("COMMIT")
        for thread in threads:
            thread.join()
    assert errors == []
    assert server.stop() == 0
