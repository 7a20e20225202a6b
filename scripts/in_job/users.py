"""Users of MLflow's own (`--app-name basic-auth`): where they are kept, and what MLflow has to be told of it.

On SQLite in a file beside the tracking database, in a database server in tables beside MLflow's others.
"""

from __future__ import annotations

import configparser
import importlib
import logging
import os
import re
import shlex
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from in_job.installed import package
from in_job.keys import require_database
from in_job.location import is_database, store_path
from in_job.queries import change, rows
from in_job.schema import is_current
from in_job.sqlite import copy_to, save_backup
from in_job.waiting import in_child
from in_job.words import Problem, say

CONFIG, PASSWORD = "MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD"
LOST = "sqlite:///basic_auth.db"
"""MLflow's default, a file in the job's own folder."""
REVISIONS = "server/auth/db/migrations/versions"
VERSION_TABLE = "alembic_version_auth"
SHORTEST = 12  # signs of a password (`_validate_password` in MLflow 3.17.2)


def has_users(env: MutableMapping[str, str]) -> bool:
    """Tell whether the server is to ask for names and passwords."""
    words = " ".join(shlex.split(env.get("MLFLOW_ACTION_EXTRA_PARAMS", "")))
    return re.search(r"--app-name[ =]basic-auth\b", words) is not None


def users_uri(uri: str) -> str:
    """Return the database of the users of the store at `uri`."""
    return re.sub(r"^([^?]*)", r"\1.users", uri) if store_path(uri) else uri


def users_revision(uri: str) -> str:
    """Return the revision of the users' tables in a database, "" where there are none."""
    return next((row[0] for row in rows(uri, f"SELECT version_num FROM {VERSION_TABLE}")), "")  # noqa: S608


def config(env: MutableMapping[str, str]) -> configparser.ConfigParser:
    """Return the user's own configuration of basic-auth, else MLflow's."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(env.get(CONFIG) or package("mlflow") / "server/auth/basic_auth.ini", encoding="utf-8")
    if "mlflow" not in parser:
        raise Problem(f"{CONFIG} is {env.get(CONFIG)}, which has no section of MLflow: mount the file there")
    return parser


def kept_with(env: MutableMapping[str, str], uri: str) -> str | None:
    """Return the users' database where it belongs to the store, None where there is none or another."""
    if not has_users(env) or not is_database(uri):
        return None
    own = config(env)["mlflow"].get("database_uri", LOST).replace("%%", "%") if env.get(CONFIG) else LOST
    return users_uri(uri) if own in (LOST, users_uri(uri)) else None


def prepare_users(env: MutableMapping[str, str], uri: str, destination: str) -> None:
    """Make ready for users: their database, and a configuration that names it and the first one's password.

    MLflow takes that only as long as there is no user.
    """
    if not has_users(env):
        return
    if not (package("mlflow") / "server/auth").exists() or package("flask_wtf") == Path():
        raise Problem("basic-auth needs MLflow with its extra `auth`: take an image that has it (…-full)")
    require_database(uri, destination)
    parser, kept = config(env), kept_with(env, uri)
    section = parser["mlflow"]
    if kept:
        section["database_uri"] = kept.replace("%", "%%")
        if kept.startswith("sqlite"):
            prepare_file(kept)
        elif kept.startswith("mysql") and not is_current(users_revision(kept), "the users", REVISIONS):
            in_child(upgrade_users, kept)
    else:
        say("the users are in a database of their own: backups do not have them")
    password = env.get(PASSWORD) or (env.get(CONFIG) and section.get("admin_password")) or ""
    if kept and not rows(kept, "SELECT id FROM users LIMIT 1"):
        hint = f'`apolo secret add mlflow-admin @FILE`, then "{PASSWORD}": "secret:mlflow-admin" in envs'
        if len(password) < SHORTEST:
            what = f"is shorter than {SHORTEST} signs" if password else "is missing"
            raise Problem(f"basic-auth: the first user's password {what}: {hint}")
    section.pop("admin_password", None)  # older ones had one for everybody
    if password:
        section["admin_password"] = password.replace("%", "%%")
    folder = Path(tempfile.mkdtemp(prefix="mlflow-users-"))  # in the job, and for its user only
    with (folder / "basic_auth.ini").open("w", encoding="utf-8") as file:
        parser.write(file)
    env[CONFIG] = str(folder / "basic_auth.ini")


def prepare_file(uri: str) -> None:
    """Make the users' file for its owner only, or keep a copy of one that the server is about to upgrade."""
    path = store_path(uri)
    assert path
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    revision = users_revision(uri)
    if not is_current(revision, path, REVISIONS) and rows(uri, "SELECT id FROM users LIMIT 1"):
        with tempfile.TemporaryDirectory(prefix="mlflow-users-") as folder:
            copy = Path(folder, "copy")
            copy_to(copy, uri)
            save_backup(copy, path, revision)


def drop_grants(env: MutableMapping[str, str], uri: str, experiments: list[str]) -> None:
    """Remove what users may do with experiments that are gone for good: new ones may get their ids."""
    if has_users(env) and kept_with(env, uri) is None:
        say("the permissions of what is removed stay: the users are in a database of their own")
        return
    users = users_uri(uri)
    if is_database(uri) and rows(users, "SELECT id FROM role_permissions LIMIT 1"):
        delete = "DELETE FROM role_permissions WHERE resource_"
        change(users, f"{delete}type = 'experiment' AND resource_pattern = :value", experiments)
        scorers = [f"{experiment}/%" for experiment in experiments]
        change(users, f"{delete}type = 'scorer' AND resource_pattern LIKE :value", scorers)


def upgrade_users(uri: str, revision: str = "head") -> None:
    """Create or upgrade the users' tables. Changes how everything logs, so it runs in a child.

    To MySQL the name of a foreign key is one of the database's, and MLflow gives one of them to two tables.
    """
    logging.disable(logging.CRITICAL)
    engine = importlib.import_module("mlflow.store.db.utils").create_sqlalchemy_engine(uri)
    alchemy = importlib.import_module("sqlalchemy")

    def rename(table: Any, _connection: Any, **_: object) -> None:
        for constraint in table.foreign_key_constraints:
            if constraint.name == "fk_user_id":
                constraint.name += f"_{table.name}"

    if uri.startswith("mysql"):
        alchemy.event.listen(alchemy.Table, "before_create", rename)
    importlib.import_module("mlflow.server.auth.db.utils").migrate(engine, revision)
