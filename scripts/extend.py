"""mlflow-extend BY=2d: lengthen the running job's life span."""

from __future__ import annotations

import asyncio
import os

from common import console
from common.console import UNCHANGED, Failure, Problem, format_duration, parse_duration, say
from flow.workspace import open_flow, require_job, time_left
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def extend(settings: Settings, by: int, *, dry_run: bool) -> None:
    """Lengthen the life span by a number of seconds, cut to whole minutes as the platform does."""
    async with open_flow(settings) as flow:
        job = require_job(flow)
        if dry_run:
            left = time_left(job)
            then = (
                "no limit"
                if left is None
                else f"{format_duration(left + by)} instead of {format_duration(left)}"
            )
            print(f"would extend: job {job.id} ends in {then}")
            say(UNCHANGED)
            return
        await flow.client.jobs.bump_life_span(job.id, by)
        left = time_left(await flow.client.jobs.status(job.id))
        say(f"job {job.id} ends in {format_duration(left) if left is not None else 'no limit'}")


def main() -> None:
    """Run the target."""
    settings = problems.typed("extend")
    by = os.environ.get("BY", "")
    try:
        seconds = parse_duration(by)
    except ValueError:
        seconds = 0
    if seconds < 60:
        usage = f"say by how much, at least a minute: `{settings.make('mlflow-extend')} BY=2d`"
        raise Failure(Problem(f"BY is {by!r}", usage, "make command line"))
    asyncio.run(extend(settings, seconds, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
