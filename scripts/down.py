"""mlflow-down: stop the server; nothing running is not an error, and no data is touched."""

from __future__ import annotations

import asyncio

from common import console
from common.console import say
from flow.workspace import open_flow
from settings.layers import Settings, load


async def down(settings: Settings) -> None:
    """Stop the server's job and wait for its end."""
    async with open_flow(settings) as flow:
        if flow.job is None:
            say("no server is running")
            return
        await flow.stop(flow.job)
        say(f"stopped job {flow.job.id}; the data stays where it is")


def main() -> None:
    """Run the target."""
    asyncio.run(down(load()))


if __name__ == "__main__":
    console.run(main)
