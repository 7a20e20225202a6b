"""The rows of MLflow's tables, from one database to another."""

from __future__ import annotations

import importlib
import json
from typing import Any

from in_job.counts import Counts
from in_job.sql import refusals
from in_job.words import Problem, Progress

BATCH = 2000  # rows


def known_tables() -> list[str]:
    """Return the names of MLflow's tables: a database may have others, which are not ours to touch."""
    importlib.import_module("mlflow.store.db.utils")
    return list(importlib.import_module("mlflow.store.db.base_sql_model").Base.metadata.tables)


def reflect(session: Any, names: list[str]) -> dict[str, Any]:
    """Return the tables `names` of a database, in the order in which their foreign keys can be met.

    JSON is taken as the text that it is: NULL and JSON's null are two. Floats stay such: MySQL's would become
    decimals with ten digits.
    """
    alchemy = importlib.import_module("sqlalchemy")
    types, strict = alchemy.types, session.dialect.name == "postgresql"
    metadata = alchemy.MetaData()
    metadata.reflect(session, only=names)

    class JSONText(types.TypeDecorator):  # type: ignore[misc, name-defined]
        impl, cache_ok = types.Text, True

        def bind_expression(self, value: Any) -> Any:
            return alchemy.cast(value, types.JSON) if strict else value

        def column_expression(self, column: Any) -> Any:
            return alchemy.cast(column, types.Text) if strict else column

    for table in metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, types.JSON):
                column.type = JSONText()
            elif hasattr(column.type, "asdecimal"):
                column.type.asdecimal = False
    return {table.name: table for table in metadata.sorted_tables if table.name in names}


def convert(value: Any, column: Any) -> Any:
    """Return a value as a column of another database wants it: they differ in truth values and JSON."""
    types = importlib.import_module("sqlalchemy").types
    if isinstance(column.type, types.Boolean):
        return None if value is None else bool(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)) and isinstance(column.type, (types.Text, types.TypeDecorator)):
        return json.dumps(value)  # SQLite keeps a number in JSON as one
    return value


def insert(target: Any, table: Any, values: list[dict[str, Any]]) -> None:
    """Insert rows in a transaction; where the database takes them not, Problem names the first such row."""
    if target.dialect.name == "sqlite":
        target.execute(table.insert(), values)
        return
    try:
        with target.begin_nested():
            target.execute(table.insert(), values)
    except refusals() as refused:
        for row in values:
            try:
                with target.begin_nested():
                    target.execute(table.insert(), [row])
            except refusals() as error:  # its own text has the rows in it
                key = ", ".join(f"{column.name} {row[column.name]!r}" for column in table.primary_key)
                reason = getattr(error, "orig", error)
                raise Problem(
                    f"{target.dialect.name} does not take the row of {table.name} with {key}: {reason}"
                ) from None
        raise Problem(f"{target.dialect.name} does not take the rows of {table.name}: {refused}") from None


def copy_tables(source: Any, target: Any, names: list[str]) -> Counts:
    """Replace the rows of the tables `names` in one database by another's; return how many there are now.

    Both connections are in a transaction; the schemas are of one revision. Columns that the database computes
    itself are left to it.
    """
    alchemy = importlib.import_module("sqlalchemy")
    there, here = reflect(source, names), reflect(target, names)
    kind = target.dialect.name
    if kind == "mysql":  # an id of 0, which the first experiment has, else means "the next one"
        modes = ",NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES"  # the latter refuses what it would change else
        target.exec_driver_sql(f"SET SESSION sql_mode = CONCAT(@@sql_mode, '{modes}')")
        target.exec_driver_sql("SET SESSION foreign_key_checks = 0")
    for table in reversed(list(here.values())):
        target.execute(table.delete())
    copied: Counts = {}
    for name, table in here.items():
        columns = [c for c in table.columns if c.computed is None and c.name in there[name].columns]
        query = alchemy.select(*(there[name].columns[c.name] for c in columns))
        progress, copied[name] = Progress(f"copied rows of {name}"), 0
        for rows in source.execution_options(stream_results=True).execute(query).partitions(BATCH):
            values = [{c.name: convert(v, c) for c, v in zip(columns, row)} for row in rows]
            insert(target, table, values)
            copied[name] += len(values)
            progress(len(values))
        counter = table.autoincrement_column
        if kind == "postgresql" and counter is not None and copied[name]:
            sequence, last = f"pg_get_serial_sequence('{name}', '{counter.name}')", f"max({counter.name})"
            query = f"SELECT setval({sequence}, greatest({last}, 1), {last} > 0) FROM {name}"  # noqa: S608
            target.exec_driver_sql(query)
    return copied
