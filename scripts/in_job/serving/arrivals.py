"""New connections in even shares: a worker takes one, and leaves the next to the others for a moment.

A client stays with the worker that has taken its connection. asyncio takes all that wait at one go, so that
of 64 clients who came together one worker got up to 56, who waited for each other while the other had little
to do. Taken in turns they still fell 37 to 27, so that a worker also waits for one that has fewer.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from contextlib import suppress
from typing import Any

from in_job.words import say

PAUSE = 0.002  # seconds after a connection in which a worker takes no other
COURTESY = 0.02  # seconds for which it leaves a connection to a worker that has fewer
SPENT = 1.0  # seconds after an error, such as too many open files
FEW = 200  # connections of a worker, as long as they are to be shared: more come fast
PLACES = 64


class Shares:
    """How many connections each worker has, in memory that they share: pairs of a process id and a number."""

    def __init__(self) -> None:
        self._table = memoryview(mmap.mmap(-1, 8 * PLACES)).cast("i")

    def note(self, worker: int, number: int) -> None:
        """Note the number of a worker, known by its process id."""
        place = 2 * (worker % PLACES)
        self._table[place], self._table[place + 1] = worker, number

    def has_fewer(self, worker: int, number: int) -> bool:
        """Tell whether another worker than this, that lives, has fewer than a number."""
        for place in range(0, len(self._table), 2):
            other, its = self._table[place : place + 2]
            if other not in (0, worker) and its < number:
                with suppress(OSError):
                    os.kill(other, 0)
                    return True
        return False


def take_turns(server: Any) -> None:
    """Let uvicorn's workers take new connections in turns, where they share a socket."""
    startup, shares = server.startup, Shares()

    async def start(self: Any, sockets: Any = None) -> None:
        await startup(self, sockets=sockets)
        try:
            for listener in sockets or ():
                listen(self, listener, shares)
        except Exception as error:
            say(f"workers take new connections as they come: {error!r}")

    server.startup = start


def listen(server: Any, listener: Any, shares: Shares) -> None:
    """Take the connections of one of asyncio's listening sockets in its place."""
    loop, config, state = asyncio.get_running_loop(), server.config, server.server_state
    begun, worker = set(), os.getpid()

    def protocol() -> Any:
        lifespan = server.lifespan.state
        return config.http_protocol_class(config=config, server_state=state, app_state=lifespan)

    def offered() -> None:
        number = len(state.connections)
        shares.note(worker, number)
        loop.remove_reader(listener)
        if number <= FEW and shares.has_fewer(worker, number):
            loop.call_later(COURTESY, accept)
        else:
            accept()

    def accept() -> None:
        pause = PAUSE
        try:
            connection = listener.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):  # another one was faster, or the client has gone
            pause = 0
        except OSError:
            pause = SPENT
        else:
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(protocol, connection))
            begun.add(task)  # the loop itself may forget it
            task.add_done_callback(begun.discard)
            shares.note(worker, len(state.connections) + 1)
            if len(state.connections) > FEW:
                pause = 0
        loop.call_later(pause, go_on)

    def go_on() -> None:
        if listener.fileno() >= 0:  # it is not closed
            loop.add_reader(listener, offered)

    shares.note(worker, 0)
    go_on()
