"""Serves a small app within limits; prints its port. Arguments: bytes of a body, seconds of patience."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn

from in_job.serving import limits

limits.PATIENCE = float(sys.argv[2])
limits.LEAST = 1000 * limits.PATIENCE
limits.CONNECTIONS = 40
limits.SMALL = 20_000


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read a body, wait as long as the query says, and answer with the body's length."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await asyncio.sleep(float(scope["query_string"] or 0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


limits.watch_clients(uvicorn.Server)
config = uvicorn.Config(
    limits.LimitedBodies(app, int(sys.argv[1])), port=0, log_level="critical", lifespan="off"
)
server = uvicorn.Server(config)
started = server.startup


async def start(*arguments: Any, **options: Any) -> None:
    """Start, and say where."""
    await started(*arguments, **options)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)


server.startup = start
server.run()
