"""mlflow-upgrade: bring the store of an older MLflow up to date, and start the server."""

from __future__ import annotations

import asyncio
from typing import Any

from common import console
from common.console import UNCHANGED, Failure, Problem, say
from flow.opening import open_flow
from flow.store_task import Task
from flow.workspace import Flow
from settings import problems
from settings.layers import Settings
from settings.variables import yes
from up import bring_up


async def start(flow: Flow, task: Task, done: dict[str, Any]) -> None:
    """Start the server on the upgraded store; when it does not come up, put back what was there.

    Raises:
        Failure: it did not come up.
    """
    try:
        await bring_up(flow)
    except Failure as failure:
        job = await flow.find()
        if job:
            await flow.stop(job)
        try:
            undone = await task.run("undo", **done)
        except Failure as other:
            raise Failure(*failure.problems, *other.problems, code=failure.code) from None
        say(f"{task.backups.uri / undone['kept']} has what was there in between")
        what = "the server does not start on the upgraded store, so the store is again what it was"
        fix = "the image that served it before still does"
        raise Failure(Problem(what, fix), *failure.problems, code=failure.code) from None


async def show(flow: Flow) -> None:
    """Show what would be done to the store."""
    found = await (await Task.prepare(flow, dry_run=True)).look("upgrade")
    print(f"  schema   {'is of an older MLflow' if found['upgrade'] else 'is up to date'}")
    if found["moves"]:
        print("  moves    the artifacts, away from the database into the folder artifacts")
    if flow.job:
        restarts = "stops, and starts again" if found["upgrade"] or found["moves"] else "goes on"
        print(f"  server   job {flow.job.id} {restarts}")
    say(UNCHANGED)


async def upgrade(settings: Settings, *, dry_run: bool) -> None:
    """Upgrade the store with the server stopped, then start the server; with `dry_run` only show that."""
    async with open_flow(settings, will_run=True) as flow:
        if dry_run:
            await show(flow)
            return
        task = await Task.prepare(flow)
        found = await task.run("upgrade", check=True)
        if found["stayed"]:
            say(f"{found['stayed']} experiments, runs or models have paths beside the database as places of")
            say("artifacts: they stay, and whoever reaches the server can read and delete the database")
        if not found["needed"]:
            print("the store is up to date")
            await bring_up(flow)
            return
        was_running = flow.job
        if was_running:
            say("stopping the server")
            await flow.stop(was_running)
            flow.job = None
        try:
            done = await task.run("upgrade", check=False)
        except asyncio.CancelledError:
            if was_running:
                say(f"the server is stopped; `{settings.make('mlflow-up')}` starts it as it was")
            raise
        except Failure as failure:
            fix = (
                f"`{settings.make('mlflow-up')}` starts it as it was; or correct that and run the same again"
            )
            stopped = [Problem("the server is stopped", fix)] if was_running else []
            raise Failure(*stopped, *failure.problems, code=failure.code) from None
        print(f"upgraded: the schema is {done['schema']}")
        print(f"  before   {task.backups.uri / done['backup']} has what was there")
        if done["moved"]:
            print("  moved    the artifacts, away from the database into the folder artifacts")
        if done["created"]:
            print(f"  created  {done['created']} from the file store, which is kept")
        if done["created"] and not done["adopted"]:
            setting = settings.inputs["backend_store_uri"]
            fix = f"set it to sqlite:///{done['created']}, then `{settings.make('mlflow-up')}`"
            raise Failure(Problem("backend_store_uri still names the file store", fix, setting.source))
        await start(flow, task, done)


def main() -> None:
    """Run the target."""
    settings = problems.begin("upgrade")
    asyncio.run(upgrade(settings, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
