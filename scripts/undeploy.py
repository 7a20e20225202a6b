"""mlflow-undeploy MODEL=iris: stop serving a model; nothing deployed is not an error."""

from __future__ import annotations

import asyncio
import os

from common import console
from common.console import UNCHANGED, Failure, Problem, say
from flow import deployments, registry
from flow.opening import open_flow
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def undeploy(settings: Settings, model: registry.Model, *, dry_run: bool) -> None:
    """Stop the jobs that serve a model, and wait for their end; with `dry_run` only say which."""
    async with open_flow(settings) as flow:
        jobs = [job for job in await flow.models() if deployments.model_of(job).name == model.name]
        if not jobs:
            say(f"{model.name} is not served")
        for job in jobs:
            served = deployments.model_of(job)
            if model.version and served.version and model.version != served.version:
                fix = f"leave the version out: MODEL={model.name}"
                raise Failure(
                    Problem(f"job {job.id} serves {served}, not version {model.version}", fix, "MODEL")
                )
            if dry_run:
                print(f"would stop: job {job.id}, {served}, {deployments.address(job)}")
                continue
            await flow.stop(job)
            say(f"stopped job {job.id}, {served}; the model stays in the registry")
        if dry_run:
            say(UNCHANGED)


def main() -> None:
    """Run the target."""
    settings = problems.typed("undeploy")
    text = os.environ.get("MODEL", "")
    try:
        model = registry.parse(text)
    except ValueError:
        usage = f"say which: `{settings.make('mlflow-undeploy')} MODEL=iris`"
        raise Failure(Problem(f"MODEL is {text!r}", usage, "make command line")) from None
    asyncio.run(undeploy(settings, model, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
