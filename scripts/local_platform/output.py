"""A job's output: kept in a file, and handed to whoever follows it or is attached to the job."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

CHUNK = 2**18
#: Pieces of output that an attached client may lag behind before it is cut off.
LAG = 10_000


class Output:
    """The log of one job, through all its restarts. `live` is false for a job that has ended."""

    def __init__(self, path: Path, live: bool) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0) if live else None
        self._followers: set[asyncio.Event] = set()
        self._attached: set[asyncio.Queue[tuple[int, bytes] | None]] = set()

    def write(self, number: int, data: bytes) -> None:
        """Add what the job wrote to standard output (1) or error (2)."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # no space: the job goes on, and so does its log once there is
                self._file.write(data)
        for queue in list(self._attached):
            if queue.qsize() > LAG:
                self._attached.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait((number, data))
        self._wake()

    def close(self) -> None:
        """End the log: followers get its rest and their end."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.detach_all()
        self._wake()

    def detach_all(self) -> None:
        """End all attachments, as at the end of the job's process."""
        for queue in self._attached:
            queue.put_nowait(None)
        self._attached.clear()

    def attach(self) -> "asyncio.Queue[tuple[int, bytes] | None]":
        """Return a queue that gets (stream, data) from now on, and None at the end of the process."""
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._attached.add(queue)
        return queue

    def detach(self, queue: "asyncio.Queue[tuple[int, bytes] | None]") -> None:
        """Give a queue of `attach` back."""
        self._attached.discard(queue)

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield the log from its beginning, and what is added, until it ends."""
        event = asyncio.Event()
        self._followers.add(event)
        position = 0
        try:
            while True:
                event.clear()
                live = self._file is not None  # asked before the last read, so that nothing is missed
                while data := await asyncio.to_thread(self._read, position):
                    position += len(data)
                    yield data
                if not live:
                    return
                await event.wait()
        finally:
            self._followers.discard(event)

    def _read(self, position: int) -> bytes:
        try:
            with self.path.open("rb") as stream:
                stream.seek(position)
                return stream.read(CHUNK)
        except FileNotFoundError:
            return b""

    def _wake(self) -> None:
        for event in self._followers:
            event.set()
