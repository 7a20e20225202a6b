"""mlflow-backup: copy the runs of a live server, and with MLFLOW_BACKUP_ARTIFACTS=yes its artifacts."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import yarl

from common import console
from common.console import UNCHANGED, Failure, Problem, say
from copying.installation import path_of
from flow.opening import open_flow
from flow.store_task import Task
from flow.workspace import Flow
from settings import problems
from settings.layers import Settings
from settings.variables import yes


def destination(to: str) -> Path | None:
    """Return the file that TO names, None where it is empty; a folder stands for a file in it.

    Raises:
        Failure: it cannot be written, or is there already.
    """
    if not to:
        return None
    path = path_of(to).absolute()
    if path.is_dir():
        return path
    source = "make command line"
    if path.exists():
        raise Failure(Problem(f"TO is {to}, which is there already", "name a new file", source))
    if not path.parent.is_dir():
        raise Failure(Problem(f"TO is {to}, but there is no folder {path.parent}", "make it first", source))
    return path


async def fetch(flow: Flow, source: yarl.URL, to: Path, sha256: str) -> None:
    """Download a file; it appears under its name only when it is whole.

    Raises:
        Failure: it is not what was written, or `to` cannot be.
    """
    part = to.with_name(f".{to.name}.part")
    try:
        await flow.client.storage.download_file(source, yarl.URL(part.as_uri()))
        digest = await asyncio.to_thread(file_sha256, part)
        if digest != sha256:
            raise Failure(Problem(f"{to.name} was changed on the way", f"fetch {source} again"))
        part.chmod(0o600)  # it may have keys and users in it
        part.replace(to)
    except OSError as error:
        raise Failure(
            Problem(f"TO: {error}", f"the backup is kept as {source}", "make command line")
        ) from None
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


async def backup(settings: Settings, to: Path | None, *, artifacts: bool, dry_run: bool) -> None:
    """Make a backup on the server's volume, and fetch it where asked to; with `dry_run` only show of what."""
    async with open_flow(settings, will_run=True) as flow:
        task = await Task.prepare(flow, dry_run=dry_run)
        if dry_run:
            await task.look("back up")
            print(f"  to       {task.backups.uri}" + (f", and {to}" if to else ""))
            say(UNCHANGED)
            return
        made: dict[str, Any] = await task.run("backup", artifacts=artifacts)
        name = made["name"]
        print(f"backup: {name} ({made['size']:,} bytes, MLflow {made['mlflow']}, schema {made['schema']})")
        print(f"  holds    {made['holds']}")
        if artifacts:
            print(f"  with     {made['artifacts']:,} artifacts")
        print(f"  kept as  {task.backups.uri / name}")
        if to:
            file = to / name if to.is_dir() else to
            say(f"fetching it to {file}")
            await fetch(flow, task.backups.uri / name, file, made["sha256"])
            print(f"  copy     {file}")
        print(f"  restore  {settings.make('mlflow-restore')} FROM={name}")


def main() -> None:
    """Run the target."""
    settings = problems.begin("backup")
    artifacts = yes("MLFLOW_BACKUP_ARTIFACTS")
    asyncio.run(
        backup(
            settings,
            destination(os.environ.get("TO", "")),
            artifacts=artifacts,
            dry_run=yes("MLFLOW_DRY_RUN"),
        )
    )


if __name__ == "__main__":
    console.run(main)
