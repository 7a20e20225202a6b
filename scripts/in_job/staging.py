"""Artifacts of a backup: laid ready beside the present ones, and put into their places."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from in_job import durable
from in_job.backup_file import ARTIFACTS, Backup, checksum
from in_job.store import Store
from in_job.words import Problem, Progress


def require_places(store: Store, folder: Path, backup: Backup) -> None:
    """Raise Problem where something else is in the place of an artifact."""
    for inside in backup.artifacts:
        if folder == store.around and store.is_own(inside):
            raise Problem(f"the artifact {inside} would lie on {store}: `make mlflow-upgrade` first")
        above = (folder / parent for parent in list(PurePosixPath(inside).parents)[:-1])
        obstacle = next((path for path in above if path.exists() and not path.is_dir()), folder / inside)
        if obstacle.exists() and (obstacle != folder / inside or obstacle.is_dir()):
            raise Problem(
                f"{obstacle} is in the place of the artifact {inside}: move it away; nothing changed"
            )


def stage_artifacts(store: Store, backup: Backup, keep: Path | None) -> None:
    """Bring artifacts to where one rename each puts them into place; in an object store into place.

    From then on the store is marked: the next task finishes the restore. Where there is a folder `keep`, a
    copy of what they will replace is put into it.
    """
    folder, ready = store.artifacts, store.staging
    progress = Progress("artifacts read")
    with zipfile.ZipFile(backup.path) as archive:
        if folder is None or ready is None:
            repository = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
            remote = repository.get_artifact_repository(store.destination)
            with tempfile.TemporaryDirectory(prefix="mlflow-artifact-") as work:
                for inside in backup.artifacts:
                    path = Path(archive.extract(ARTIFACTS + inside, work))
                    parent = str(PurePosixPath(inside).parent)
                    remote.log_artifact(str(path), None if parent == "." else parent)
                    path.unlink()
                    progress(1)
            return
        require_places(store, folder, backup)
        drop_staged(store)
        ready.mkdir(parents=True)
        try:
            for inside, expected in backup.artifacts.items():
                present, staged = folder / inside, ready / inside
                progress(1)
                if present.is_file():
                    with present.open("rb") as file:
                        if checksum(file) == expected:
                            continue
                    if keep:
                        (keep / inside).parent.mkdir(parents=True, exist_ok=True)
                        durable.copy(present, keep / inside)
                        durable.sync_folder((keep / inside).parent)
                staged.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(ARTIFACTS + inside) as source, durable.new(staged) as target:
                    if checksum(source, target) != expected:
                        raise Problem(f"{backup.path.name} was changed while it was read; nothing changed")
            store.mark.set("restore", backup.path.name)
        except BaseException:
            drop_staged(store)
            raise


def place_artifacts(store: Store) -> None:
    """Put the artifacts that a restore has ready into their places."""
    ready = store.staging
    if ready is None or not ready.is_dir():
        return
    for root, _, files in os.walk(ready):
        for name in files:
            path = Path(root, name)
            target = ready.parent / path.relative_to(ready)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    drop_staged(store)
    store.mark.clear()


def drop_staged(store: Store) -> None:
    """Remove the artifacts that a restore has laid ready, or what a client has put in their place."""
    if store.staging:
        if store.staging.is_dir():
            shutil.rmtree(store.staging)
        else:
            store.staging.unlink(missing_ok=True)
