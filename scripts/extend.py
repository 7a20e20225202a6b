"""mlflow-extend BY=2d: lengthen the running job's life span."""

from __future__ import annotations

import asyncio
import os

from common import console
from common.console import UNCHANGED, Failure, Problem, format_duration, parse_duration, say
from flow.opening import open_flow
from flow.workspace import lengthen, require_job, time_left
from settings import problems
from settings.layers import Settings
from settings.variables import MAKE, yes


async def extend(settings: Settings, text: str, by: int, *, dry_run: bool) -> None:
    """Lengthen the life span by `text`, that is `by` seconds, cut to whole minutes as the platform does."""
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
        await lengthen(flow, job, by, f"BY is {text!r}", MAKE)
        left = time_left(await flow.client.jobs.status(job.id))
        say(f"job {job.id} ends in {format_duration(left) if left is not None else 'no limit'}")


def main() -> None:
    """Run the target."""
    settings = problems.typed("extend")
    text = os.environ.get("BY", "")
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if seconds < 60:
        usage = f"say by how much, at least a minute: `{settings.make('mlflow-extend')} BY=2d`"
        raise Failure(Problem(f"BY is {text!r}", usage, MAKE))
    asyncio.run(extend(settings, text, seconds, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
