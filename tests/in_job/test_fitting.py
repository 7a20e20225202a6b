"""What a database server cannot hold is named before anything changes, with a place that can hold it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from .harness import Database
from .places import Place, Warm, content, look

pytestmark = pytest.mark.e2e
RUN = "a" * 32
ROWS = f"""
INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (0, 'Default', 'active');
INSERT INTO registered_models (name, workspace) VALUES ('m', 'default');
INSERT INTO runs (run_uuid, experiment_id, artifact_uri, user_id, start_time, status, lifecycle_stage)
  VALUES ('{RUN}', 0, 'mlflow-artifacts:/0/{RUN}/artifacts', '', 1, 'FINISHED', 'active');
"""
PARAM = f"INSERT INTO params (run_uuid, key, value) VALUES ('{RUN}', {{}})"
FLOATS = f"""
INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
  VALUES ('{RUN}', 'm', 12.345678901234567, 1, 0, 0);
INSERT INTO budget_policies (budget_policy_id, budget_unit, budget_amount, duration_unit, duration_value,
  target_scope, budget_action, created_at, last_updated_at, workspace)
  VALUES ('b', 'USD', 12.345678901234567, 'DAYS', 1, 'GLOBAL', 'ALERT', 1, 1, 'default'),
         ('c', 'USD', 12.5, 'DAYS', 1, 'GLOBAL', 'ALERT', 1, 1, 'default');
"""
MODEL = "INSERT INTO registered_models (name, workspace) VALUES ({}, 'default')"
TAG = PARAM.replace("params", "tags")
VERSION = "INSERT INTO model_versions (name, version, workspace, creation_time) VALUES "
KEEP_NONE = "DELETE FROM params; DELETE FROM tags; DELETE FROM registered_models WHERE name <> 'm';"
VERSION += f"('m', {2**40}, 'default', 1)"


class Case(NamedTuple):
    """Rows that a database made with `options` cannot hold, and the parts of what is said of them."""

    options: str
    alter: str
    rows: list[str]
    said: list[str]
    refused: str
    """A row that only the server itself refuses."""
    because: str


CASES = {
    "mariadb": Case(
        "CHARACTER SET latin1",
        "ALTER TABLE tags MODIFY value VARCHAR(8000) CHARACTER SET utf8mb3",
        [
            PARAM.format("'rocket', 'caf\u00e9 \U0001f680'"),
            PARAM.format("'fits', 'caf\u00e9 \u20ac'"),
            TAG.format("'rocket', '\u6f22 \U0001f680'"),
            TAG.format("'fits', '\u6f22'"),
            *(
                TAG.format(f"'{key}', 'x'")
                for key in ("Loss", "loss", "rate", "rate ", "\u00fcber", "\u00dcber")
            ),
            *(MODEL.format(f"'{name}'") for name in ("Model", "MODEL", "other")),
            PARAM.format(f"'{'k' * 251}', 'x'"),
        ],
        [
            "mysql cannot hold the backup, and nothing changed: ",
            f"value in params of key rocket, run_uuid {RUN} has \U0001f680, which latin1 has not",
            f"value in tags of key rocket, run_uuid {RUN} has \U0001f680, which utf8mb3 has not",
            f"a key of tags, key 'Loss' and 'loss', run_uuid {RUN}, is one to latin1_swedish_ci",
            "key 'rate' and 'rate '",
            "key '\u00dcber' and '\u00fcber'",
            "a key of registered_models, workspace default, name 'MODEL' and 'Model', is one to",
            f"key in params of key {'k' * 80}…, run_uuid {RUN} is longer than 250 signs",
            "restore into a new database, made with CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
            "change it in the store that the backup is of",
        ],
        VERSION,
        "mysql does not take the row of model_versions with workspace 'default', name 'm', version 1099",
    ),
    "postgresql": Case(
        "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
        "SELECT 1",
        [
            PARAM.format("'rocket', 'caf\u00e9 \U0001f680'"),
            PARAM.format("'nul', 'a' || char(0) || 'b'"),
            PARAM.format("'fits', 'caf\u00e9'"),
            *(PARAM.format(f"'{key}', 'x'") for key in ("Loss", "loss", "loss ")),
        ],
        [
            "postgresql cannot hold the backup, and nothing changed: ",
            f"value in params of key rocket, run_uuid {RUN} has \U0001f680, which LATIN1 has not: ",
            "restore into a new database, made with TEMPLATE template0 ENCODING 'UTF8'",
            f"value in params of key nul, run_uuid {RUN} has a NUL in it, which PostgreSQL has in no text: ",
            "change it in the store",
        ],
        VERSION,
        "postgresql does not take the row of model_versions with workspace 'default', name 'm', version 1099",
    ),
}


def database(server: Database, name: str, options: str, folder: Path, warm: Warm) -> Place:
    """Make an empty database in a server, and a place for it."""
    server.execute(
        f"CREATE DATABASE {name} {options}", *(["postgres"] if server.scheme == "postgresql" else [])
    )
    made = Place(warm, folder, server.uri(name))
    made.backups.mkdir()
    return made


@pytest.mark.parametrize("kind", CASES)
def test_what_does_not_fit_is_named_and_nothing_changes(
    kind: str, warm: Warm, tmp_path: Path, template: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[kind]
    server: Database = request.getfixturevalue(kind)
    source = Place(warm, tmp_path / "source")
    shutil.copyfile(template, source.path)
    with closing(sqlite3.connect(source.path)) as opened:
        opened.executescript(ROWS)
    fits = source.backup()
    for row in case.rows:
        source.query(row)
    made = source.backup()
    with closing(sqlite3.connect(source.path)) as opened:
        opened.executescript(f"{KEEP_NONE} {case.refused}")
    refused = source.backup()
    store = database(server, "mlflow_narrow", case.options, tmp_path / "there", warm)
    for backup in (fits, made, refused):
        shutil.copy(source.backups / backup, store.backups)
    first = store.start("restore", source=fits, force=False, check=False)
    assert first.wait() == 0, first.said
    charset = case.options.split()[-1] if kind == "mariadb" else "LATIN1"
    assert f"keeps texts in {charset}, which has not every sign" in first.said
    server.execute(case.alter, "mlflow_narrow")
    before = look(store)
    for check in (True, False):
        job = store.start("restore", source=made, force=True, check=check)
        assert job.wait() == 1, job.said
        said = " ".join(job.said.split())
        assert [what for what in case.said if what not in said] == [], said
        assert "fits" not in said
        assert job.result["error"].startswith(case.said[0])
    assert list(store.backups.glob("*before-restore*")) == []
    assert case.because in store.refused("restore", source=refused, force=True, check=False)
    assert look(store) == before


def test_where_it_says_everything_fits(warm: Warm, tmp_path: Path, template: Path, mariadb: Database) -> None:
    source = Place(warm, tmp_path / "source")
    shutil.copyfile(template, source.path)
    with closing(sqlite3.connect(source.path)) as opened:
        opened.executescript(ROWS)
    for row in CASES["mariadb"].rows[:-1]:
        source.query(row)
    with closing(sqlite3.connect(source.path)) as opened:
        opened.executescript(FLOATS)
    made = source.backup()
    options = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
    store = database(mariadb, "mlflow_fit_all", options, tmp_path / "there", warm)
    shutil.copy(source.backups / made, store.backups)
    job = store.start("restore", source=made, force=False, check=False)
    assert job.wait() == 0, job.said
    assert (
        "mysql keeps 6 digits of some numbers, so these are rounded: 1 of budget_policies.budget_amount"
        in " ".join(job.said.split())
    )
    back = Place(warm, tmp_path / "back")
    back.backups.mkdir()
    again = store.backup()
    shutil.copy(store.backups / again, back.backups)
    back.restore(again)
    before, after = content(source.path), content(back.path)
    before["budget_policies"] = [
        row.replace("12.345678901234567", "12.3457") for row in before["budget_policies"]
    ]
    assert {table: rows for table, rows in after.items() if rows != before[table]} == {}
