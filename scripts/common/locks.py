"""Locks between the targets of one workspace; the kernel frees them however their holder ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from common import console


def _open(path: Path) -> int:
    path.parent.mkdir(exist_ok=True)
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Hold a lock for oneself while the block runs; waits for whoever has it."""
    descriptor = _open(path)
    try:
        with console.waiting_for("another mlflow target here") as waiting:
            while not _try(descriptor, fcntl.LOCK_EX):
                waiting.tick()
                await asyncio.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


class Users:
    """Counts one more user of something, until `close` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # waits for a last one that is clearing up

    def last(self) -> bool:
        """Tell whether nobody else is left; if so, newcomers wait for `close`."""
        return _try(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Count one user less."""
        os.close(self._descriptor)
