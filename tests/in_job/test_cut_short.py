"""A restore that is killed, stopped or out of space leaves the old store or the new one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MakePlace
from .harness import StartServer
from .places import Place, content, tree, with_backup

pytestmark = pytest.mark.e2e


def test_a_restore_that_ends_half_way_is_finished(
    backup: Path, filled: Path, template: Path, place: MakePlace, start: StartServer
) -> None:
    stop = """
import os, signal
from in_job import restore, unfinished
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
place, _, attribute = os.environ["KILLED_AT"].rpartition(".")
setattr(eval(place), attribute, kill)
"""
    killed_at = (
        "unfinished.Mark.set",
        "restore.put",
        "restore.place_artifacts",
        "unfinished.Mark.clear",
    )
    for number, point in enumerate(killed_at):
        store = place(str(number))
        shutil.copyfile(template, store.path)
        store.query("INSERT INTO experiments (experiment_id, name) VALUES (5, 'mine')")
        (store.folder / "artifacts").mkdir()
        (store.folder / "artifacts/b").write_bytes(b"mine")
        before = content(store.path), tree(store.folder / "artifacts")
        name = with_backup(store, backup)
        job = store.start("restore", stop, {"KILLED_AT": point}, source=name, force=True, check=False)
        assert job.wait() == -signal.SIGKILL, job.said
        assert len(list((store.folder / "artifacts").glob(".mlflow-restore-*"))) == (number < 3)
        assert (store.folder / ".mlflow.db.unfinished").exists() == (number > 0)
        if number == 1:
            server = start(store.destination, MLFLOW_BACKEND_STORE_URI=store.uri)
            assert server.process.wait(60) == 1
            assert f"a restore or an upgrade of {store.path} was interrupted" in server.lines[-1]
        if number == 2:  # the same command, without the force that is not needed any more
            assert store.restore("backup.zip")["artifacts"] == 2
        else:  # any other
            store.backup()
        after = content(store.path), tree(store.folder / "artifacts")
        assert after == ((content(filled), {"0/a": b"one", "b": b"two"}) if number else before)
        assert not list(store.folder.glob("**/.mlflow-restore-*"))
        assert not (store.folder / ".mlflow.db.unfinished").exists()


def test_a_restore_that_cannot_be_finished_gives_way_to_another(
    backup: Path, filled: Path, template: Path, place: MakePlace
) -> None:
    store = place()
    shutil.copyfile(template, store.path)
    mark = store.folder / ".mlflow.db.unfinished"
    mark.write_text(json.dumps({"do": "restore", "backup": "gone.zip"}))
    name = with_backup(store, backup)
    error = store.refused("backup", artifacts=False)
    assert error.startswith(
        "a restore of gone.zip was interrupted and cannot be finished (there is no backup"
    )
    store.restore(name)
    assert content(store.path) == content(filled)
    assert not mark.exists()


def test_sigterm_leaves_the_old_store(backup: Path, template: Path, place: MakePlace) -> None:
    """It comes while the rows are written; later it waits until everything is in its place."""
    stop = """
import os, signal
from in_job import restore
put, number = restore.put, int(os.environ["NUMBER"])
def wait(store, work, before_commit):
    def both():
        before_commit()
        os.kill(os.getpid(), signal.SIGTERM)
    if not number:
        os.kill(os.getpid(), signal.SIGTERM)
    put(store, work, both)
restore.put = wait
"""
    for number in (0, 1):
        store = place(str(number))
        shutil.copyfile(template, store.path)
        before = content(store.path)
        name, env = with_backup(store, backup), {"NUMBER": str(number)}
        job = store.start("restore", stop, env, source=name, force=True, check=False)
        assert job.wait() == 128 + signal.SIGTERM, job.said
        assert (content(store.path) == before) is (number == 0)
        assert tree(store.folder / "artifacts") == ({"0/a": b"one", "b": b"two"} if number else {})
        assert not list((store.folder / "artifacts").iterdir()) or number
        assert list(Path(job.home / "tmp").iterdir()) == []


def test_no_space(backup: Path, filled: Path, place: MakePlace, mount: Callable[[str], Path]) -> None:
    volume = mount("size=3m")
    store = place()
    store.folder = volume
    store = Place(store.warm, volume)
    name = with_backup(store, backup)
    filler = volume / "filler"
    for free in (0, 100_000, 400_000):
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            file.truncate(file.tell() - free)
        error = store.refused("restore", source=name, force=False, check=False)
        assert error.endswith("free space on the volume; run the same again when that is over"), error
        assert not store.path.exists() or store.query("SELECT count(*) FROM sqlite_master") == [(0,)]
        assert not list(volume.glob("**/.mlflow-restore-*"))
    filler.unlink()
    store.restore(name)
    assert content(store.path) == content(filled)
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    error = store.refused("restore", source=name, force=True, check=False)
    assert "mount the volume writable" in error
