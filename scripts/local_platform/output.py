"""A job's output: kept in a file, and handed to whoever follows it or is attached to the job."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

CHUNK = 2**18
#: Pieces of output that an attached client may be behind before it is cut off.
QUEUE_LIMIT = 10_000
#: Seconds by which the store lags from which the logs of ended jobs are read. A test makes it longer.
LAG = 1.0


class Output:
    """The log of one job, through all its restarts. `live` is false for a job that has ended."""

    def __init__(self, path: Path, live: bool) -> None:
        self.path = path
        self.lag = LAG
        self._file = path.open("ab", buffering=0) if live else None
        self._late: deque[tuple[float, int]] = deque()  # when was written what lies before an offset
        self._stored = 0  # the offset up to which an ended job's log can be read
        self._followers: set[asyncio.Event] = set()
        self._attached: set[asyncio.Queue[tuple[int, bytes] | None]] = set()

    def write(self, number: int, data: bytes) -> None:
        """Add what the job wrote to standard output (1) or error (2)."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # no space: the job goes on, and so does its log once there is
                self._file.write(data)
                self._late.append((time.monotonic(), self._file.tell()))
                self._age()
        for queue in list(self._attached):
            if queue.qsize() > QUEUE_LIMIT:
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

    def tail(self, size: int) -> str:
        """Return the last `size` bytes of the log as a text."""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            stream.seek(max(0, self.path.stat().st_size - size))
            return stream.read(size).decode(errors="ignore").strip()
        return ""

    def _age(self) -> None:
        """Take what is old enough for the store."""
        while self._late and self._late[0][0] <= time.monotonic() - self.lag:
            self._stored = self._late.popleft()[1]

    async def follow(self, separator: bytes = b"") -> AsyncIterator[bytes]:
        """
        Yield the log from its beginning, and what is added, until it ends.

        A line `separator` stands between what there was of a live log and what is added. Of one that has
        ended, what was written last may be missing: it is there some seconds later.
        """
        event = asyncio.Event()
        self._followers.add(event)
        position, added = 0, False
        from_live = self._file is not None  # such a reader has it from the job itself, and not from the store
        try:
            while True:
                event.clear()
                live = self._file is not None  # asked before the last read, so that nothing is missed
                while data := await asyncio.to_thread(self._read, position, from_live):
                    if added and separator:
                        yield separator + b"\n"
                        separator = b""
                    position += len(data)
                    yield data
                if not live:
                    return
                added = position > 0
                await event.wait()
        finally:
            self._followers.discard(event)

    def _read(self, position: int, whole: bool) -> bytes:
        self._age()
        size = CHUNK if whole or not self._late else min(CHUNK, max(0, self._stored - position))
        try:
            with self.path.open("rb") as stream:
                stream.seek(position)
                return stream.read(size)
        except FileNotFoundError:
            return b""

    def _wake(self) -> None:
        for event in self._followers:
            event.set()
