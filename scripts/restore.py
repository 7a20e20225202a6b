"""mlflow-restore FROM=…: put a backup's runs, and its artifacts if it has them, into the server's store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import yarl

from backup import file_sha256
from common import console
from common.console import UNCHANGED, Failure, Problem, say
from copying.installation import path_of
from flow.backups import on_volume
from flow.opening import open_flow
from flow.store_task import Task
from flow.workspace import Flow
from settings import problems
from settings.layers import Settings
from settings.variables import yes
from up import bring_up

SQLITE = b"SQLite format 3\0"
"""What every SQLite file begins with."""
WITH_LOG = b"\2\2"
"""What follows in one that has a write-ahead log (offset 18); a server that stops puts it back to 1."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a file to upload: of a SQLite database a copy, with what is still in its write-ahead log.

    Raises:
        Failure: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        fix = "make it readable for you, or name another file"
        raise Failure(Problem(f"FROM is {path}, which cannot be read: {error.strerror}", fix)) from None
    if not head.startswith(SQLITE):
        yield path
        return
    if head[18:] == WITH_LOG and not path.with_name(f"{path.name}-wal").exists():
        say(f"warning: {path.name} has a write-ahead log, and no {path.name}-wal is beside it: copied off a")
        say("running server, it lacks what was newest; then restore both files together, or a backup")
    with tempfile.TemporaryDirectory(prefix="mlflow-restore-") as folder:
        copy = Path(folder, path.name)
        try:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.execute("BEGIN")  # a wait with an end; reading begins with it
                source.execute("SELECT count(*) FROM sqlite_master")
                source.backup(target)
        except sqlite3.Error as error:
            fix = "stop what uses it, or name another file"
            raise Failure(Problem(f"FROM is {path}, which cannot be read: {error}", fix)) from None
        yield copy


async def locate(flow: Flow, task: Task, source: str) -> str:
    """Return the name on the volume of the backup that FROM names: one that is there, or a file to upload.

    The name of an uploaded file has its checksum in it: two of one name do not take each other's place.

    Raises:
        Failure: there is no such backup; those that there are are named.
    """
    local, folder = path_of(source), task.backups.uri
    present = await on_volume(flow, folder)
    if source and local.is_file():
        with whole(local.absolute()) as file:
            digest = await asyncio.to_thread(file_sha256, file)
            name = f"{local.stem}-{digest[:12]}{local.suffix}"
            if present.get(name) != file.stat().st_size:
                say(f"uploading {local}")
                await flow.client.storage.mkdir(folder, parents=True, exist_ok=True)
                part = folder / f".{name}.upload"
                await flow.client.storage.upload_file(yarl.URL(file.as_uri()), part)
                await flow.client.storage.mv(part, folder / name)
        return name
    if source in present:
        return source
    known = ", ".join(present) or "none yet"
    fix = f"name a file on this machine, or a backup in {folder}: {known}"
    what = f"FROM is {source}, which is not there" if source else "FROM is empty"
    raise Failure(Problem(what, fix, "make command line"))


async def show(flow: Flow, source: str, *, force: bool) -> None:
    """Show what would be restored, and what instead of.

    Raises:
        Failure: there is no such backup, or the store cannot be read.
    """
    task = await Task.prepare(flow, dry_run=True)
    local = path_of(source)
    there = not (source and local.is_file())
    name = await locate(flow, task, source) if there else ""
    found = await task.look("restore", name)
    if there:
        print(f"  from     {task.backups.uri / name}")
        print(f"  which    holds {found['backup']}; {found['artifacts']:,} artifacts")
    else:
        print(f"  from     {local}, {local.stat().st_size:,} bytes, which would be uploaded and verified")
    if not found["new"]:
        print("  before   what is there would be kept beside" if force else "  needs    MLFLOW_FORCE=yes")
    if flow.job:
        print(f"  stops    job {flow.job.id}, and starts the server again")
    say(UNCHANGED)


async def restore(settings: Settings, source: str, *, force: bool) -> None:
    """Restore a backup; a server that runs is stopped for it, and started again however it ends."""
    async with open_flow(settings, will_run=True) as flow:
        task = await Task.prepare(flow)
        name = await locate(flow, task, source)
        was_running = flow.job
        if was_running:
            await task.run("restore", **{"from": name}, force=force, check=True)
            say("stopping the server")
            flow.job = None
        try:
            if was_running:
                await flow.stop(was_running)
            done = await task.run("restore", **{"from": name}, force=force, check=False)
        except (asyncio.CancelledError, Failure) as failure:
            if was_running:
                await again(flow, failure)
            raise
        print(f"restored: {name}")
        print(f"  holds    {done['holds']}")
        if done["artifacts"]:
            print(f"  with     {done['artifacts']:,} artifacts")
        if done["kept"]:
            print(f"  before   {task.backups.uri / done['kept']} has what was there")
            print(f"  undo     {settings.make('mlflow-restore')} FROM={done['kept']} MLFLOW_FORCE=yes")
        if was_running:
            await bring_up(flow)


async def dry_run(settings: Settings, source: str, *, force: bool) -> None:
    """Show what the target would do."""
    async with open_flow(settings, will_run=True) as flow:
        await show(flow, source, force=force)


async def again(flow: Flow, failure: BaseException) -> None:
    """Start the server again after a restore that has failed.

    Raises:
        Failure: it does not start; the problems of both.
    """
    say("starting the server again")
    try:
        await bring_up(flow)
    except Failure as other:
        first = failure.problems if isinstance(failure, Failure) else ("interrupted",)
        raise Failure(*first, *other.problems, code=other.code) from None


def main() -> None:
    """Run the target."""
    settings = problems.begin("restore")
    source, force = os.environ.get("FROM", ""), yes("MLFLOW_FORCE")
    if yes("MLFLOW_DRY_RUN"):
        asyncio.run(dry_run(settings, source, force=force))
    else:
        asyncio.run(restore(settings, source, force=force))


if __name__ == "__main__":
    console.run(main)
