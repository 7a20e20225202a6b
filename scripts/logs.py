"""mlflow-logs: follow the server's log; MLFLOW_FOLLOW=no prints what is there and ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from common import console
from common.console import say
from common.waits import ended
from flow.opening import open_flow
from flow.workspace import require_job, state_of
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def logs(settings: Settings, *, follow: bool) -> None:
    """Print the log of the running server, or of the last one."""
    async with open_flow(settings) as flow:
        job = flow.job or await flow.find(ended=True) or require_job(flow)
        if job.status.is_finished:
            say(f"no server is running; this is the log of job {job.id}, {state_of(job)}")
        copying = asyncio.create_task(copy(flow.log(job, follow=follow)))
        try:
            while not copying.done() and not console.is_unheard():  # else it would wait for the next line
                await asyncio.wait([copying], timeout=0.5)
        finally:
            await ended(copying)


async def copy(log: AsyncIterator[bytes]) -> None:
    """Print a log as it comes."""
    async for chunk in log:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def main() -> None:
    """Run the target."""
    settings = problems.typed("logs")
    asyncio.run(logs(settings, follow=yes("MLFLOW_FOLLOW", default=True)))


if __name__ == "__main__":
    console.run(main)
