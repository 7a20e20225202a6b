"""mlflow-status: state, address, age, time left; exit 0 only when the server serves."""

from __future__ import annotations

import asyncio

from common import console
from common.console import MISTAKE, format_duration
from flow import server
from flow.backups import age_of_newest
from flow.drift import drift, is_ours
from flow.opening import open_flow
from flow.workspace import Flow, Job, age, state_of, time_left
from settings import problems
from settings.layers import Settings


async def compared(flow: Flow, job: Job) -> str:
    """Return in what the server differs from today's settings, in words."""
    if not is_ours(job):
        return f"of an older action, until `{flow.settings.make('mlflow-restart')}`"
    changed = await drift(flow, job)
    return f"other than today: {'; '.join(changed)}" if changed else "as today"


async def status(settings: Settings) -> int:
    """Print the state and return the exit code."""
    async with open_flow(settings) as flow:
        job = flow.job or await flow.find(ended=True)
        if job is None or flow.job is None:
            print("state     not running")
            if job:
                print(f"last      {job.id}")
                print(f"ended     {job.history.finished_at:%F %H:%M} UTC, {state_of(job)}")
            print(f"start     {settings.make('mlflow-up')}")
            return MISTAKE
        trouble = await server.probe(flow, job) if job.status.is_running else ""
        trouble = server.starting(trouble, [])
        serves = job.status.is_running and not trouble
        state = f"running, not serving: {trouble}" if trouble else f"{state_of(job)}, not serving"
        left = time_left(job)
        print(f"state     {'serving' if serves else state}")
        print(f"job       {job.id}")
        print(f"address   {server.address(job)}")
        print(f"age       {format_duration(age(job))}")
        print(f"ends in   {format_duration(left) if left is not None else 'no limit'}")
        newest = await age_of_newest(flow, job)
        print(f"backup    {'none yet' if newest is None else f'the newest is {format_duration(newest)} old'}")
        print(f"settings  {await compared(flow, job)}")
        return 0 if serves else MISTAKE


def main() -> int:
    """Run the target."""
    settings = problems.typed("status")
    return asyncio.run(status(settings))


if __name__ == "__main__":
    console.run(main)
