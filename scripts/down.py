"""mlflow-down: stop the server; nothing running is not an error, and no data is touched."""

from __future__ import annotations

import asyncio

from common import console
from common.console import UNCHANGED, say
from flow import server
from flow.opening import open_flow
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def down(settings: Settings, *, dry_run: bool) -> None:
    """Stop the server's job and wait for its end; with `dry_run` only say which."""
    async with open_flow(settings) as flow:
        if flow.job is None:
            say("no server is running")
            return
        if dry_run:
            print(f"would stop: job {flow.job.id}, {server.address(flow.job)}")
            say(UNCHANGED)
            return
        await flow.stop(flow.job)
        say(f"stopped job {flow.job.id}; its data stays")


def main() -> None:
    """Run the target."""
    settings = problems.typed("down")
    asyncio.run(down(settings, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
