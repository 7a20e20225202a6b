"""Files that outlive a crash of the machine, under their names: what is only in its memory does not."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Have the names in a folder last, where its file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new(path: Path, mode: int) -> BinaryIO:
    path.unlink(missing_ok=True)  # it would keep its own mode
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def copy(source: Path, target: Path, mode: int = 0o666) -> None:
    """Copy what is in a file into a new one, whose name lasts once its folder is synced."""
    with source.open("rb") as old, _new(target, mode) as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())


def write(text: str, target: Path, mode: int = 0o666) -> None:
    """Write a text into a new file, whose name lasts once its folder is synced."""
    with _new(target, mode) as new:
        new.write(text.encode())
        new.flush()
        os.fsync(new.fileno())


def replace(part: Path, path: Path) -> None:
    """Put a file that is whole into its place, to stay there."""
    part.replace(path)
    sync_folder(path.parent)
