"""The logs of jobs: followed, read as far as they are there, and the reason that one gives at its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from common.lazy import lazily
from common.waits import within
from settings.layers import redact

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk
else:
    aiohttp, apolo_sdk = lazily("aiohttp"), lazily("apolo_sdk")

FIRST_LINES, MORE_LINES = 15.0, 2.0
"""Seconds for the first piece of a log, and for each further one: what is there has been read then."""
WORDS = "mlflow-server: "
"""What the lines of our own in the log of a job begin with, as in scripts/in_job."""
LOG_LAG = 15.0
"""Seconds by which the log of an ended job may lag behind its end."""


class Logs:
    """Reads the logs of the jobs of a `client`."""

    client: apolo_sdk.Client

    async def log(self, job: apolo_sdk.JobDescription, *, follow: bool) -> AsyncIterator[bytes]:
        """Yield a job's log; without `follow` only what is there.

        The platform ends the stream only with the job, so what is there has been read when it pauses.
        """
        wait = None if follow or job.status.is_finished else FIRST_LINES
        mark = f"mlflow {uuid.uuid4().hex}"  # stands between the kept log and the live one, not of the job
        line = re.compile(mark.encode() + rb"\n?")
        stream = self.client.jobs.monitor(job.id, cluster_name=job.cluster_name, separator=mark)
        async with stream as chunks:
            iterator = chunks.__aiter__()
            with contextlib.suppress(asyncio.TimeoutError, StopAsyncIteration):
                while True:
                    chunk = await within(wait, iterator.__anext__())
                    wait = wait and MORE_LINES
                    yield line.sub(b"", chunk)

    async def lines(self, job: apolo_sdk.JobDescription) -> AsyncIterator[str]:
        """Yield the lines of a job's log as they come, without blanks around them, until the job ends."""
        rest = b""
        async for chunk in self.log(job, follow=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").strip()

    async def log_tail(self, job: apolo_sdk.JobDescription, lines: int = 15) -> str:
        """Return the last lines of a job's log.

        Those of an ended job may not be there yet: they are read again until its description's last line,
        which the platform takes from the job itself, is among them, or shown from the description.
        """
        said = [line.strip() for line in (job.history.description or "").splitlines() if line.strip()]
        deadline = time.monotonic() + LOG_LAG
        while True:
            read = await self.read_log(job)
            missing = job.status.is_finished and (said[-1] not in read if said else not read.strip())
            if not missing or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        text = "\n".join(said) if missing and len(said) > 1 else read
        return "\n".join(redact(text).splitlines()[-lines:])

    async def read_log(self, job: apolo_sdk.JobDescription) -> str:
        """Return the end of a job's log, as far as it is there."""
        data = b""
        with contextlib.suppress(aiohttp.ClientError, apolo_sdk.ClientError, ValueError):
            async for chunk in self.log(job, follow=False):
                data = (data + chunk)[-100_000:]
        return data.decode(errors="replace")


def last_words(log: str) -> str:
    """Return the reason that the end of a log gives, "" for none: its last error, else our own last line.

    Ours are no reason where they point to those of others, or say what the server has begun with.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(rf"{WORDS}(MLflow \d|.*see (its words )?above$)", line)]
    own = [number for number, line in enumerate(lines) if line.startswith(WORDS)]
    after = lines[own[-1] + 1 :] if own else lines
    errors = [line for line in after if re.search("error|exception|cannot|fail|refused|killed", line, re.I)]
    found = errors or [lines[number] for number in own] or lines or [""]
    return found[-1].removeprefix(WORDS).removeprefix("error: ")[:500]
