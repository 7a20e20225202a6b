"""The artifacts at a location that MLflow has written down."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from in_job.store import Store
from in_job.words import say

SHARED = ("models", "traces")
"""The folders of an experiment that are of several things."""


class Artifacts:
    """The artifacts at a location, which clients choose; of a proxied one without the proxy.

    The path in it is decoded once, as the server does. One that leads out of the destination has none.
    """

    def __init__(self, store: Store, uri: str) -> None:
        self.path: str | None = None
        """Below the artifacts destination, where it is there."""
        self.folder: Path | None = None
        """On a volume."""
        self.where = uri
        """Where MLflow's own access to it begins; "" for a location without any artifacts of ours."""
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            inside = PurePosixPath(unquote(parts.path).strip("/"))
            self.path = str(inside)
            self.folder = store.artifacts and store.artifacts / inside
            self.where = store.destination
            if ".." in inside.parts or not inside.parts:
                say(f"the artifact location {uri} leads out of the artifacts: what is there stays")
                self.where, self.folder = "", None

    def repository(self) -> Any:
        """Return MLflow's access to them."""
        registry = importlib.import_module("mlflow.store.artifact.artifact_repository_registry")
        return registry.get_artifact_repository(self.where)

    def files(self) -> Iterator[tuple[Any, str, int]]:
        """Yield MLflow's access to them, the path of each file by that, and its size in bytes."""
        repository, waiting = self.repository(), [self.path]
        while waiting:
            for entry in repository.list_artifacts(waiting.pop()):
                if entry.is_dir:
                    waiting.append(entry.path)
                else:
                    yield repository, entry.path, entry.file_size or 0

    def size(self) -> int:
        """Return their size in bytes."""
        if self.folder:
            files = (Path(root, name) for root, _, names in os.walk(self.folder) for name in names)
            return sum(path.lstat().st_size for path in files)
        return sum(size for _, _, size in self.files()) if self.where else 0

    def entries(self) -> list[Any]:
        """Return what is there now, for `delete`; of an experiment each run, model and trace.

        One that is made when the rows are gone may get the same id, and so the same place.
        """
        if not self.folder:
            return list(self.files()) if self.where else []
        found: list[Any] = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in self.folder.iterdir():
                shared = entry.name in SHARED and entry.is_dir() and not entry.is_symlink()
                found += entry.iterdir() if shared else [entry]
        return found

    def delete(self, entries: list[Any]) -> None:
        """Delete entries; file by file in an object store: older MLflows take 1 and 10 for one folder."""
        if not self.folder:
            for repository, path, _ in entries:
                repository.delete_artifacts(path)
            return
        for path in entries:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        beside = [self.folder.parent] if self.folder.name == "artifacts" else []
        for folder in [*(self.folder / name for name in SHARED), self.folder, *beside]:
            with suppress(OSError):  # it is not there, or other things are in it
                folder.rmdir()
