"""What belongs to a store beside its runs, and goes into a backup with them: keys, and MLflow's own users."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from in_job import keys
from in_job.counts import count
from in_job.location import sqlite_file
from in_job.queries import rows
from in_job.sql import drop_tables, transaction
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
    given = [n for n in (keys.WEBHOOKS, keys.GATEWAY) if store.env.get(n, "") not in ("", kept.get(n, ""))]
    if given:
        say(f"left out: {' and '.join(given)}, which envs sets: whoever restores this needs the same")
    if kept:
        found[KEYS] = work / KEYS
        found[KEYS].write_text(json.dumps(kept), "utf-8")
    if has_users(store.env) and kept_with(store.env, store.uri) is None:
        say("left out: the users, whose database is one of their own")
        return found
    uri = users_uri(store.uri)
    revision = users_revision(uri)
    if revision or (store.path and rows(uri, "SELECT id FROM users LIMIT 1")):  # one of before MLflow 3.6
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
    """Make the store have what `collect` has found in another one; what that had none of stays.

    Where clients reach the store's folder, nothing of it is put there.
    """
    if found and store.path and store.artifacts and keys.is_served(store.path, str(store.artifacts)):
        say(f"WARNING: clients reach {store.path}, so keys and users stay in the backup only:")
        say("`make mlflow-upgrade` moves the artifacts apart; then restore it once more")
        return
    if KEYS in found:
        keys.write(store.uri, json.loads(found[KEYS].read_text("utf-8")))
    if USERS in found:
        uri = users_uri(store.uri)
        if store.path:
            prepare_file(uri)
            with closing(sqlite3.connect(found[USERS])) as copy, closing(open_sqlite(uri)) as database:
                copy_sqlite(copy, database)
        else:
            in_child(upgrade_users, f"sqlite:///{found[USERS]}")
            in_child(upgrade_users, uri)
            copy_users(found[USERS], uri)
    given = {name: value for name, value in store.env.items() if value}
    keys.hide_unreadable(store.uri, {**keys.read(store.uri), **given})


def put_back(store: Store, found: dict[str, Path]) -> None:
    """Make the store have what it had when `collect` found it, no more, and users in the tables of then."""
    users = users_uri(store.uri)
    if store.path:
        if KEYS not in found:
            keys.key_file(store.path).unlink(missing_ok=True)
        if USERS not in found and kept_with(store.env, store.uri):
            sqlite_file(users)[0].unlink(missing_ok=True)
    if store.path or USERS not in found:
        put(store, found)
        return
    revision = users_revision(f"sqlite:///{found[USERS]}")
    if users_revision(users) != revision:
        head = found[USERS].with_name("head.db")
        head.unlink(missing_ok=True)
        in_child(upgrade_users, f"sqlite:///{head}")
        drop_tables(users, [*tables(head), *tables(found[USERS]), VERSION_TABLE])
        in_child(upgrade_users, users, revision)
    copy_users(found[USERS], users)
    put(store, {name: file for name, file in found.items() if name != USERS})


def copy_users(source: Path, uri: str) -> None:
    """Replace the users in a database server by those in a SQLite file whose tables are the same."""
    with transaction(f"sqlite:///{source}", "SERIALIZABLE") as old, transaction(uri, "READ COMMITTED") as new:
        copy_tables(old, new, tables(source))


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
