"""The MLflow server of a running job: whether it answers, and what its user needs to know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import time
from typing import TYPE_CHECKING

from common.console import format_duration, one_line
from common.lazy import lazily
from flow import credentials
from flow.credentials import Credentials
from flow.drift import is_ours
from flow.logs import WORDS
from flow.submission import unescaped
from flow.workspace import Flow, Job, time_left
from settings import access
from settings.layers import redact

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk
else:
    aiohttp, apolo_sdk = lazily("aiohttp"), lazily("apolo_sdk")


def env_of(job: Job) -> dict[str, str]:
    """Return the job's environment, a secret as its `secret:NAME`."""
    secrets = {
        name: f"secret:{uri.path.rsplit('/', 1)[-1]}" for name, uri in job.container.secret_env.items()
    }
    return {**{name: unescaped(value) for name, value in job.container.env.items()}, **secrets}


def extra_params(job: Job) -> str:
    """Return the further options of `mlflow server` that the job was started with."""
    return env_of(job).get("MLFLOW_ACTION_EXTRA_PARAMS", "")


def prefix(job: Job) -> str:
    """Return the path below which the server answers, "" for the root."""
    return access.static_prefix(extra_params(job), env_of(job))


def address(job: Job) -> str:
    """Return where clients reach the server: the job's address, and the prefix that it may have."""
    return str(job.http_url).rstrip("/") + prefix(job)


def needs_login(job: Job) -> bool:
    """Tell whether the platform lets only its users in."""
    return bool(job.container.http and job.container.http.requires_auth)


def has_users(job: Job) -> bool:
    """Tell whether MLflow asks for the name and password of a user of its own."""
    return access.has_users(extra_params(job))


def known_credentials(flow: Flow, job: Job) -> Credentials | None:
    """Return what this machine knows to get past MLflow's own users, None where it does or needs nothing."""
    return credentials.find(flow.login, env_of(job)) if has_users(job) else None


async def authorization(flow: Flow, job: Job) -> dict[str, str]:
    """Return the header that gets this machine in; none where none is needed, or known."""
    known = known_credentials(flow, job)
    if needs_login(job):  # there is one header, and the platform is asked first
        return {"Authorization": f"Bearer {await flow.client.config.token()}"}
    if known:
        return {"Authorization": aiohttp.BasicAuth(known.name, known.password, "utf-8").encode()}
    return {}


async def probe(flow: Flow, job: Job) -> str:
    """Call the server's API through its public address; return why it does not serve, "" when it does.

    `/health` would not do: it stays 200 while every user gets 403 for the server's own name. One that has
    users of its own serves as soon as it asks for a password: only they may know which is right.
    """
    if job.http_url is None or not job.http_url.host:
        return "the job has no address yet"
    headers = await authorization(flow, job)
    url = f"{address(job)}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            text = await answer.text()
            if answer.status == 200 and isinstance(json.loads(text), dict):
                return ""
            asks = 'realm="mlflow"' in answer.headers.get("WWW-Authenticate", "")
            if answer.status == 401 and asks and has_users(job):
                return ""
            return f"it answers {answer.status} {redact(one_line(text)[:120])}"
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
        return f"it does not answer: {error or type(error).__name__}"


def starting(trouble: str, words: list[str]) -> str:
    """Return what a server that does not answer yet is doing: its own last words, or what takes longest."""
    if not re.match(r"it does not answer|it answers 50[234]\b", trouble):
        return trouble
    greeted = not words or re.match(r"MLflow \d", words[-1])  # after its settings it imports
    return "starting: imports MLflow" if greeted else f"starting: {words[-1]}"


async def listen(flow: Flow, job: Job, words: list[str]) -> None:
    """Add what the server says itself to `words` until the job ends; what cannot be read is not missed."""
    with contextlib.suppress(aiohttp.ClientError, apolo_sdk.ClientError, ConnectionError):
        async for line in flow.lines(job):
            if line.startswith(WORDS):
                words.append(redact(line.removeprefix(WORDS)))


def exports(flow: Flow, job: Job) -> list[str]:
    """Return the shell lines that point an MLflow client at the server; a token is fetched, never written."""
    lines = [f"export MLFLOW_TRACKING_URI={shlex.quote(address(job))}"]
    if needs_login(job):
        lines.append(f'export MLFLOW_TRACKING_TOKEN="$({shlex.quote(flow.login.apolo)} config show-token)"')
    if known := known_credentials(flow, job):
        lines.append(f"export {credentials.NAME}={shlex.quote(known.name)}")
        lines.append(f"export {credentials.PASSWORD}={known.shell}")
    return lines


def missing_credentials(flow: Flow, job: Job) -> str:
    """Return what the user has to set to get in as well, "" where `exports` has it all."""
    if not has_users(job) or known_credentials(flow, job):
        return ""
    name = env_of(job).get(access.ADMIN_NAME) or access.DEFAULT_ADMIN
    return (
        f"set {credentials.NAME} ({name} is the first user) and {credentials.PASSWORD} yourself, "
        "or keep them in ~/.mlflow/credentials: the platform gives no secret back"
    )


def who_gets_in(job: Job) -> str:
    """Return who reaches the server, in words."""
    own = "users of MLflow's own, by name and password"
    if needs_login(job):
        return f"users of the platform who are {own}" if has_users(job) else "users of the platform"
    return own if has_users(job) else "whoever knows the address"


def describe(flow: Flow, job: Job) -> str:
    """Return how to use the server, then where its data is and when it ends, in lines of 80 columns."""
    make, env = flow.settings.make, env_of(job)
    left = time_left(job)
    rows = [
        ("access", who_gets_in(job)),
        *[("means", line) for line in exports(flow, job)],
        *[("", line) for line in [missing_credentials(flow, job)] if line],
    ]
    if is_ours(job):  # one of an older action does not say
        rows.append(
            ("runs", redact(env.get("MLFLOW_BACKEND_STORE_URI", "")) or "on the volume of the artifacts")
        )
        rows.append(("artifacts", env.get("MLFLOW_ARTIFACTS_DESTINATION", "")))
    for volume in job.container.volumes:
        rows.append(("volume", f"{volume.container_path} is {volume.storage_uri}"))
        if flow.login.storage:
            rows.append(("", f"on this machine in {flow.login.storage}"))
    for disk in job.container.disk_volumes:
        rows.append(("volume", f"{disk.container_path} is {disk.disk_uri}"))
    if left is not None:
        end = time.strftime("%F %H:%M", time.localtime(time.time() + left))
        rows.append(("ends", f"{end}, in {format_duration(left)}"))
        rows.append(("later", f"{make('mlflow-extend')} BY=2d"))
    rows.append(("stop", make("mlflow-down")))
    lines = [
        flow.settings.eval_line(),
        *(f"  {name:9}  {text}" for name, text in rows),
        f"  for jobs of this flow, started with {flow.login.neuro_flow} run JOB:",
        "    MLFLOW_TRACKING_URI: >-",
        f"      {inspected_uri(flow, job)}",
    ]
    return "\n".join(lines)


def internal_uri(job: Job) -> str:
    """Return the server's address inside of the cluster, which needs no token."""
    port = job.container.http.port if job.container.http else ""
    return f"http://{job.internal_hostname_named or job.internal_hostname}:{port}{prefix(job)}"


def inspected_uri(flow: Flow, job: Job) -> str:
    """Return the server's address for a job of the same flow, as an expression of neuro-flow."""
    port = job.container.http.port if job.container.http else ""
    return f"http://${{{{ inspect_job('{flow.settings.job}').internal_hostname_named }}}}:{port}{prefix(job)}"
