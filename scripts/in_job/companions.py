"""What belongs to a store beside its runs, and goes into a backup with them: keys, and MLflow's own users."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from in_job import keys
from in_job.counts import count
from in_job.sql import transaction
from in_job.sqlite import copy_sqlite, copy_to, open_sqlite
from in_job.store import Store
from in_job.tables import copy_tables
from in_job.users import (
    VERSION_TABLE,
    has_users,
    kept_with,
    prepare_file,
    upgrade_users,
    users_revision,
    users_uri,
)
from in_job.waiting import in_child
from in_job.words import say

KEYS, USERS = "keys.json", "users.db"
"""Their names in a backup."""


def collect(store: Store, work: Path) -> dict[str, Path]:
    """Return a file in the folder `work` for each that the store has, by its name in a backup."""
    found: dict[str, Path] = {}
    if not store.is_database:
        return found
    kept = keys.read(store.uri)
    if kept:
        found[KEYS] = work / KEYS
        found[KEYS].write_text(json.dumps(kept), "utf-8")
    if has_users(store.env) and kept_with(store.env, store.uri) is None:
        say("left out: the users, whose database is one of their own")
        return found
    uri = users_uri(store.uri)
    revision = users_revision(uri)
    if revision:
        found[USERS] = work / USERS
        if store.path:
            copy_to(found[USERS], uri)
        else:
            new = f"sqlite:///{found[USERS]}"
            in_child(upgrade_users, new, revision)
            with transaction(uri, "REPEATABLE READ") as source, transaction(new, "SERIALIZABLE") as target:
                copy_tables(source, target, tables(found[USERS]))
    return found


def tables(users: Path) -> list[str]:
    """Return the names of the tables of users in a SQLite file."""
    with closing(sqlite3.connect(users)) as database:
        return [name for name in count(database) if name != VERSION_TABLE]


def put(store: Store, found: dict[str, Path]) -> None:
    """Make the store have what `collect` has found in another one; what that had none of stays."""
    if KEYS in found:
        keys.write(store.uri, json.loads(found[KEYS].read_text("utf-8")))
    if USERS in found:
        uri = users_uri(store.uri)
        if store.path:
            prepare_file(uri)
            with closing(sqlite3.connect(found[USERS])) as copy, closing(open_sqlite(uri)) as database:
                copy_sqlite(copy, database)
        else:
            work = f"sqlite:///{found[USERS]}"
            in_child(upgrade_users, work)
            in_child(upgrade_users, uri)
            with transaction(work, "SERIALIZABLE") as source, transaction(uri, "READ COMMITTED") as there:
                copy_tables(source, there, tables(found[USERS]))
    given = {name: value for name, value in store.env.items() if value}
    keys.hide_unreadable(store.uri, {**keys.read(store.uri), **given})


def in_words(found: dict[str, Path]) -> str:
    """Return what there is as the end of a sentence, "" for nothing."""
    parts = ["the keys of webhooks and of gateway secrets"] * (KEYS in found)
    parts += [users_in(found)] * (USERS in found)
    return f"; {' and '.join(parts)}" if parts else ""


def users_in(found: dict[str, Path]) -> str:
    """Return how many users there are, in words; "" where none are kept."""
    if USERS not in found:
        return ""
    with closing(sqlite3.connect(found[USERS])) as database:
        number = database.execute("SELECT count(*) FROM users").fetchone()[0]
    return f"{number:,} user{'s' * (number != 1)}"
