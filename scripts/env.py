"""mlflow-env: print the lines that point an MLflow client of this shell at the server."""

from __future__ import annotations

import asyncio

from common import console
from flow import server
from flow.workspace import open_flow, require_job
from settings import problems
from settings.layers import Settings, load


async def env(settings: Settings) -> None:
    """Print `export …` lines for `eval`."""
    async with open_flow(settings) as flow:
        print("\n".join(server.exports(flow, require_job(flow))))


def main() -> None:
    """Run the target."""
    settings = load("env")
    problems.require_typed(settings)
    asyncio.run(env(settings))


if __name__ == "__main__":
    console.run(main)
