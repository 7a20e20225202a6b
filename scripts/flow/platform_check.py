"""The checks that need the platform: what expressions came to, and whether preset and secrets exist."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from common.console import Failure, Problem
from common.lazy import lazily
from flow import fetching, references, submission
from flow.submission import Submission
from flow.workspace import Flow
from settings import values
from settings.layers import OF_DEPLOYMENTS
from settings.live import PROJECT_TAG, live_file
from settings.problems import is_expression, relation_problems, stop_at_errors, value_problem

if TYPE_CHECKING:
    import apolo_sdk
else:
    apolo_sdk = lazily("apolo_sdk")

OLDEST_NEURO_FLOW = (24, 12)


def _require_project(flow: Flow, submitted: Submission) -> None:
    """Raise Failure where neuro-flow would start a job in another project than the flow's."""
    if submitted.project != flow.project:
        what = f"neuro-flow would start the job in project {submitted.project}, not in {flow.project}"
        raise Failure(Problem(what, "write project_name into the flow's project.yml"))


async def check_submission(flow: Flow, submitted: Submission) -> None:
    """Check a job that neuro-flow has evaluated; says every problem.

    Raises:
        Failure: at least one is not just a warning.
    """
    settings, inputs = flow.settings, submission.inputs(submitted)
    _require_project(flow, submitted)
    expressions = [setting for setting in settings.inputs.values() if is_expression(setting)]
    found = [problem for s in expressions if (problem := value_problem(s, inputs[s.name]))]
    if settings.inputs["job_name"].value == "" and (fix := values.CHECKS["job_name"](inputs["job_name"])):
        what = f"job_name is empty, and the job's name would be {inputs['job_name']!r}"
        found.append(Problem(what, fix, settings.inputs["job_name"].source))
    if not found:
        if expressions:
            found += relation_problems(settings, inputs)
        found += [problem async for problem in _missing(flow, inputs)]
    stop_at_errors(found)


async def _missing(flow: Flow, inputs: dict[str, str]) -> AsyncIterator[Problem]:
    sources = {name: setting.source for name, setting in flow.settings.inputs.items()}
    async for problem in _not_there(flow, inputs, sources):
        yield problem
    database = values.sqlite_path(inputs["backend_store_uri"])
    mount = values.holder(database, values.mounts(inputs["volumes"]))
    cluster = flow.client.config.clusters[flow.client.config.cluster_name]
    azure = "azure" in f"{cluster.name} {cluster.storage_url} {cluster.registry_url}".lower()
    if database and azure and mount and mount.kind == "storage":
        what = "SQLite does not work on the file storage of a cluster on Azure, which has no file locks"
        fix = "keep the database on a disk: volume, or in PostgreSQL"
        yield Problem(what, fix, sources["backend_store_uri"], warning=True)


async def _not_there(flow: Flow, inputs: dict[str, str], sources: dict[str, str]) -> AsyncIterator[Problem]:
    presets = list(flow.client.config.presets)
    if inputs["preset"] and inputs["preset"] not in presets:
        what = f"preset is {inputs['preset']!r}"
        yield Problem(what, f"this cluster has {', '.join(presets)}", sources["preset"])
    async for problem in references.problems(flow, inputs, sources):
        yield problem


async def check_deployment(flow: Flow, submitted: Submission) -> None:
    """Check the job of a model that neuro-flow has evaluated; says every problem.

    Raises:
        Failure: at least one is not just a warning.
    """
    settings, inputs = flow.settings, submission.inputs_of_deployment(submitted)
    _require_project(flow, submitted)
    found = []
    for setting in filter(is_expression, settings.deploy.values()):
        found += [value_problem(setting, inputs[setting.name.removeprefix(OF_DEPLOYMENTS)])]
    if fix := values.CHECKS["job_name"](inputs["job_name"]):
        found.append(Problem(f"the job's name would be {inputs['job_name']!r}", fix, "project.yml"))
    stop_at_errors(list(filter(None, found)))
    sources = {name.removeprefix(OF_DEPLOYMENTS): setting.source for name, setting in settings.deploy.items()}
    stop_at_errors([problem async for problem in _not_there(flow, inputs, sources)])


async def check_clash(flow: Flow, submitted: Submission) -> None:
    """Let no job of this flow log into another team's server.

    `inspect_job` of neuro-flow looks for the newest job with the flow's tags, in whatever project it is: tags
    that differ with the project keep servers apart. Source: `inspect_job` in apolo_flow 24.12.1.

    Raises:
        Failure: it would find a server of another project.
    """
    active = apolo_sdk.JobStatus.active_items()
    async with flow.jobs(tags=submitted.tags, statuses=active, every_project=True) as listed:
        others = [job async for job in listed if job.project_name != flow.project]
    if others:
        where = f"the server of project {others[0].project_name} ({others[0].id})"
        what = f"inspect_job('{flow.settings.job}') may find {where}"
        fix = f'write `defaults: {{tags: ["{PROJECT_TAG}"]}}`'
        raise Failure(Problem(what, fix, str(live_file(flow.settings.flow_dir))))


async def check_tools(flow: Flow) -> None:
    """Warn of a neuro-flow that is too old, and of `gh:` actions that it could not fetch over SSH."""
    found = []
    if flow.settings.flow_cli:
        said = await flow.neuro_flow("--version")
        version = tuple(map(int, re.findall(r"\d+", said)[:2]))
        if version < OLDEST_NEURO_FLOW:
            source = flow.settings.toolkit["flow_cli"].source
            fix = "take 24.12 or newer, or leave flow_cli empty for the toolkit's own"
            found.append(Problem(f"flow_cli is {' '.join(said.split())}", fix, source, warning=True))
    found += await asyncio.to_thread(fetching.warnings, flow.settings.flow_dir)
    stop_at_errors(found)
