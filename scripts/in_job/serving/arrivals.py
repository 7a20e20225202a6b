"""New connections in even shares: a worker takes one, and leaves the next to the others for a moment.

A client stays with the worker that has taken its connection. asyncio takes all that wait at one go, so that
of 64 clients who came together one worker got up to 56, who waited for each other while the other had little
to do.
"""

from __future__ import annotations

import asyncio
from typing import Any

from in_job.words import say

PAUSE = 0.002  # seconds after a connection in which a worker takes no other
SPENT = 1.0  # seconds after an error, such as too many open files
FEW = 200  # connections of a worker, as long as they are to be shared: more come fast


def take_turns(server: Any) -> None:
    """Let uvicorn's workers take new connections in turns, where they share a socket."""
    startup = server.startup

    async def start(self: Any, sockets: Any = None) -> None:
        await startup(self, sockets=sockets)
        try:
            for listener in sockets or ():
                listen(self, listener)
        except Exception as error:
            say(f"workers take new connections as they come: {error!r}")

    server.startup = start


def listen(server: Any, listener: Any) -> None:
    """Take the connections of one of asyncio's listening sockets in its place."""
    loop, config, state = asyncio.get_running_loop(), server.config, server.server_state
    begun = set()

    def protocol() -> Any:
        lifespan = server.lifespan.state
        return config.http_protocol_class(config=config, server_state=state, app_state=lifespan)

    def accept() -> None:
        pause = PAUSE
        try:
            connection = listener.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):  # another one was faster, or the client has gone
            return
        except OSError:
            pause = SPENT
        else:
            connection.setblocking(False)
            task = loop.create_task(loop.connect_accepted_socket(protocol, connection))
            begun.add(task)  # the loop itself may forget it
            task.add_done_callback(begun.discard)
            if len(state.connections) > FEW:
                return
        loop.remove_reader(listener)
        loop.call_later(pause, go_on)

    def go_on() -> None:
        if listener.fileno() >= 0:  # it is not closed
            loop.add_reader(listener, accept)

    loop.add_reader(listener, accept)
