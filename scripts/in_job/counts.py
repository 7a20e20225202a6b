"""What a store holds, in numbers and in words."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Dict

MAIN_TABLES = {
    "experiments": "experiment",
    "runs": "run",
    "metrics": "metric",
    "registered_models": "registered model",
    "prompts": "prompt",
    "model_versions": "model version",
    "trace_info": "trace",
    "logged_models": "logged model",
    "evaluation_datasets": "dataset",
    "webhooks": "webhook",
    "secrets": "gateway secret",
}
"""The tables that people ask about, with a word for what a row of theirs is."""
PROMPTS = (
    "SELECT count(*) FROM registered_model_tags "
    "WHERE registered_model_tags.key = 'mlflow.prompt.is_prompt' AND lower(value) = 'true'"
)
"""Prompts are registered models with a tag."""
Counts = Dict[str, int]
"""Rows by table."""


def count(database: sqlite3.Connection) -> Counts:
    """Return the number of rows in each table of an MLflow database in SQLite."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    tables = [row[0] for row in database.execute(query) if row[0] != "alembic_version"]
    return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608


def prompts(database: sqlite3.Connection) -> int:
    """Return how many of the registered models in an MLflow database in SQLite are prompts."""
    with suppress(sqlite3.OperationalError):  # it is an older one, without tags
        return int(database.execute(PROMPTS).fetchone()[0])
    return 0


def in_words(counts: Counts, prompts: int = 0) -> str:
    """Return the counts that people ask about, as text; `prompts` are among the registered models."""
    counts = {**counts, "prompts": prompts, "registered_models": counts.get("registered_models", 0) - prompts}
    found = [(counts.get(table, 0), word) for table, word in MAIN_TABLES.items()]
    return ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in found if n) or "nothing"
