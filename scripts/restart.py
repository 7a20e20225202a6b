"""mlflow-restart: stop the server, then start it with today's settings."""

from __future__ import annotations

import asyncio

from common import console
from flow import server
from flow.opening import open_flow
from flow.store_guard import require_same_store
from settings import problems
from settings.layers import Settings
from settings.variables import yes
from up import bring_up, show_start


async def restart(settings: Settings, *, dry_run: bool) -> None:
    """Stop the server if it runs, and start it; with `dry_run` only show that."""
    async with open_flow(settings, will_run=not dry_run) as flow:
        await require_same_store(flow)
        if dry_run:
            if flow.job:
                print(f"would stop: job {flow.job.id}, {server.address(flow.job)}")
            await show_start(flow)
            return
        if flow.job:
            await flow.stop(flow.job)
            flow.job = None
        await bring_up(flow)


def main() -> None:
    """Run the target: nothing is stopped when the settings would not start."""
    settings = problems.begin("restart")
    asyncio.run(restart(settings, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
