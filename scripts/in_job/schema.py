"""The schema of MLflow's tables: which one a database has, and changing it to another."""

from __future__ import annotations

import gc
import importlib
import logging
import re

from in_job.installed import package
from in_job.waiting import FORKS, in_child
from in_job.words import Problem

SCHEMA_QUERY = "SELECT max(version_num) FROM alembic_version"
UPGRADE_WAIT = 600.0  # seconds


def is_current(revision: str | None, where: object, scripts: str = "store/db_migrations/versions") -> bool:
    """Tell whether a schema is the installed MLflow's newest; Problem when only a newer MLflow knows it."""
    known: set[str] = set()
    parents: set[str] = set()
    for script in package("mlflow").glob(f"{scripts}/*.py"):
        for down, value in re.findall(r"^(down_)?revision\b[^=\n]*=(.*)$", script.read_text("utf-8"), re.M):
            (parents if down else known).update(re.findall(r"\w{6,}", value))
    if revision and revision not in known:
        raise Problem(f"{where} has the schema {revision} of a newer MLflow; nothing changed: use its image")
    return revision in known - parents


def run_upgrade(uri: str, fresh: bool) -> None:
    """Create or upgrade MLflow's tables, in a child; the server will share what is imported for it."""
    if FORKS:
        importlib.import_module("mlflow.store.db.utils")
    in_child(upgrade_schema, uri, fresh)


def upgrade_schema(uri: str, fresh: bool) -> None:
    """Create or upgrade MLflow's tables. Changes how everything logs, so it runs in a child."""
    if not fresh:
        gc.enable()  # a large store makes garbage while it is changed
    logging.disable(logging.CRITICAL)  # a line for each of sixty migrations
    utils = importlib.import_module("mlflow.store.db.utils")
    engine = utils.create_sqlalchemy_engine(uri)
    (utils._initialize_tables if fresh else utils._upgrade_db)(engine)


def create_schema(uri: str, revision: str) -> None:
    """Make MLflow's tables as they were at a revision. Imports MLflow, so it runs in a child."""
    logging.disable(logging.CRITICAL)
    utils = importlib.import_module("mlflow.store.db.utils")
    command = importlib.import_module("alembic.command")
    engine = utils.create_sqlalchemy_engine(uri)
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
