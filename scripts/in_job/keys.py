"""The secrets that MLflow would make up at each start: made once, and kept where the runs are.

Beside a SQLite database in a file for its owner only. In a database server in a table of ours: every job that
has runs there reaches it, volumes or not; it moves with them; no route of MLflow reads it. A variable that
the user sets wins, and is kept nowhere.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import secrets
import sqlite3
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict

from in_job import durable
from in_job.location import store_path
from in_job.queries import change, rows
from in_job.sql import connect
from in_job.words import Problem, say

WEBHOOKS = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
GATEWAY = "MLFLOW_CRYPTO_KEK_PASSPHRASE"
FLASK = "MLFLOW_FLASK_SERVER_SECRET_KEY"
TABLE = "mlflow_keys"
HIDDEN = -1
"""The time at which a webhook was deleted whose key is lost."""
Keys = Dict[str, str]
"""Values by MLflow's variables. An empty one means that MLflow's own constant is in use, and stays so."""


def key_file(path: Path) -> Path:
    """Return the file of the keys of a SQLite database, which is never one of artifacts."""
    return path.with_name(f".{path.name}.keys")


def make(uri: str) -> Keys:
    """Return new keys for a store; none for gateway secrets where there are some under MLflow's constant."""
    webhooks = base64.urlsafe_b64encode(os.urandom(32)).decode()  # what cryptography calls a Fernet key
    there: list[Any] = []
    with suppress(sqlite3.DatabaseError):  # a damaged one: whoever prepares it says so
        there = rows(uri, "SELECT secret_id FROM secrets LIMIT 1")
    gateway = "" if there else secrets.token_urlsafe(32)
    return {WEBHOOKS: webhooks, GATEWAY: gateway, FLASK: secrets.token_urlsafe(32)}


def read(uri: str) -> Keys:
    """Return the keys that are kept for a database, none where there are none yet."""
    path = store_path(uri)
    if path:
        file = key_file(path)
        text = file.read_text("utf-8") if file.exists() else ""
    else:
        text = next((row[0] for row in rows(uri, f"SELECT note FROM {TABLE} WHERE id = 1")), "")  # noqa: S608
    found: Keys = json.loads(text) if text else {}
    return found


def write(uri: str, keys: Keys, replace: bool = True) -> None:
    """Keep keys for a database; without `replace` only where none are kept."""
    path, text = store_path(uri), json.dumps(keys)
    if path:
        file = key_file(path)
        part = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        try:
            durable.write(text, part, 0o600)
            if replace or not file.exists():
                durable.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
        return
    alchemy = importlib.import_module("sqlalchemy")
    with connect(uri) as session:
        session.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (id INTEGER PRIMARY KEY, note VARCHAR(2000))"
        )
        insert = alchemy.text(f"INSERT INTO {TABLE} VALUES (1, :note)")  # noqa: S608
        update = alchemy.text(f"UPDATE {TABLE} SET note = :note WHERE id = 1")  # noqa: S608
        try:
            session.execute(insert, {"note": text})
        except alchemy.exc.IntegrityError:
            if replace:
                session.execute(update, {"note": text})


def settle(env: MutableMapping[str, str], uri: str, destination: str) -> Keys:
    """Return the keys of a store, new ones where none are kept yet, and put them into a server's environment.

    To be called before MLflow is imported, which may be to make its first tables: it takes one of them then.
    """
    path = store_path(uri)
    if not uri.startswith(("sqlite", "postgresql", "mysql")):
        return {}  # a file store has neither webhooks nor gateway
    if path and is_served(path, destination):
        if not env.get(WEBHOOKS):
            say(f"WARNING: clients reach {path}, so no keys are kept: secrets of webhooks end with this job")
        return {}
    found: Keys = {}
    with suppress(OSError):  # a volume that cannot be read: whoever prepares the database says so
        found = read(uri)
    found = found or make(uri)
    env.update({name: value for name, value in found.items() if value and not env.get(name)})
    return found


def keep(env: MutableMapping[str, str], uri: str, settled: Keys) -> None:
    """Keep what has been settled, for a database that is ready; see what it opens there.

    Raises:
        Problem: another server has kept others in the meantime.
    """
    if not settled:
        return
    if not read(uri):
        write(uri, settled, replace=False)
    kept = read(uri)
    if kept != settled:
        raise Problem("another server has made the keys of this store at the same moment: run the same again")
    given = {**env} if env.get(GATEWAY) != kept.get(GATEWAY) else {**env, GATEWAY: ""}
    if not opening(uri, kept, given).get(GATEWAY) and not given.get(GATEWAY):
        env.pop(GATEWAY, None)
        say(
            f"gateway secrets are encrypted with a passphrase that all MLflows share; {GATEWAY} changes that,"
        )
        say("after `mlflow crypto rotate-kek`")
    hide_unreadable(uri, env)


def opening(uri: str, kept: Keys, env: MutableMapping[str, str]) -> Keys:
    """Return the keys of a store, with MLflow's constant for gateway secrets where that opens them.

    A database from elsewhere may bring secrets which the store's own passphrase does not open.
    """
    found = rows(uri, "SELECT wrapped_dek, kek_version FROM secrets LIMIT 1")
    if not found:
        return kept
    try:
        crypto: Any = importlib.import_module("mlflow.utils.crypto")
        constant, manager, unwrap = crypto.DEFAULT_KEK_PASSPHRASE, crypto.KEKManager, crypto.unwrap_dek
    except (ImportError, AttributeError) as error:
        say(f"gateway secrets are not looked into, MLflow's are not as they are known: {error!r}")
        return kept
    failed = importlib.import_module("mlflow.exceptions").MlflowException

    def opens(passphrase: str) -> bool:
        try:
            unwrap(bytes(found[0][0]), manager(passphrase, found[0][1]).get_kek())
        except failed:
            return False
        return True

    given = env.get(GATEWAY, "")
    if opens(given or kept.get(GATEWAY) or constant):
        return kept
    if kept.get(GATEWAY) and not given and opens(constant):
        kept = {**kept, GATEWAY: ""}
        write(uri, kept)
        return kept
    fix = f"set {GATEWAY} in envs to the one that they were made with"
    say(f"WARNING: no passphrase at hand opens the gateway secrets: {fix}")
    return kept


def is_served(path: Path, destination: str) -> bool:
    """Tell whether a file lies in the folder that artifacts are served from, so that clients reach it."""
    return Path(destination).resolve() in path.resolve().parents


def hide_unreadable(uri: str, env: MutableMapping[str, str]) -> None:
    """Leave webhooks out whose secret the keys of an environment do not decrypt: one such fails them all.

    They count as deleted, at a time that no other has, until the key is there again.
    """
    query = "SELECT webhook_id, name, secret, deleted_timestamp FROM webhooks WHERE secret IS NOT NULL"
    found = [row for row in rows(uri, query) if row[3] in (None, HIDDEN)]
    if not found:
        return
    fernet: Any = importlib.import_module("cryptography.fernet")
    lost, again = {}, {}
    for identifier, name, secret, deleted in found:
        try:
            fernet.Fernet(env.get(WEBHOOKS, "").encode()).decrypt(secret.encode())
            if deleted is not None:
                again[identifier] = name
        except (ValueError, fernet.InvalidToken):
            lost[identifier] = name
    change(uri, "UPDATE webhooks SET deleted_timestamp = NULL WHERE webhook_id = :value", again)
    change(uri, f"UPDATE webhooks SET deleted_timestamp = {HIDDEN} WHERE webhook_id = :value", lost)  # noqa: S608
    if again:
        say(f"there again, since their key is: the webhooks {named(again)}")
    if lost:
        fix = f"make them anew, or set {WEBHOOKS} in envs to the key that they were made with"
        say(f"WARNING: left out, since their secrets cannot be decrypted: the webhooks {named(lost)}; {fix}")


def named(webhooks: dict[str, str]) -> str:
    """Return some names of webhooks, by id, and how many more there are."""
    names = [f"{name} ({identifier})" for identifier, name in webhooks.items()]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def require_database(uri: str, destination: str) -> None:
    """Raise Problem where users' passwords would be kept in no database, or where clients reach it."""
    path = store_path(uri)
    if path and not uri.startswith("sqlite"):
        raise Problem(
            f"basic-auth keeps its users in a database, and {path} is a file store: set backend_store_uri"
        )
    if path and is_served(path, destination):
        raise Problem(
            f"basic-auth would protect nothing: clients reach {path}; `make mlflow-upgrade` moves it apart"
        )
