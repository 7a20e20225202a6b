"""Connections to databases through SQLAlchemy."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from in_job.waiting import wait
from in_job.words import Problem


def connect(uri: str, isolation: str = "AUTOCOMMIT") -> Any:
    """Return a connection to a database through SQLAlchemy: a context manager."""
    alchemy = importlib.import_module("sqlalchemy")
    engine = alchemy.create_engine(uri, future=True, poolclass=alchemy.pool.NullPool)
    return connected(engine).execution_options(isolation_level=isolation)


def connected(engine: Any) -> Any:
    """Return a connection of an engine.

    Raises:
        Problem: there is none.
    """
    try:
        return engine.connect()
    except importlib.import_module("sqlalchemy").exc.DBAPIError as error:
        where = f"the {engine.dialect.name} database at {engine.url.host or engine.url.database}"
        raise Problem(f"{where}: {error.orig}; correct backend_store_uri or the database") from None


def refusals() -> tuple[type[Exception], ...]:
    """Return what is raised where a database does not take a value: drivers encode texts themselves."""
    return (importlib.import_module("sqlalchemy").exc.DBAPIError, ValueError)


@contextlib.contextmanager
def transaction(uri: str, isolation: str) -> Iterator[Any]:
    """Yield a connection in a transaction, which an exception rolls back."""
    with connect(uri, isolation) as session, session.begin():
        yield session


def take_lock(session: Any, number: int, name: str, seconds: float, busy: str) -> None:
    """Take a lock of a database, which ends with the connection; Problem where it is `busy` for so long.

    PostgreSQL knows it by its number, MySQL by its name; other servers have none.
    """
    query = {  # each a lock of this database only
        "postgresql": f"SELECT pg_try_advisory_lock({number})",
        "mysql": f"SELECT GET_LOCK(CONCAT('{name} ', MD5(DATABASE())), 0)",
    }.get(session.dialect.name, "SELECT 1")

    def take() -> None:
        if not session.exec_driver_sql(query).scalar():
            raise OSError("held by another job")

    wait(take, seconds, busy)


def drop_tables(uri: str, names: list[str]) -> None:
    """Drop those of some tables that a database has; others that refer to them keep them all."""
    with transaction(uri, "READ COMMITTED") as session:
        metadata = importlib.import_module("sqlalchemy").MetaData()
        metadata.reflect(session, only=[table for table in table_names(session) if table in names])
        metadata.drop_all(session)


def table_names(session: Any) -> list[str]:
    """Return the names of the tables that a connection sees."""
    return list(importlib.import_module("sqlalchemy").inspect(session).get_table_names())
