"""Files that outlive a crash of the machine, under their names: what is only in its memory does not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def new(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a new file, whose bytes last when it is closed, and whose name does once its folder is synced."""
    path.unlink(missing_ok=True)  # it would keep its own mode
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def copy(source: Path, target: Path, mode: int = 0o666) -> None:
    """Copy what is in a file into a new one."""
    with source.open("rb") as old, new(target, mode) as file:
        shutil.copyfileobj(old, file)


def write(text: str, target: Path, mode: int = 0o666) -> None:
    """Write a text into a new file."""
    with new(target, mode) as file:
        file.write(text.encode())


def replace(part: Path, path: Path) -> None:
    """Put a file that is whole into its place, to stay there."""
    part.replace(path)
    sync_folder(path.parent)
