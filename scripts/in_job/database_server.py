"""PostgreSQL, MySQL and others: waiting for them, and what a server needs of its database."""

from __future__ import annotations

import importlib
import ipaddress
import os
import re
import socket
from contextlib import suppress
from typing import Any, Tuple
from urllib.parse import urlsplit

from in_job.location import DRIVERS
from in_job.schema import SCHEMA_QUERY, UPGRADE_WAIT, is_current, run_upgrade
from in_job.sql import take_lock
from in_job.unfinished import TABLE, refuse_unfinished
from in_job.waiting import wait
from in_job.words import Problem, say

INTERNAL = "NEURO_JOB_INTERNAL_HOSTNAME"
HOPELESS = (
    "authentication failed|access denied|no password|pg_hba|not allowed|does not exist|unknown database"
)


def sql_revision(session: Any) -> str | None:
    """Return the revision of the schema, "" where tables have none, None where there are none of MLflow's."""
    alchemy = importlib.import_module("sqlalchemy")
    tables = set(alchemy.inspect(session).get_table_names())
    query = SCHEMA_QUERY if "alembic_version" in tables else "SELECT ''"
    found: str = session.execute(alchemy.text(query)).scalar()
    return found or ("" if "experiments" in tables else None)


def is_private(host: str) -> bool:
    """Tell whether a host is in a private network and is no job: jobs reach nothing else there."""
    if "." in host and host.partition(".")[2] == os.environ.get(INTERNAL, "").partition(".")[2]:
        return False
    with suppress(OSError, ValueError):
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
        return all(ipaddress.ip_address(one).is_private for one in addresses)
    return False


def reach(uri: str, timeout: float) -> Tuple[Any, str]:
    """Wait for a database server; return a connection to it, and what it is in words."""
    alchemy = importlib.import_module("sqlalchemy")
    url = urlsplit(uri)
    kind = url.scheme.partition("+")[0]
    where = f"{kind} database at {url.hostname}:{url.port or 'its usual port'}"
    options = {"isolation_level": "AUTOCOMMIT", "connect_args": {"connect_timeout": 10}}
    try:
        engine = alchemy.create_engine(uri, **(options if kind in DRIVERS else {}))
    except (ImportError, ValueError, alchemy.exc.ArgumentError) as error:
        raise Problem(f"backend_store_uri {uri}: {error}") from error

    def connect() -> Any:
        try:
            return engine.connect()
        except alchemy.exc.DBAPIError as error:
            if not re.search(HOPELESS, str(error.orig), re.I):
                raise OSError(str(error.orig)) from None
            raise Problem(f"{where}: {error.orig}; correct backend_store_uri or the database") from None

    try:
        return wait(connect, timeout, where), where
    except Problem as problem:
        if url.hostname and "time" in str(problem.__cause__) and is_private(url.hostname):
            hint = "jobs reach no private network: give it an address that is public, or run it as a job"
            raise Problem(f"{problem}; {hint}") from None
        raise


def whole_charset(charset: str) -> bool:
    """Tell whether a character set of a database server has a place for every sign."""
    return charset in ("", "utf8mb4", "utf16", "utf32", "UTF8")  # MySQL's own utf8 has not


def tell_of_charset(session: Any, where: str) -> None:
    """Warn of a database whose texts cannot be just any."""
    query, anew = {
        "mysql": (
            "SELECT DISTINCT character_set_name FROM information_schema.columns WHERE table_schema = "
            "DATABASE() AND table_name IN ('experiments', 'params') AND character_set_name IS NOT NULL",
            "CHARACTER SET utf8mb4",
        ),
        "postgresql": ("SHOW server_encoding", "TEMPLATE template0 ENCODING 'UTF8'"),
    }.get(session.dialect.name, ("SELECT ''", ""))
    for (charset,) in session.exec_driver_sql(query):
        if not whole_charset(charset):
            say(f"WARNING: {where} keeps texts in {charset}, which has not every sign: text with others is")
            say(f"refused or changed; make a database with {anew}, and move by mlflow-backup, mlflow-restore")


def prepare_sql(uri: str, timeout: float, changing: bool = False) -> None:
    """Wait for a database server, upgrade the schema once; a task that is `changing` it has marked it."""
    alchemy = importlib.import_module("sqlalchemy")
    session, where = reach(uri, timeout)
    with session:
        refuse_unfinished(not changing and alchemy.inspect(session).has_table(TABLE), where)
        if is_current(sql_revision(session), where):
            tell_of_charset(session, where)
            return
        take_lock(session, 5077, "mlflow schema", UPGRADE_WAIT, f"another upgrade of the {where}")
        found = sql_revision(session)
        if not is_current(found, where):
            say(f"{where}: " + ("creating the schema" if found is None else f"upgrading the schema {found}"))
            run_upgrade(uri, found is None)
        tell_of_charset(session, where)
