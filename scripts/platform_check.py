"""The checks that need the platform: what expressions came to, and whether preset and secrets exist."""

from __future__ import annotations

from collections.abc import AsyncIterator

import submission
import values
from check import is_expression, relation_problems, stop_at_errors, value_problem
from console import Problem
from flow import Flow
from submission import Submission


async def check_submission(flow: Flow, submitted: Submission) -> None:
    """Check a job that neuro-flow has evaluated; says every problem.

    Raises:
        Failure: at least one is not just a warning.
    """
    settings, inputs = flow.settings, submission.inputs(submitted)
    expressions = [setting for setting in settings.inputs.values() if is_expression(setting)]
    found = [problem for s in expressions if (problem := value_problem(s, inputs[s.name]))]
    if not found:
        if expressions:
            found += relation_problems(settings, inputs)
        found += [problem async for problem in _missing(flow, inputs)]
    stop_at_errors(found)


async def _missing(flow: Flow, inputs: dict[str, str]) -> AsyncIterator[Problem]:
    sources = {name: setting.source for name, setting in flow.settings.inputs.items()}
    presets = list(flow.client.config.presets)
    if inputs["preset"] and inputs["preset"] not in presets:
        what = f"preset is {inputs['preset']!r}"
        yield Problem(what, f"this cluster has {', '.join(presets)}", sources["preset"])
    wanted = list(values.secret_names(inputs))
    if wanted:
        async with flow.client.secrets.list() as listed:
            known = {secret.key async for secret in listed}
        for setting, name in wanted:
            if name not in known:
                fix = f"`{flow.login.apolo} secret add {name} @FILE` makes it"
                yield Problem(f"there is no secret {name}", fix, sources[setting])
    database = values.sqlite_path(inputs["backend_store_uri"])
    mount = values.holder(database, values.mounts(inputs["volumes"]))
    cluster = flow.client.config.clusters[flow.client.config.cluster_name]
    azure = "azure" in f"{cluster.name} {cluster.storage_url} {cluster.registry_url}".lower()
    if database and azure and mount and mount.kind == "storage":
        what = "SQLite does not work on the file storage of a cluster on Azure, which has no file locks"
        fix = "keep the database on a disk: volume, or in PostgreSQL"
        yield Problem(what, fix, sources["backend_store_uri"], warning=True)
