"""From SQLite to PostgreSQL, to MySQL and back to SQLite; and what else lives in those databases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .harness import Database, StartServer
from .places import Place, Warm, content

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
        self.servers = {"postgresql": postgresql, "mysql": mariadb}
        self.places = {
            "sqlite": Place(warm, folder / "sqlite"),
            "postgresql": Place(warm, folder / "postgresql", postgresql.uri("mlflow_trip")),
            "mysql": Place(warm, folder / "mysql", mariadb.uri("mlflow_trip")),
            "back": Place(warm, folder / "back"),
        }
        shutil.copyfile(first, self.places["sqlite"].path)
        *stops, _ = self.places.values()
        for here, there in zip(stops, list(self.places.values())[1:], strict=True):
            self.move(here, there, here.backup())

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


def test_every_row_survives_the_round_trip(trip: Trip) -> None:
    before, after = content(trip.places["sqlite"].path), content(trip.places["back"].path)
    assert before.keys() == after.keys()
    assert all(before.values())
    for table in before:
        assert before[table] == after[table], table


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
    assert "removed the daily sums of traces" in server.log.read_text("utf-8")
