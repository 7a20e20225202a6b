"""Every table that MLflow has, in each kind of database: backup, restore, upgrade, clean-up, and new rows."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from .harness import Database, StartServer
from .places import OLD_SCHEMA, Place, Warm, content

pytestmark = pytest.mark.e2e
WRITE = """
import mlflow, os
from in_job import location
uri = location.sql_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
client = mlflow.MlflowClient(uri, uri)
experiment = client.create_experiment("made afterwards")
run = client.create_run(experiment)
client.log_metric(run.info.run_id, "m", 0.1 + 0.2)
print(experiment, client.get_run(run.info.run_id).data.metrics)
"""


INSERT = """
import datetime, os, sqlalchemy
import mlflow.store.db.utils
from in_job import location, sql, users
from mlflow.server.auth.db.models import Base as Users
from mlflow.store.db.base_sql_model import Base
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
uri = uri if uri.startswith("sqlite") else location.sql_uri(uri)
for base, where in ((Base, uri), (Users, users.users_uri(uri))):
    counted = [t for t in base.metadata.sorted_tables if t.autoincrement_column is not None]
    with sql.transaction(where, "SERIALIZABLE") as session:
        metadata = sqlalchemy.MetaData()
        there = sql.table_names(session)
        counted = [table for table in counted if table.name in there]
        metadata.reflect(session, only=[table.name for table in counted])
        for model in counted:
            table, counter = metadata.tables[model.name], model.autoincrement_column.name
            last = session.execute(table.select().order_by(table.c[counter].desc())).mappings().first()
            row = {name: value for name, value in last.items() if name != counter}
            unique = [i.columns for i in table.indexes if i.unique]
            unique += [c.columns for c in table.constraints if isinstance(c, sqlalchemy.UniqueConstraint)]
            for column in {c.name: c for columns in unique for c in columns}.values():
                if column.name == counter:
                    continue
                if column.foreign_keys:
                    if all(other.foreign_keys for other in unique[0]):  # another pair
                        row[column.name] = session.execute(sqlalchemy.func.min(column).select()).scalar()
                        break
                elif isinstance(column.type, sqlalchemy.String):
                    row[column.name] = "new"
                elif isinstance(row[column.name], datetime.date):
                    row[column.name] += datetime.timedelta(1000)
            made = session.execute(table.insert(), row).inserted_primary_key[0]
            assert made > last[counter], (table.name, made, last)
            print(table.name, made - last[counter])
"""
UNFILLED = """
import os
from in_job import sql, tables, users
from mlflow.server.auth.db.models import Base
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
for where, names in ((uri, tables.known_tables()), (users.users_uri(uri), list(Base.metadata.tables))):
    with sql.connect(where) as session:
        there = sql.table_names(session)
        for name in names:
            if name not in there or not session.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar():
                print(name)
"""
COUNTED = {"experiments", "users", "roles", "role_permissions", "user_role_assignments"}
"""Some of the tables whose ids a database counts itself."""
OTHERS = ("sqlite_sequence", "alembic_version")
USERS = """
import os
from in_job import users, waiting
waiting.in_child(users.upgrade_users, "sqlite:///" + os.environ["DATABASE"])
"""


OLDER = """
import os
from alembic.script import ScriptDirectory
from in_job import schema, waiting
import mlflow.store.db.utils as utils
uri = "sqlite:///" + os.environ["DATABASE"]
revision = ScriptDirectory.from_config(utils._get_alembic_config(uri)).get_revision("head").down_revision
waiting.in_child(schema.create_schema, uri, revision)
print(revision)
"""
UNGUARD = """
import os
from in_job import location, queries
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
uri = uri if uri.startswith("sqlite") else location.sql_uri(uri)
queries.change(uri, "DELETE FROM guardrail_configs", [""])
queries.change(uri, "DELETE FROM guardrails", [""])
"""
ROWS = """
import json, os
from in_job.store import Store
print(json.dumps(Store(dict(os.environ)).counts()))
"""
NUMBERS = itertools.count()


def numbers(place: Place) -> dict[str, int]:
    """Return how many rows each of MLflow's tables has."""
    found: dict[str, int] = json.loads(place.warm.python(ROWS, **place.env).splitlines()[-1])
    return found


def made(place: Place) -> set[str]:
    """Insert a row into each table that counts its ids; return their names."""
    said = dict(line.split() for line in place.warm.python(INSERT, **place.env).splitlines())
    assert set(said.values()) <= {"1"}
    return set(said)


class Trip:
    """A store in each kind of database, restored from a backup of the one before."""

    def __init__(
        self, warm: Warm, folder: Path, first: Path, postgresql: Database, mariadb: Database
    ) -> None:
        for database in (postgresql, mariadb):
            extra = " CHARACTER SET utf8mb4" if database is mariadb else ""
            database.execute(f"CREATE DATABASE mlflow_trip{extra}", *([] if extra else ["postgres"]))
            database.execute("CREATE TABLE others (id int primary key)", "mlflow_trip")
            database.execute("INSERT INTO others VALUES (7)", "mlflow_trip")
        self.warm = warm
        self.servers = {"postgresql": postgresql, "mysql": mariadb}
        self.places = {
            "sqlite": Place(warm, folder / "sqlite"),
            "postgresql": Place(warm, folder / "postgresql", postgresql.uri("mlflow_trip")),
            "mysql": Place(warm, folder / "mysql", mariadb.uri("mlflow_trip")),
            "back": Place(warm, folder / "back"),
        }
        start = self.places["sqlite"]
        shutil.copyfile(first, start.path)
        users = str(start.path) + ".users"
        warm.python(USERS, DATABASE=users)
        warm.python(Path(__file__).with_name("filling.py").read_text("utf-8"), DATABASE=users)
        keys = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "of the first"}
        start.path.with_name(".mlflow.db.keys").write_text(json.dumps(keys))
        *stops, _ = self.places.values()
        for here, there in zip(stops, list(self.places.values())[1:], strict=True):
            self.move(here, there, here.backup())

    def new(self, kind: str, folder: Path) -> Place:
        """Return a store of a kind with nothing in it."""
        if kind == "sqlite":
            return Place(self.warm, folder)
        server, name = self.servers[kind], f"mlflow_trip_{next(NUMBERS)}"
        extra = (" CHARACTER SET utf8mb4",) if kind == "mysql" else ("", "postgres")
        server.execute(f"CREATE DATABASE {name}{extra[0]}", *extra[1:])
        return Place(self.warm, folder, server.uri(name))

    def copy(self, kind: str, folder: Path) -> Place:
        """Return another store of a kind, with all that the first one holds."""
        first, made = self.places["sqlite"], self.new(kind, folder)
        self.move(first, made, next(first.backups.glob("*.zip")).name)
        return made

    def move(self, here: Place, there: Place, name: str, *, force: bool = False) -> None:
        """Restore the backup of one store into another."""
        there.backups.mkdir(exist_ok=True)
        shutil.copy(here.backups / name, there.backups)
        there.restore(name, force=force)


@pytest.fixture(scope="module")
def trip(
    warm: Warm,
    filled: Path,
    postgresql: Database,
    mariadb: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trip:
    return Trip(warm, tmp_path_factory.mktemp("trip"), filled, postgresql, mariadb)


def test_every_table_of_mlflow_is_filled(trip: Trip) -> None:
    """A newer MLflow may have one that `filling.py` cannot fill."""
    first = trip.places["sqlite"]
    assert first.warm.python(UNFILLED, **first.env) == ""


def test_every_row_survives_the_round_trip(trip: Trip) -> None:
    first, last = trip.places["sqlite"].path, trip.places["back"].path
    for name in ("mlflow.db", "mlflow.db.users"):
        before, after = content(first.with_name(name)), content(last.with_name(name))
        assert before.keys() == after.keys()
        assert all(rows for table, rows in before.items() if name == "mlflow.db" or table in COUNTED)
        for table in before:
            assert before[table] == after[table], table
    keys = [path.with_name(".mlflow.db.keys").read_text() for path in (first, last)]
    assert keys[0] == keys[1]


def test_a_clean_up_is_the_same_everywhere_and_new_rows_can_be_made_after_it(
    trip: Trip, tmp_path: Path
) -> None:
    found = []
    for kind in ("sqlite", "postgresql", "mysql"):
        copy = trip.copy(kind, tmp_path / kind)
        before = numbers(copy)
        refused = copy.run("gc", older_than=0, force=True)
        assert numbers(copy) == before
        copy.warm.python(UNGUARD, **copy.env)
        done = copy.run("gc", older_than=0, force=True)
        assert done["refused"] == []
        removed = sorted(item["id"] for item in done["found"])
        found.append((refused["refused"], done["totals"], removed, numbers(copy)))
        assert made(copy) >= COUNTED
    assert [line[:32] for line in found[0][0]] == [f"the deleted experiment {n} stays: " for n in (1, 3)]
    assert found[0][1] == {"run": 2, "model": 0, "experiment": 2, "bytes": 0}
    assert found[1:] == [found[0]] * 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_an_upgrade_keeps_every_row_and_new_ones_can_be_made_after_it(
    kind: str, trip: Trip, tmp_path: Path
) -> None:
    start = trip.places["sqlite"]
    older = tmp_path / "older.db"
    revision = start.warm.python(OLDER, DATABASE=str(older)).split()[-1]
    start.warm.python(Path(__file__).with_name("filling.py").read_text("utf-8"), DATABASE=str(older))
    before = {
        table: len(rows)
        for table, rows in content(older).items()
        if not table.startswith(("sqlite", "alembic"))
    }
    store = trip.new(kind, tmp_path / kind)
    if kind == "sqlite":
        shutil.copyfile(older, store.path)
    else:
        store.warm.python(OLD_SCHEMA, **store.env, OLD=str(older), REVISION=revision)
    assert store.run("upgrade", check=True)["needed"]
    store.run("upgrade", check=False)
    assert {table: number for table, number in numbers(store).items() if table in before} == before
    assert "experiments" in made(store)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_mlflow_goes_on_counting_after_a_restore(kind: str, trip: Trip) -> None:
    place = trip.places[kind]
    assert place.warm.python(WRITE, **place.env) == "7 {'m': 0.30000000000000004}\n"
    assert "MLFLOW_FORCE=yes replaces it" in place.refused(
        "restore", source=next(place.backups.glob("*.zip")).name, force=False, check=False
    )
    first = trip.places["sqlite"]
    trip.move(first, place, next(first.backups.glob("*.zip")).name, force=True)
    assert place.warm.python(WRITE, **place.env).startswith("7 " if kind == "postgresql" else "8 ")
    assert trip.servers[kind].execute("SELECT id FROM others", "mlflow_trip") == "7"
    assert len(list(place.backups.glob("*-before-restore.zip"))) == 1


def test_a_server_serves_what_was_restored(trip: Trip, start_for_module: StartServer) -> None:
    place = trip.places["postgresql"]
    server = start_for_module(place.destination, MLFLOW_BACKEND_STORE_URI=place.uri).wait_until_up()
    runs = server.ask("POST", "/runs/search", {"experiment_ids": ["0"], "run_view_type": "ALL"})["runs"]
    assert "🚀" in runs[0]["data"]["params"][0]["value"]
    assert server.ask("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    said = server.log.read_text("utf-8")
    assert "removed the daily sums of traces" in said
    assert "scorers are set to score traces as they come, and nobody runs them" in said
    assert '"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true" in envs does' in said
