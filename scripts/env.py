"""mlflow-env: print the lines that point an MLflow client of this shell at the server."""

from __future__ import annotations

import asyncio

from common import console
from common.console import say
from flow import server
from flow.opening import open_flow
from flow.workspace import require_job
from settings import problems
from settings.layers import Settings


async def env(settings: Settings) -> None:
    """Print `export …` lines for `eval`."""
    async with open_flow(settings) as flow:
        job = require_job(flow)
        print("\n".join(server.exports(flow, job)))
        if missing := server.missing_credentials(flow, job):
            say(missing)


def main() -> None:
    """Run the target."""
    settings = problems.typed("env")
    asyncio.run(env(settings))


if __name__ == "__main__":
    console.run(main)
