"""Connections to PostgreSQL that were used a moment ago are looked at, not asked, before they are used again.

MLflow's pools ask each connection for `SELECT 1` first, lest it is one that the database has closed. That is
one of seven round trips of a logged metric, after each of which its thread waits for Python. A database that
ends, or ends a connection, says so, which is seen at the socket. Only of one that was idle it may not be.
"""

from __future__ import annotations

import importlib
import select
import time
import weakref
from typing import Any

from in_job.words import say

FRESH = 1.0  # seconds after its use for which a connection needs no question


def is_quiet(connection: Any) -> bool:
    """Tell whether nothing has come from the other side of an idle connection, not even its end."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return not waiting.poll(0)


def look_before_asking(uri: str) -> None:
    """Let SQLAlchemy's pools ask only those of PostgreSQL's connections that were not used just now."""
    if not uri.startswith("postgres"):
        return
    try:
        alchemy: Any = importlib.import_module("sqlalchemy")
        dialect: Any = alchemy.make_url(uri).get_dialect()
        ask = dialect.do_ping
        used: Any = weakref.WeakKeyDictionary()  # connection: when it came back to its pool

        def do_ping(self: Any, connection: Any) -> Any:
            try:
                if time.monotonic() - used[connection] < FRESH and is_quiet(connection):
                    return True
            except Exception:  # noqa: S110 - it is new, it is closed, or its driver shows no socket
                pass
            return ask(self, connection)

        def came_back(connection: Any, _record: Any) -> None:
            if connection is not None:
                used[connection] = time.monotonic()

        dialect.do_ping = do_ping
        alchemy.event.listen(alchemy.pool.Pool, "checkin", came_back)
    except Exception as error:
        say(f"each connection is asked before it is used, as SQLAlchemy is not as it is known: {error!r}")
