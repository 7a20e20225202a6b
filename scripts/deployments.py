"""mlflow-deployments: the models that are served, where, and whether there are newer versions."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

from common import console
from common.console import Failure, complain, format_duration, say
from flow import deployments
from flow.opening import open_flow
from flow.registry import Registry
from flow.workspace import Flow, Job, age, state_of, time_left
from settings import problems
from settings.layers import Settings

HEAD = ("MODEL", "VERSION", "STATE", "ADDRESS", "AGE", "ENDS IN", "NEWER")


async def row(flow: Flow, job: Job, newest: dict[str, str]) -> list[str]:
    """Return what there is to say of one job."""
    model = deployments.model_of(job)
    state = await deployments.look(flow, job) if job.status.is_running else deployments.State()
    version = str(state.said.get("version") or model.version or ("?" if model.registered else "-"))
    left = time_left(job)
    words = "serving" if state.ready else state.words if job.status.is_running else state_of(job)
    if deployments.suffix(job) != deployments.suffix_of(model):
        words += f" (tried as {deployments.suffix(job)})"
    known = newest.get(model.name, "?") if model.registered else version
    newer = "?" if "?" in (known, version) else known if known != version else "none"
    return [
        model.name,
        version + (f" (@{model.alias})" if model.alias else ""),
        words,
        deployments.address(job),
        format_duration(age(job)),
        format_duration(left) if left is not None else "no limit",
        newer,
    ]


async def newest_of(flow: Flow, names: set[str]) -> dict[str, str]:
    """Return the newest version of each registered model, none where the server cannot be asked."""
    if flow.job is None:
        if names:
            say("no server is running: whether there are newer versions is not known")
        return {}
    registry = Registry(flow, flow.job)
    try:
        return {name: await registry.newest(name) for name in sorted(names)}
    except Failure as failure:
        complain(failure.problems)
        return {}


async def ended(flow: Flow, active: set[str]) -> list[str]:
    """Return a line for each model whose last job has ended by itself within a week, the newest first."""
    since = datetime.now(timezone.utc) - timedelta(days=7)
    lines: dict[str, str] = {}
    for job in await flow.models(ended=True):
        suffix, finished = deployments.suffix(job), job.history.finished_at
        if suffix.startswith(f"{deployments.suffix_of(deployments.model_of(job))}-"):
            continue  # a new version was tried in it
        if suffix in active or suffix in lines or finished is None or finished < since:
            continue
        by_user = job.history.reason == "UserRequested"
        lines[suffix] = "" if by_user else f"{deployments.model_of(job).name}: job {job.id} {state_of(job)}"
    return [line for line in lines.values() if line]


async def show(settings: Settings) -> None:
    """Print a line for each model."""
    async with open_flow(settings) as flow:
        jobs = await flow.models()
        newest = await newest_of(flow, {m.name for m in map(deployments.model_of, jobs) if m.registered})
        rows = [list(HEAD), *await asyncio.gather(*(row(flow, job, newest) for job in reversed(jobs)))]
        if jobs:
            widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEAD))]
            for cells in rows:
                print("  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip())
        else:
            print(f"no model is served; `{settings.make('mlflow-deploy')} MODEL=NAME` serves one")
        for line in await ended(flow, {deployments.suffix(job) for job in jobs}):
            print(f"not served any more: {line}")


def main() -> None:
    """Run the target."""
    asyncio.run(show(problems.typed("deployments")))


if __name__ == "__main__":
    console.run(main)
