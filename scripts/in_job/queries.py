"""Single statements in the database of a URI, whichever kind it is."""

from __future__ import annotations

import functools
import importlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from in_job.location import sqlite_file
from in_job.sql import connected, table_names
from in_job.sqlite import open_sqlite


@functools.lru_cache(maxsize=None)
def engine(uri: str) -> Any:
    """Return what keeps one connection to a database server, for all of the statements that follow.

    It is closed with the process, or before that has children which would share it, by `prepare_to_fork`.
    """
    create = importlib.import_module("sqlalchemy").create_engine
    return create(uri, future=True, isolation_level="AUTOCOMMIT", pool_size=1, pool_pre_ping=True)


def rows(uri: str, query: str) -> list[Any]:
    """Return what a query finds in a database; nothing where there is none, or no such table or column."""
    if uri.startswith("sqlite"):
        if not sqlite_file(uri)[0].exists():
            return []
        try:
            with closing(open_sqlite(uri)) as database:
                return list(database.execute(query))
        except sqlite3.OperationalError as error:
            if str(error).startswith("no such "):
                return []
            raise  # it may well have the table, and be locked
    with connected(engine(uri)) as session:
        table = query.partition(" FROM ")[2].split()[0]
        return list(session.exec_driver_sql(query)) if table in table_names(session) else []


def change(uri: str, statement: str, values: Iterable[str]) -> None:
    """Change a database by a statement, once for each `:value`."""
    if uri.startswith("sqlite"):
        with closing(open_sqlite(uri)) as database:
            for value in values:
                database.execute(statement, {"value": value})
        return
    with connected(engine(uri)) as session:
        text = importlib.import_module("sqlalchemy").text(statement)
        for value in values:
            session.execute(text, {"value": value})
