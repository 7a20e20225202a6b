"""Fills every table of an MLflow database in SQLite with rows that any of the databases has to take.

Runs in MLflow's environment; DATABASE is the file.
"""

import datetime
import os
from typing import Any

import mlflow.store.db.utils  # noqa: F401 - defines the tables
import sqlalchemy
from mlflow.store.db.base_sql_model import Base

TEXT = "ä 漢字 🚀 'quoted' \"double\" back\\slash %s :name\nline\ttab"
JSON = '{"z": 1, "a": [1.50, null, true, 12345678901234567890], "t": "🚀 \\u00e9", "s": "null"}'
NUMBERS = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 123456789.123456789, 0.0, 0.1]
"""Those of infinity and NaN, as MLflow writes them, are among them."""
BIG = 2**63 - 1
CHOICES = {
    "lifecycle_stage": ["active", "deleted"],
    "status": ["FINISHED", "FAILED"],
    "source_type": ["LOCAL", "UNKNOWN"],
}


def value(column: Any, row: int) -> Any:
    """Return the value of a column in the row of that number, from 0 on."""
    kind = column.type
    if column.foreign_keys:
        return None  # taken from the parent
    if column.name == "workspace" or (column.table.name == "workspaces" and column.primary_key and not row):
        return "default"
    if isinstance(kind, sqlalchemy.types.JSON):
        return [JSON, "null", None if column.nullable else "[]", '"text"', "17"][row % 5]
    if column.nullable and row % 3 == 2:
        return None
    if isinstance(kind, sqlalchemy.types.Boolean):
        return row % 2
    if isinstance(kind, sqlalchemy.types.Float):
        model = Base.metadata.tables[column.table.name].columns[column.name]
        exact = model.type.precision == 53  # MySQL keeps others with six digits
        return NUMBERS[row % len(NUMBERS)] if exact else row / 8
    if isinstance(kind, sqlalchemy.types.Date):
        return str(datetime.date(2026, 2, 26) + datetime.timedelta(row))
    if column.name == "id" and column.primary_key and isinstance(kind, sqlalchemy.types.Integer):
        return row + 1  # which the database counts on from
    if isinstance(kind, sqlalchemy.types.BigInteger):
        return BIG - row
    if isinstance(kind, sqlalchemy.types.Integer):
        return row
    if isinstance(kind, sqlalchemy.types.LargeBinary):
        return bytes(range(256)) + bytes([row])
    if column.name in CHOICES and isinstance(kind, sqlalchemy.types.String):
        return CHOICES[column.name][row % 2]
    text = f"{row} {TEXT}"
    if isinstance(kind, sqlalchemy.types.Text):
        return text + "x" * 20_000 * (row % 2)
    return text[: kind.length] + "x" * (
        (kind.length - len(text)) if not column.primary_key and row == 1 else 0
    )


def fill(database: Any, rows: int = 7) -> None:
    """Insert rows into every table, those that others refer to first."""
    metadata = sqlalchemy.MetaData()
    metadata.reflect(database)
    made: dict[str, list[dict[str, Any]]] = {}
    for table in metadata.sorted_tables:
        if table.name.startswith("alembic_version"):
            continue
        made[table.name] = []
        for row in range(rows):
            values = {c.name: value(c, row) for c in table.columns if c.computed is None}
            for constraint in table.foreign_key_constraints:
                parent = made[constraint.referred_table.name][row]
                for element in constraint.elements:
                    values[element.parent.name] = parent[element.column.name]
            if table.name == "experiments" and row == 0:
                values["name"] = "Default"
            made[table.name].append(values)
        names = [c.name for c in table.columns if c.computed is None]
        words = ", ".join(f'"{name}"' for name in names)
        places = ", ".join("?" for _ in names)
        rows_made = [tuple(values[name] for name in names) for values in made[table.name]]
        database.exec_driver_sql(f'DELETE FROM "{table.name}"')
        database.exec_driver_sql(f'INSERT INTO "{table.name}" ({words}) VALUES ({places})', rows_made)


if __name__ == "code":
    with sqlalchemy.create_engine(f"sqlite:///{os.environ['DATABASE']}").begin() as session:
        fill(session)
