"""What of a backup a database server cannot hold as it is, found before anything is changed.

Databases differ in the signs that a text may have, in which keys are one to them, in how long a text and how
exact a number may be. The server is asked about each sign and key that is in doubt: it knows its collations.
"""

from __future__ import annotations

import importlib
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

from in_job.database_server import whole_charset
from in_job.sql import connect, refusals
from in_job.words import Problem, say

SHOWN = 10
COLUMNS = """
SELECT table_name, column_name, data_type, character_maximum_length, character_octet_length,
       character_set_name, collation_name
FROM information_schema.columns WHERE table_schema = {}
"""
KEYS = """
SELECT table_name, index_name, column_name FROM information_schema.statistics
WHERE table_schema = DATABASE() AND non_unique = 0 ORDER BY table_name, index_name, seq_in_index
"""
DIGITS = 6
"""Of MySQL's FLOAT, as it writes it."""
ANEW = {
    "mysql": "restore into a new database, made with CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin "
    "(in MySQL itself utf8mb4_0900_bin)",
    "postgresql": "restore into a new database, made with TEMPLATE template0 ENCODING 'UTF8'",
}
CHANGE = "change it in the store that the backup is of, and make another backup"


class Column(NamedTuple):
    """A column of the server's, as its information schema describes it."""

    kind: str
    length: int | None
    octets: int | None
    charset: str
    collation: str


Columns = Dict[str, Dict[str, Column]]
"""By table and name."""


class Fit:
    """What is in the SQLite file of a backup, compared with what the server's tables can hold."""

    def __init__(self, session: Any, database: sqlite3.Connection) -> None:
        self.session, self.database = session, database
        self.kind = session.dialect.name
        self.encoding = session.exec_driver_sql("SHOW server_encoding").scalar() if self.is_postgresql else ""
        self.found: dict[str, list[str]] = {}
        """What does not fit, by the way out."""
        self.rounded: dict[str, int] = {}
        self._known: dict[tuple[str, str], bool] = {}

    @property
    def is_postgresql(self) -> bool:
        """Tell it from MySQL."""
        return bool(self.kind == "postgresql")

    def columns(self) -> Columns:
        """Return the columns that both have."""
        schema = "current_schema()" if self.is_postgresql else "DATABASE()"
        here: Columns = {}
        for table, name, kind, length, octets, charset, collation in self.session.exec_driver_sql(
            COLUMNS.format(schema)
        ):
            column = Column(kind.lower(), length, octets, charset or self.encoding, collation or "")
            here.setdefault(table, {})[name] = column
        there = {
            name: {row[1] for row in self.database.execute(f'PRAGMA table_info("{name}")')}
            for (name,) in self.database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        return {
            table: {name: column for name, column in columns.items() if name in there[table]}
            for table, columns in here.items()
            if table in there
        }

    def rows(self, table: str, name: str, condition: str) -> Iterator[Tuple[str, Any]]:
        """Yield which row it is, in words, and the value of a column, where a condition holds."""
        info = self.database.execute(f'PRAGMA table_info("{table}")').fetchall()
        keys = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
        chosen = ", ".join(f'"{key}"' for key in [name, *keys])
        for value, *key in self.database.execute(f'SELECT {chosen} FROM "{table}" WHERE {condition}'):  # noqa: S608
            yield f"{name} in {table} of {described(dict(zip(keys, key)))}", value

    def check(self) -> None:
        """Look at everything."""
        columns = self.columns()
        for table, names in columns.items():
            for name, column in names.items():
                if column.length:
                    self.check_text(table, name, column)
                elif column.kind == "float":
                    query = f'SELECT count(*) FROM "{table}" WHERE CAST(printf(\'%.{DIGITS}g\', "{name}") AS REAL) <> "{name}"'  # noqa: S608, E501
                    number = self.database.execute(query).fetchone()[0]
                    if number:
                        self.rounded[f"{table}.{name}"] = number
        if not self.is_postgresql:
            self.check_keys(columns)

    def check_text(self, table: str, name: str, column: Column) -> None:
        """Look at the texts of a column."""
        if self.is_postgresql:
            for where, _ in self.rows(table, name, f"instr(CAST(\"{name}\" AS BLOB), x'00')"):
                self.add(CHANGE, f"{where} has a NUL in it, which PostgreSQL has in no text")
        measures = [(column.length, f'length("{name}")', "signs")]
        if column.octets and column.kind.endswith("text") and column.charset.lower().startswith("utf8"):
            measures.append((column.octets, f'length(CAST("{name}" AS BLOB))', "bytes"))
        for most, expression, unit in measures:
            for where, _ in self.rows(table, name, f"{expression} > {most}"):
                self.add(CHANGE, f"{where} is longer than {most:,} {unit}")
        if whole_charset(column.charset):
            return
        beyond = f"CAST(\"{name}\" AS TEXT) GLOB '*[^' || char(1) || '-' || char(127) || ']*'"
        for where, value in self.rows(table, name, beyond):
            lost = self.lost(column.charset, set(str(value)))
            if lost:
                self.add(
                    ANEW[self.kind],
                    f"{where} has {' '.join(sorted(lost)[:5])}, which {column.charset} has not",
                )

    def lost(self, charset: str, signs: set[str]) -> set[str]:
        """Return which signs a character set has not."""
        text = importlib.import_module("sqlalchemy").text
        for sign in signs:
            if (charset, sign) in self._known or sign.isascii():
                continue
            if self.is_postgresql:
                try:
                    self.session.execute(text("SELECT CAST(:sign AS TEXT)"), {"sign": sign})
                    there = True
                except refusals():
                    there = False
            else:
                query = text(f"SELECT HEX(CONVERT(CONVERT(:sign USING {charset}) USING utf8mb4))")
                answer = self.session.execute(query, {"sign": sign}).scalar()
                there = bytes.fromhex(answer or "") == sign.encode("utf-8", "surrogatepass")
            self._known[charset, sign] = there
        return {sign for sign in signs if not self._known.get((charset, sign), True)}

    def check_keys(self, columns: Columns) -> None:
        """Look for keys that differ, but are one to the collation of their column."""
        indexes: dict[tuple[str, str], list[str]] = {}
        for table, index, name in self.session.exec_driver_sql(KEYS):
            indexes.setdefault((table, index), []).append(name)
        for (table, _), names in indexes.items():
            there = columns.get(table, {})
            if not all(name in there for name in names):
                continue
            alike = {name: self.alike(table, name, there[name]) for name in names if there[name].length}
            alike = {name: same for name, same in alike.items() if same}
            if not alike:
                continue
            grouped = []
            for number, name in enumerate(names):
                same = alike.get(name, {})
                self.database.create_function(
                    f"same{number}", 1, lambda value, same=same: same.get(value, value)
                )
                grouped.append(f'same{number}("{name}")' if same else f'"{name}"')
            ends = ", ".join(f'min("{name}"), max("{name}")' for name in names)
            all_there = " AND ".join(f'"{name}" IS NOT NULL' for name in names)
            query = f'SELECT {ends} FROM "{table}" WHERE {all_there} GROUP BY {", ".join(grouped)} HAVING count(*) > 1'  # noqa: S608, E501
            for row in self.database.execute(query):
                first, last = dict(zip(names, row[::2])), dict(zip(names, row[1::2]))
                both = {
                    name: f"{first[name]!r} and {last[name]!r}" for name in names if first[name] != last[name]
                }
                words = described({**first, **both})
                collation = there[next(iter(alike))].collation
                self.add(ANEW[self.kind], f"a key of {table}, {words}, is one to {collation}")

    def alike(self, table: str, name: str, column: Column) -> dict[str, str]:
        """Return for values of a column that are one to its collation the same one of them."""
        groups: dict[str, list[str]] = {}
        for (value,) in self.database.execute(f'SELECT DISTINCT "{name}" FROM "{table}"'):  # noqa: S608
            if isinstance(value, str):
                groups.setdefault(folded(value), []).append(value)
        text = importlib.import_module("sqlalchemy").text
        side = f"CONVERT(:{{}} USING {column.charset}) COLLATE {column.collation}"
        query = text(f"SELECT {side.format('one')} = {side.format('other')}")
        same: dict[str, str] = {}
        for group in groups.values():
            kept = group[:1]
            for value in group[1:]:
                for one in kept:
                    if self.session.execute(query, {"one": one, "other": value}).scalar():
                        same[value] = one
                        break
                else:
                    kept.append(value)
        return same

    def add(self, way_out: str, what: str) -> None:
        """Keep what does not fit."""
        self.found.setdefault(way_out, []).append(what)


def described(key: dict[str, Any]) -> str:
    """Return a row's key in words."""
    texts = {name: str(value) for name, value in key.items()}
    return ", ".join(f"{name} {text[:80]}{'…' * (text[80:] != '')}" for name, text in texts.items())


def folded(value: str) -> str:
    """Return what values have in common that a collation may take for one."""
    bare = value.rstrip(" ")
    if bare.isascii():
        return bare.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", bare).casefold() if not unicodedata.combining(c))


def require_fit(uri: str, work: Path, *, quiet: bool) -> None:
    """Raise Problem where a database server cannot hold what a SQLite file has; say what it rounds.

    Tables that the server does not have yet are not looked at; `quiet` says nothing of what is rounded.
    """
    with connect(uri) as session, closing(sqlite3.connect(work)) as database:
        database.text_factory = lambda data: data.decode("utf-8", "replace")
        fit = Fit(session, database)
        fit.check()
    if fit.found:
        for found in fit.found.values():
            for what in found[1:SHOWN]:
                say(what)
        parts = [
            f"{found[0]}{f', and {len(found) - 1:,} more' if found[1:] else ''}: {way_out}"
            for way_out, found in fit.found.items()
        ]
        raise Problem(f"{fit.kind} cannot hold the backup, and nothing changed: {'; '.join(parts)}")
    if fit.rounded and not quiet:
        columns = ", ".join(f"{number:,} of {name}" for name, number in fit.rounded.items())
        say(f"WARNING: {fit.kind} keeps {DIGITS} digits of some numbers, so these are rounded: {columns}")
