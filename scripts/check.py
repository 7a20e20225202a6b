"""mlflow-check: every mistake that can be found before a job starts, all at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from common import console
from common.console import UNREACHABLE, Failure, complain, say
from settings import problems
from settings.layers import Settings, load


async def _check(settings: Settings) -> None:
    from flow.opening import open_flow  # the SDK takes long to import, and the checks above do without
    from flow.platform_check import check_clash, check_submission, check_tools

    try:
        async with open_flow(settings) as flow:
            async with flow.rendered():
                submission = await flow.evaluate()
            await check_submission(flow, submission)
            await check_clash(flow, submission)
            await check_tools(flow)
    except Failure as failure:
        if failure.code != UNREACHABLE:
            raise
        why = [p if isinstance(p, str) else replace(p, warning=True) for p in failure.problems]
        complain(why)
        say("not checked without the platform: expressions in live.yaml, preset, secrets")


def main() -> None:
    """Run the target."""
    settings = load("check")
    problems.require(settings)
    asyncio.run(_check(settings))
    say("no error found")


if __name__ == "__main__":
    console.run(main)
