"""mlflow-open: open the UI in the browser."""

from __future__ import annotations

import asyncio
import webbrowser

from common import console
from common.console import Failure, Problem
from flow import server
from flow.opening import open_flow
from flow.workspace import require_job
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def link(settings: Settings) -> str:
    """Return the link that a browser gets in with."""
    async with open_flow(settings) as flow:
        return flow.login.browser_link(f"{server.address(require_job(flow))}/")


def main() -> None:
    """Run the target."""
    settings = problems.typed("open")
    url = asyncio.run(link(settings))
    if yes("MLFLOW_DRY_RUN"):
        print(f"would open: {url}")
        return
    if not webbrowser.open(url):
        raise Failure(Problem("no browser could be started", f"open this address yourself: {url}"))


if __name__ == "__main__":
    console.run(main)
