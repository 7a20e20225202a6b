"""mlflow-restart: stop the server, then start it with today's settings."""

from __future__ import annotations

import asyncio

from common import console
from flow.workspace import open_flow
from settings import problems
from settings.layers import Settings, load
from up import bring_up


async def restart(settings: Settings) -> None:
    """Stop the server if it runs, and start it."""
    async with open_flow(settings, will_run=True) as flow:
        if flow.job:
            await flow.stop(flow.job)
            flow.job = None
        await bring_up(flow)


def main() -> None:
    """Run the target: nothing is stopped when the settings would not start."""
    settings = load()
    problems.require(settings)
    asyncio.run(restart(settings))


if __name__ == "__main__":
    console.run(main)
