"""kill -9 and full disks during backups, restores, upgrades and clean-ups: the old store or the new one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.in_job.conftest import (  # noqa: F401 - fixtures
    MakePlace,
    filled,
    mariadb,
    place,
    warm,
)
from tests.in_job.harness import Database, old_database
from tests.in_job.places import Place, look, old_place, query, tree

from .conftest import Fault, MakeFault

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("store")]
State = dict[str, Any]


def fill(store: Place, database: Path, text: bytes) -> None:
    """Make a store the copy of a database, with artifacts."""
    for folder in (store.folder, store.backups):
        folder.mkdir(exist_ok=True)
    for file in [*store.folder.glob("mlflow.db*"), *store.backups.iterdir()]:
        file.unlink()
    shutil.rmtree(store.folder / "artifacts", ignore_errors=True)
    shutil.copyfile(database, store.path)
    for number in range(30):
        path = store.folder / f"artifacts/0/{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text * 10_000)


def kill(store: Place, fault: Fault, seconds: float, task: str, **options: Any) -> float:
    """Start a task and kill it within `seconds`; return how long it ran."""
    job, began = store.start(task, **options), time.monotonic()
    end = began + fault.random.uniform(0, seconds)
    while time.monotonic() < end and job.code is None:
        time.sleep(0.001)
    job.signal()
    assert job.wait() in (0, -9), job.said
    return time.monotonic() - began


def duration(store: Place, task: str, **options: Any) -> float:
    """Return how long a task takes."""
    began = time.monotonic()
    store.run(task, **options)
    return time.monotonic() - began


def check_backups(store: Place) -> None:
    """Every file with a backup's name is a whole one, and nothing else lies there."""
    for path in store.backups.iterdir():
        if path.name.startswith(".mlflow-result-"):  # of a task that was killed before anybody read it
            json.loads(path.read_text("utf-8"))
            continue
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert set(json.loads(archive.read("manifest.json"))["sha256"]) < set(archive.namelist())


def test_a_backup_is_killed(place: MakePlace, filled: Path, fault: MakeFault) -> None:  # noqa: F811
    store = place()
    fill(store, filled, b"x")
    before = look(store), tree(store.folder / "artifacts")
    with fault("kill -9 during backup, with artifacts") as row:
        seconds, whole = duration(store, "backup", artifacts=True), 0
        for _ in row.tries(short=2):
            count = len(list(store.backups.glob("*.zip")))
            kill(store, row, seconds * 1.2, "backup", artifacts=True)
            whole += len(list(store.backups.glob("*.zip"))) > count
            assert (look(store), tree(store.folder / "artifacts")) == before
            store.backup()
            check_backups(store)
        row.ended = f"{whole} whole backups, else none; the store as it was; the next call made one"


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_a_restore_is_killed(
    kind: str,
    place: MakePlace,  # noqa: F811
    filled: Path,  # noqa: F811
    fault: MakeFault,
    request: pytest.FixtureRequest,
) -> None:
    source = place("source")
    fill(source, filled, b"new")
    new = source.backups / source.backup(artifacts=True)
    store = place()
    if kind == "PostgreSQL":
        server: Database = request.getfixturevalue("postgresql")
        server.execute("CREATE DATABASE restore_killed", "postgres")
        store = place(uri=server.uri("restore_killed"))
    fill(store, filled, b"old")
    query(store.path, "UPDATE runs SET name = 'old'")
    shutil.copy(new, store.backups / "new.zip")
    if kind == "PostgreSQL":  # what it is to begin with
        first = place("first")
        shutil.copyfile(store.path, first.path)
        shutil.copy(first.backups / first.backup(), store.backups / "old.zip")
        store.restore("old.zip")
    else:
        shutil.copy(store.backups / store.backup(artifacts=True), store.backups / "old.zip")

    def state() -> tuple[object, dict[str, bytes]]:
        return look(store), tree(store.folder / "artifacts")

    with fault(f"kill -9 during restore, with artifacts, {kind}") as row:
        old, seconds = state(), duration(store, "restore", source="new.zip", force=True, check=False)
        fresh, ends = state(), {"old": 0, "new": 0}
        assert old != fresh
        for number in row.tries(short=2):
            shutil.rmtree(store.folder / "artifacts")
            shutil.copytree(source.folder / "artifacts", store.folder / "artifacts")
            for path in (store.folder / "artifacts").rglob("*"):
                if path.is_file():
                    path.write_bytes(b"old" * 10_000)
            store.restore("old.zip", force=True)
            assert state() == old
            kill(store, row, seconds * 1.2, "restore", source="new.zip", force=True, check=False)
            assert look(store) in (old[0], fresh[0])
            if number % 2:  # the same call, or another one, finishes
                store.restore("new.zip", force=True)
                assert state() == fresh
            else:
                store.backup()
            assert state() in (old, fresh)
            ends["old" if state() == old else "new"] += 1
        row.ended = "{old} old, {new} new, after the next call".format(**ends)


def test_an_upgrade_is_killed(place: MakePlace, fault: MakeFault) -> None:  # noqa: F811
    """In SQLite, with artifacts beside the database, which are moved."""
    store = place()
    store.env["MLFLOW_ARTIFACTS_DESTINATION"] = str(store.folder)

    def reset() -> None:
        shutil.rmtree(store.folder)
        old_database(store.path)
        query(store.path, "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1'")
        query(store.path, "UPDATE runs SET artifact_uri = 'mlflow-artifacts:/1/' || run_uuid")
        query(store.path, "UPDATE model_versions SET source = 'mlflow-artifacts:/1/x'")
        for number in range(20):
            (store.folder / f"{number}").mkdir()
            (store.folder / f"{number}/file").write_bytes(b"x")

    with fault("kill -9 during upgrade of 2.1.1, with a move of artifacts, SQLite") as row:
        reset()
        old, seconds = look(store), duration(store, "upgrade", check=False)
        new, ends = look(store), {"old": 0, "new": 0}
        for _ in row.tries():
            reset()
            kill(store, row, seconds, "upgrade", check=False)
            ends["old" if look(store) == old else "new"] += 1
            assert look(store) in (old, new)
            store.backup(artifacts=True)
            files = [path for path in tree(store.folder) if path.endswith("/file")]
            assert len(files) == 20
            assert len({path.startswith("artifacts/") for path in files}) == 1
            store.run("upgrade", check=False)
            assert look(store) == new
            assert (store.folder / "artifacts/19/file").exists()
        row.ended = "{old} old, {new} new; the next call finished".format(**ends)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_upgrade_of_a_database_server_is_killed(
    kind: str,
    warm: Any,  # noqa: F811
    tmp_path: Path,
    fault: MakeFault,
    request: pytest.FixtureRequest,
) -> None:
    server: Database = request.getfixturevalue(kind)
    store = old_place(warm, tmp_path, server, "mlflow_upgrade_killed")
    with fault(f"kill -9 during upgrade of 2.1.1, {kind}") as row:
        old, began = look(store), time.monotonic()
        done = store.run("upgrade", check=False)
        seconds, new = time.monotonic() - began, look(store)
        store.run("undo", **done)
        ends = {"old": 0, "new": 0}
        for _ in row.tries():
            kill(store, row, seconds, "upgrade", check=False)
            store.backup()  # the next call, whatever it is, undoes
            found = look(store)
            assert found in (old, new)
            ends["old" if found == old else "new"] += 1
            if found == new:
                backup = sorted(store.backups.glob("*-before-upgrade*.zip"), key=lambda p: p.stat().st_mtime)[
                    -1
                ]
                store.run("undo", backup=backup.name, created="", moved=False)
        assert look(store) == old
        row.ended = "{old} old, {new} new, after the next call".format(**ends)


def test_a_clean_up_is_killed(place: MakePlace, template: Path, fault: MakeFault) -> None:  # noqa: F811
    store = place()
    runs = [(f"{number:032}", number % 2) for number in range(60)]

    def reset() -> None:
        shutil.rmtree(store.folder)
        store.folder.mkdir()
        shutil.copyfile(template, store.path)
        query(
            store.path,
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (0, 'a', 'active')",
        )
        for run, deleted in runs:
            state = f"'deleted', {deleted}" if deleted else "'active', NULL"
            query(
                store.path,
                "INSERT INTO runs (run_uuid, experiment_id, artifact_uri, user_id, start_time, status,"
                "lifecycle_stage, deleted_time) "
                f"VALUES ('{run}', 0, 'mlflow-artifacts:/0/{run}/artifacts', '', 1, 'FINISHED', {state})",
            )
            (store.folder / f"artifacts/0/{run}/artifacts").mkdir(parents=True)
            (store.folder / f"artifacts/0/{run}/artifacts/file").write_bytes(b"x")

    with fault("kill -9 during gc") as row:
        reset()
        seconds, kept = (
            duration(store, "gc", older_than=0, force=True),
            {run for run, deleted in runs if not deleted},
        )
        for _ in row.tries(short=2):
            reset()
            kill(store, row, seconds, "gc", older_than=0, force=True)
            left = {run for (run,) in query(store.path, "SELECT run_uuid FROM runs")}
            row.lost += len(kept - left)
            for path in (store.folder / "artifacts").rglob("*"):
                os.utime(path, (1, 1))  # what has lost its rows only is orphaned, and removed after an hour
            store.run("gc", older_than=0, force=True)
            assert {run for (run,) in query(store.path, "SELECT run_uuid FROM runs")} == kept
            assert {Path(path).parts[1] for path in tree(store.folder / "artifacts")} == kept
        row.ended = "what is not deleted is untouched; the next call finished"


def fill_up(volume: Path, free: int) -> None:
    """Leave so many bytes of a volume."""
    with (volume / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(file.tell() - free, 0))


def test_a_full_disk(
    warm: Any,  # noqa: F811
    mount: Callable[[str], Path],
    filled: Path,  # noqa: F811
    fault: MakeFault,
) -> None:
    volume = mount("size=12m")
    store = Place(warm, volume)
    tasks: list[tuple[str, dict[str, Any], int]] = [
        ("backup", {"artifacts": True}, 200_000),
        ("upgrade", {"check": False}, 1_500_000),
    ]
    for task, options, most in tasks:
        with fault(f"disk full during {task}") as row:
            fill(store, filled, b"x")
            if task == "upgrade":
                store.path.unlink()
                old_database(store.path)
            before, refused = look(store), 0
            for _ in row.tries(short=2):
                fill_up(volume, row.random.randrange(most))
                job = store.start(task, **options)
                code = job.wait()
                (volume / "filler").unlink()
                if code:
                    refused += 1
                    assert "free space on the volume" in job.said, job.said
                    assert look(store) == before
                    assert (volume / "artifacts/0/6/6").read_bytes() == b"x" * 10_000
                elif task == "upgrade":
                    store.run("undo", **job.result)
                for path in store.backups.iterdir():
                    path.unlink()
                check_backups(store)
            store.run(task, **options)
            row.ended = f"{refused} refused in one line, the store as it was; with space it went on"
