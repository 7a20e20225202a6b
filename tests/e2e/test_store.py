"""mlflow-backup, -restore, -upgrade and -gc by their make targets, on the local platform."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import urllib.request
from contextlib import closing
from typing import IO, Any

import pytest

from local_platform import client
from tests.faults.harness import environment
from tests.in_job.conftest import mount, postgresql  # noqa: F401 - fixtures
from tests.in_job.harness import OLD_REVISION, Database, old_database, revision

from .conftest import Clone

pytestmark = pytest.mark.e2e
STORAGE = "storage://local/local/mlflow/mlflow"


class Store:
    """The store of a clone's server, as the machine sees it, and what a client does."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone
        self.volume = clone.state / "storage/mlflow"
        self.path, self.backups = self.volume / "mlflow.db", self.volume / "backups"
        self.url = ""

    def ask(self, path: str, **body: object) -> Any:
        """Return the answer of MLflow's API."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/{path}", data, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def log(self, name: str) -> str:
        """Make a run and return its id."""
        run = self.ask("runs/create", experiment_id="0", run_name=name, start_time=1)["run"]["info"]["run_id"]
        folder = self.volume / f"artifacts/0/{run}/artifacts"
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text(name)
        return str(run)

    @property
    def runs(self) -> list[str]:
        """The names of all runs, as the server tells them."""
        found = self.ask("runs/search", experiment_ids=["0"], run_view_type="ALL")["runs"]
        return sorted(run["info"]["run_name"] for run in found)

    def job(self) -> str:
        """Return the id of the server's job."""
        out, _ = self.clone.local("mlflow-status")
        return next(line for line in out.splitlines() if line.startswith("job"))


def read_until(lines: IO[str], text: str) -> None:
    """Read up to the line that holds a text."""
    found = next((line for line in lines if text in line), None)
    assert found, f"nothing was said of {text}"


@pytest.fixture(scope="module")
def store(served: Clone) -> Store:
    made = Store(served)
    made.url = served.up()
    made.log("first")
    return made


@pytest.fixture(scope="module")
def said(store: Store) -> tuple[str, str, str]:
    """What mlflow-status says before the first backup, and what that backup, `my runs.zip`, says."""
    before, _ = store.clone.local("mlflow-status")
    return before, *store.clone.local("mlflow-backup", "TO=my runs.zip", "MLFLOW_BACKUP_ARTIFACTS=yes")


@pytest.fixture(scope="module")
def backup(store: Store, said: tuple[str, str, str]) -> str:
    """The name of that backup on the volume; whoever has it leaves the store as it is in there."""
    return min(path.name for path in store.backups.glob("mlflow-*Z.zip"))


def test_a_backup_of_the_live_server(
    store: Store,
    said: tuple[str, str, str],
    mount: Any,  # noqa: F811
) -> None:
    clone = store.clone
    before, out, err = said
    assert "\nbackup    none yet\n" in before
    assert "\nbackup    the newest is " in clone.local("mlflow-status")[0]
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    name = lines["backup:"].split()[0]
    assert lines["holds"] == "1 experiment, 1 run"
    assert lines["with"] == "1 artifacts"
    assert lines["kept"] == f"as  {STORAGE}/backups/{name}"
    assert lines["copy"] == str(clone.path / "my runs.zip")
    assert lines["restore"] == f"make mlflow-restore MLFLOW_PLATFORM=local FROM={name}"
    assert (clone.path / "my runs.zip").read_bytes() == (store.backups / name).read_bytes()
    assert "Traceback" not in err
    small = mount("size=16k")
    for word, reason in (
        ("TO=my runs.zip", "which is there already"),
        ("TO=none/x.zip", "there is no folder"),
        ("MLFLOW_BACKUP_ARTIFACTS=maybe", "MLFLOW_BACKUP_ARTIFACTS is 'maybe'; write yes or no"),
        (f"TO={small}", "No space left on device; the backup is kept as storage://"),
    ):
        out, err = clone.local("mlflow-backup", word, code=1)
        assert reason in err
    assert list(small.iterdir()) == []
    assert store.runs == ["first"]


def test_a_restore_that_is_refused_leaves_the_server_alone(store: Store, backup: str) -> None:
    clone, name = store.clone, backup
    before = store.job()
    (clone.path / "text.zip").write_text("no backup")
    for words, reason in (
        ([], f"FROM is empty; name a file on this machine, or a backup in {STORAGE}/backups: {name}"),
        (["FROM=none.zip"], "FROM is none.zip, which is not there"),
        (["FROM=text.zip", "MLFLOW_FORCE=yes"], "is not a whole backup"),
        ([f"FROM={name}"], "holds 1 experiment, 1 run: MLFLOW_FORCE=yes replaces it"),
        ([f"FROM={name}", "MLFLOW_FORCE=maybe"], "MLFLOW_FORCE is 'maybe'; write yes or no"),
    ):
        _, err = clone.local("mlflow-restore", *words, code=1)
        assert err.count(reason) == 1
        assert "stopping the server" not in err
    chance = {"MLFLOW_BACKEND_STORE_URI": "sqlite:////mnt/mlflow/other.db", "MLFLOW_FORCE": "yes"}
    for target, word in (("mlflow-restore", f"FROM={name}"), ("mlflow-gc", "OLDER_THAN=0s")):
        _, err = clone.local(target, word, code=1, **chance)
        assert "other.db', and the running server has 'sqlite:////mnt/mlflow/mlflow.db'" in err
        assert "typed on the make command line it is taken" in err
    assert store.job() == before
    assert store.runs == ["first"]


@pytest.mark.usefixtures("backup")
def test_a_restore_stops_the_server_and_starts_it_again(store: Store) -> None:
    clone = store.clone
    old = store.log("second")
    out, err = clone.local("mlflow-restore", "FROM=my runs.zip", "MLFLOW_FORCE=yes")
    assert "stopping the server" in err
    assert "MLflow is up" in out
    store.url = clone.up()
    assert store.runs == ["first"]
    [kept] = [path.name for path in store.backups.glob("*-before-restore.zip")]
    assert f"{STORAGE}/backups/{kept} has what was there" in out
    assert (store.volume / f"artifacts/0/{old}/artifacts/notes.txt").exists()
    out, _ = clone.local("mlflow-upgrade")
    assert out.startswith("the store is up to date\nMLflow was running already")


def test_a_clean_up_shows_first(store: Store) -> None:
    clone = store.clone
    run = store.log("deleted")
    artifacts = store.volume / f"artifacts/0/{run}/artifacts"
    store.ask("runs/delete", run_id=run)
    out, _ = clone.local("mlflow-gc", "OLDER_THAN=1d")
    assert out == "nothing is in the state deleted for 1d or longer\n"
    out, err = clone.local("mlflow-gc")
    assert out.split()[:4] == ["run", run, "7", "bytes"]
    assert "deleted: 1 run, 7 bytes of artifacts" in out
    assert "add MLFLOW_FORCE=yes" in err
    assert artifacts.exists()
    _, err = clone.local("mlflow-gc", "OLDER_THAN=soon", code=1)
    assert "OLDER_THAN: 'soon' is not a duration" in err
    out, _ = clone.local("mlflow-gc", "MLFLOW_FORCE=yes")
    assert "removed for good: 1 run, 7 bytes of artifacts" in out
    assert not artifacts.exists()
    assert store.runs == ["first"]


def test_nothing_else_runs_meanwhile_and_an_interrupt_ends_it(store: Store, backup: str) -> None:
    clone, name = store.clone, backup
    clone.local("mlflow-down")
    before = store.path.read_bytes()
    with (store.volume / ".mlflow.db.store").open("w") as lock:  # the job waits for it
        fcntl.lockf(lock, fcntl.LOCK_EX)
        restore = subprocess.Popen(  # without make, which hides the exit code
            ["bash", "scripts/bootstrap.sh", "restore"],
            cwd=clone.path,
            env={**clone.env, "MLFLOW_PLATFORM": "local", "FROM": name, "MLFLOW_FORCE": "yes"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert restore.stderr
        read_until(restore.stderr, "waiting up to")
        jobs = [pid for pid in clone.processes() if environment(pid).get("MLFLOW_STORE_TASK")]
        for pid in jobs:  # else it waits for ten seconds only
            os.kill(pid, signal.SIGSTOP)
        _, err = clone.local("mlflow-up", code=1)
        assert "mlflow-restore is at work on the store (job job-" in err
        _, err = clone.local("mlflow-backup", code=1)
        assert "another backup, restore, upgrade or clean-up is at work (job " in err
        os.killpg(restore.pid, signal.SIGINT)
        read_until(restore.stderr, "stopping job job-")
        for pid in jobs:
            os.kill(pid, signal.SIGCONT)
        _, err = restore.communicate(timeout=60)
    assert restore.returncode == 130
    assert err.endswith("mlflow: interrupted\n")
    assert store.path.read_bytes() == before
    assert clone.processes() == []
    clone.local("mlflow-restore", f"FROM={name}", "MLFLOW_FORCE=yes")


def test_an_upgrade_of_a_volume_with_everything_in_one_folder(clone: Clone) -> None:
    """Its backups are kept apart, as everything on the volume is among the artifacts."""
    live = clone.path / ".neuro/live.yaml"
    text = live.read_text().replace("${{ volumes.mlflow.mount }}/artifacts", "${{ volumes.mlflow.mount }}")
    live.write_text("".join(line for line in text.splitlines(True) if "backend_store_uri" not in line))
    volume = clone.state / "storage/mlflow"
    old_database(volume / "mlflow.db")
    with closing(sqlite3.connect(volume / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1'")
        database.execute("UPDATE runs SET artifact_uri = 'mlflow-artifacts:/1/' || run_uuid || '/artifacts'")
        database.execute("UPDATE model_versions SET source = 'mlflow-artifacts:/1/x'")
    (volume / "1").mkdir()
    (volume / "1/file").write_text("kept")
    _, err = clone.local("mlflow-upgrade", "MLFLOW_EXTRA_PARAMS=--no-such-option", code=1)
    assert "No such option" in err
    assert "the server does not start on the upgraded store, so the store is again what it was" in err
    [last] = [line for line in err.splitlines() if line.startswith("mlflow: ")][-1:]
    assert "the server ended while starting (job job-" in last
    assert "'--no-such-option'" in last
    assert last.endswith("; no job is left; correct that and run the same again")
    assert revision(volume / "mlflow.db") == OLD_REVISION
    assert (volume / "1/file").exists()
    out, _ = clone.local("mlflow-upgrade")
    assert out.startswith("upgraded: the schema is ")
    assert "moved    the artifacts, away from the database into the folder artifacts" in out
    assert f"{STORAGE}-mlflow-backups/mlflow-" in out
    assert "MLflow is up" in out
    assert (volume / "artifacts/1/file").read_text() == "kept"
    assert len(list((clone.state / "storage/mlflow-mlflow-backups").glob("*-before-upgrade.zip"))) == 2


def test_from_sqlite_to_postgresql_by_a_secret(clone: Clone, postgresql: Database) -> None:  # noqa: F811
    postgresql.execute("CREATE DATABASE by_secret", "postgres")
    old_database(clone.path / "mlflow.db")
    uri = clone.home / "uri"
    uri.write_text(postgresql.uri("by_secret"))
    client.start(clone.state)
    apolo = [f"{clone.state}/bin/apolo", "secret", "add", "mlflow-db", f"@{uri}"]
    subprocess.run(apolo, env=clone.env, cwd=clone.path, check=True, capture_output=True)
    setting = "MLFLOW_BACKEND_STORE_URI=secret:mlflow-db"
    out, err = clone.local("mlflow-restore", "FROM=mlflow.db", setting)
    assert "holds    2 experiments, 2 runs, 6 metrics" in out
    assert postgresql.execute("SELECT count(*) FROM runs", "by_secret") == "2"
    again, more = clone.local("mlflow-backup", setting)
    assert "holds    2 experiments, 2 runs, 6 metrics" in again
    assert Database.ESCAPED not in out + err + again + more
