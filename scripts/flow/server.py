"""The MLflow server of a running job: whether it answers, and what its user needs to know."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from typing import TYPE_CHECKING

from common.console import format_duration, one_line
from common.lazy import lazily
from flow.workspace import Flow, Job, time_left
from settings.layers import redact

if TYPE_CHECKING:
    import aiohttp
else:
    aiohttp = lazily("aiohttp")


def env_of(job: Job) -> dict[str, str]:
    """Return the job's environment, a secret as its `secret:NAME`."""
    secrets = {
        name: f"secret:{uri.path.rsplit('/', 1)[-1]}" for name, uri in job.container.secret_env.items()
    }
    return {**job.container.env, **secrets}


def api_path(job: Job) -> str:
    """Return the path of an API call that reads the store, below the prefix that the server may have."""
    env = env_of(job)
    given = re.search(r"--static-prefix[ =](\S+)", env.get("MLFLOW_ACTION_EXTRA_PARAMS", ""))
    prefix = given[1] if given else env.get("MLFLOW_STATIC_PREFIX", "")
    return f"{prefix.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"


async def probe(flow: Flow, job: Job) -> str:
    """Call the server's API through its public address; return why it does not serve, "" when it does.

    `/health` would not do: it stays 200 while every user gets 403 for the server's own name.
    """
    if job.http_url is None or not job.http_url.host:
        return "the job has no address yet"
    headers = {}
    if job.container.http and job.container.http.requires_auth:
        headers["Authorization"] = f"Bearer {await flow.client.config.token()}"
    url = str(job.http_url).rstrip("/") + api_path(job)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            text = await answer.text()
            if answer.status == 200 and isinstance(json.loads(text), dict):
                return ""
            return f"it answers {answer.status} {redact(one_line(text)[:120])}"
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
        return f"it does not answer: {error or type(error).__name__}"


def exports(flow: Flow, job: Job) -> list[str]:
    """Return the shell lines that point an MLflow client at the server; a token is fetched, never written."""
    lines = [f"export MLFLOW_TRACKING_URI={shlex.quote(str(job.http_url).rstrip('/'))}"]
    if job.container.http and job.container.http.requires_auth:
        lines.append(f'export MLFLOW_TRACKING_TOKEN="$({shlex.quote(flow.login.apolo)} config show-token)"')
    return lines


def describe(flow: Flow, job: Job) -> str:
    """Return the block that says where the server is, how to use it, where its data is and when it ends."""
    make, env = flow.settings.make, env_of(job)
    left = time_left(job)
    protected = job.container.http is not None and job.container.http.requires_auth
    rows = [
        ("address", str(job.http_url)),
        ("access", "users of the platform" if protected else "whoever knows the address"),
        ("this shell", f'eval "$({make("-s mlflow-env")})"    which means'),
        *[("", line) for line in exports(flow, job)],
        ("jobs of this flow", f"MLFLOW_TRACKING_URI: {inspected_uri(flow, job)}"),
        ("", f"started with: {flow.login.neuro_flow} run JOB"),
        ("runs", redact(env.get("MLFLOW_BACKEND_STORE_URI", "")) or "on the volume of the artifacts"),
        ("artifacts", env.get("MLFLOW_ARTIFACTS_DESTINATION", "")),
    ]
    for volume in job.container.volumes:
        kept = f" (on this machine in {flow.login.storage})" if flow.login.storage else ""
        rows.append(("volume", f"{volume.container_path} is {volume.storage_uri}{kept}"))
    for disk in job.container.disk_volumes:
        rows.append(("volume", f"{disk.container_path} is {disk.disk_uri}"))
    if left is not None:
        end = time.strftime("%F %H:%M", time.localtime(time.time() + left))
        rows.append(("ends", f"{end}, in {format_duration(left)}; later with: {make('mlflow-extend')} BY=2d"))
    rows.append(("stop", make("mlflow-down")))
    return "\n".join(f"  {name:18} {text}" for name, text in rows)


def inspected_uri(flow: Flow, job: Job) -> str:
    """Return the server's address for a job of the same flow, as an expression of neuro-flow."""
    port = job.container.http.port if job.container.http else ""
    return f"http://${{{{ inspect_job('{flow.settings.job}').internal_hostname_named }}}}:{port}"
