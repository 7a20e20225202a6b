"""The workspace's flow on a platform: its server's job, found, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from common import console
from common.console import UNREACHABLE, Failure, Problem
from common.lazy import lazily
from flow import neuro_flow
from flow.login import VENV_BIN, Login, log_in
from flow.neuro_flow import HeldRun
from flow.submission import Submission
from settings import action
from settings.layers import Settings, redact
from settings.live import flow_dir, live_file

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk

    Job = apolo_sdk.JobDescription
else:
    aiohttp, apolo_sdk, Job = lazily("aiohttp"), lazily("apolo_sdk"), object

CONNECT_TIMEOUT = 12
"""Seconds for the first answer of the platform: `make` has to say so within 15 that there is none."""


@contextlib.contextmanager
def platform_errors(settings: Settings) -> Iterator[None]:
    """Turn what the SDK raises where there is no login or no platform into one line and exit code 2."""
    again = f"`{VENV_BIN}/neuro login` logs in; `make mlflow-up MLFLOW_PLATFORM=local` needs no login"
    try:
        yield
    except apolo_sdk.ConfigError as error:
        absent = re.search("does not exist|not a regular file", str(error))
        reason = "not logged in to the platform" if absent else f"no login: {error}"
        raise Failure(Problem(reason, again), code=UNREACHABLE) from None
    except apolo_sdk.AuthError as error:
        raise Failure(Problem(f"the platform refuses the login: {error}", again), code=UNREACHABLE) from None
    except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
        reason = str(error) or f"no answer in {CONNECT_TIMEOUT} s"
        fix = "check the network; run the same command again"
        raise Failure(
            Problem(f"the platform cannot be reached: {reason}", fix, settings.platform), code=UNREACHABLE
        ) from None


def tags(job: str) -> set[str]:
    """Return the tags by which neuro-flow finds a job of this workspace.

    Source: `LiveContext` in apolo_flow 24.12.1: ids in lower case with `-` for `_`; the project's id is the
    folder's name where project.yml has none, the flow's is `live` where live.yaml has none.
    """
    folder = flow_dir()
    ids = {"project": Path.cwd().stem, "flow": "live", "job": job}
    project = next((f for f in (folder / "project.yml", folder / "project.yaml") if f.is_file()), None)
    for name, path in (("project", project), ("flow", live_file(folder))):
        node = action.find(action.compose(path.read_text(encoding="utf-8")), "id") if path else None
        if node is not None:
            ids[name] = node.value
    return {f"{name}:{value.replace('_', '-').lower()}" for name, value in ids.items()}


class Flow:
    """The workspace's flow on the chosen platform."""

    def __init__(self, settings: Settings, login: Login, client: apolo_sdk.Client) -> None:
        self.settings = settings
        self.login = login
        self.client = client
        self.job: Job | None = None
        """The active server job, if there is one."""
        self.held: HeldRun | None = None
        """The run that is to become the server's job, where it has begun."""

    async def has_active_jobs(self) -> bool:
        """Tell whether any job of the user is pending or running on the platform, the server's or another."""
        async with self.client.jobs.list(statuses=apolo_sdk.JobStatus.active_items(), limit=1) as jobs:
            return bool([job async for job in jobs])

    async def find(self, *, ended: bool = False) -> Job | None:
        """Return the active server job, or with `ended` the newest one that has ended, or None."""
        statuses = apolo_sdk.JobStatus.finished_items() if ended else apolo_sdk.JobStatus.active_items()
        jobs = self.client.jobs.list(tags=tags(self.settings.job), statuses=statuses, reverse=True, limit=1)
        async with jobs as listed:
            async for job in listed:
                return job
        return None

    async def neuro_flow(self, *words: str) -> str:
        """Run a neuro-flow command and return what it printed, as `neuro_flow.neuro_flow` does."""
        return await neuro_flow.neuro_flow(self.settings, self.login, *words)

    def rendered(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Keep the rendered action as these settings want it while the block runs."""
        return neuro_flow.rendered(self.settings)

    async def evaluate(self) -> Submission:
        """Return the job that neuro-flow would submit of what is `rendered`.

        Raises:
            Failure: the flow or the action cannot be evaluated.
        """
        return await neuro_flow.evaluate(self.settings, self.login)

    async def make_folders(self, submission: Submission) -> None:
        """Make the storage folders that the job mounts: a job does not start where one is missing."""
        for reference in submission.volumes:
            if reference.startswith("storage:"):
                volume = self.client.parse.volume(reference)
                await self.client.storage.mkdir(volume.storage_uri, parents=True, exist_ok=True)

    async def stop(self, job: Job) -> None:
        """Stop a job and wait for its end.

        Raises:
            Failure: it has not ended after the time limit.
        """
        await self.client.jobs.kill(job.id)
        with console.waiting_for(f"job {job.id} to end") as waiting:
            while not job.status.is_finished:
                if waiting.tick(job.status) > self.settings.timeout:
                    raise Failure(
                        Problem(
                            f"job {job.id} is still {job.status}",
                            f"run `{self.settings.make('mlflow-down')}` again",
                        )
                    )
                await asyncio.sleep(0.2)
                job = await self.client.jobs.status(job.id)

    async def log(self, job: Job, *, follow: bool) -> AsyncIterator[bytes]:
        """Yield a job's log; without `follow` only what is there.

        The platform ends the stream only with the job, so what is there has been read when it pauses.
        """
        wait = None if follow or job.status.is_finished else 2.0
        async with self.client.jobs.monitor(job.id) as chunks:
            iterator = chunks.__aiter__()
            with contextlib.suppress(asyncio.TimeoutError, StopAsyncIteration):
                while True:
                    yield await asyncio.wait_for(iterator.__anext__(), wait)

    async def log_tail(self, job: Job, lines: int = 15) -> str:
        """Return the last lines of a job's log."""
        data = b""
        with contextlib.suppress(aiohttp.ClientError, apolo_sdk.ClientError):
            async for chunk in self.log(job, follow=False):
                data = (data + chunk)[-100_000:]
        return "\n".join(redact(data.decode(errors="replace")).splitlines()[-lines:])


def require_job(flow: Flow) -> Job:
    """Return the active server job.

    Raises:
        Failure: there is none.
    """
    if flow.job is None:
        raise Failure(Problem("no server is running", f"start one with `{flow.settings.make('mlflow-up')}`"))
    return flow.job


def age(job: Job) -> float:
    """Return the seconds since the job started, 0 while it has not."""
    started = job.history.started_at
    return (datetime.now(timezone.utc) - started).total_seconds() if started else 0.0


def time_left(job: Job) -> float | None:
    """Return the seconds until the job's life span ends, None where it has none."""
    return job.life_span - age(job) if job.life_span else None


@contextlib.asynccontextmanager
async def open_flow(
    settings: Settings, *, will_run: bool = False, will_start: bool = False
) -> AsyncIterator[Flow]:
    """Yield the flow, connected; ends the embedded platform again when no job is left on it.

    With `will_start` the server's job is evaluated meanwhile, as `Flow.held`, which has to be closed.

    Raises:
        Failure: there is no login, or the platform does not answer.
    """
    login = log_in(settings, will_run=will_run)
    idle = False
    held = None
    try:
        if will_start:
            held = HeldRun(settings, login)
            await held.begin()
        with platform_errors(settings):
            client = await asyncio.wait_for(apolo_sdk.get(path=login.config), CONNECT_TIMEOUT)
            try:
                flow = Flow(settings, login, client)
                flow.held = held
                flow.job = await asyncio.wait_for(flow.find(), CONNECT_TIMEOUT)
                try:
                    yield flow
                finally:
                    idle = login.is_last_user() and not await flow.has_active_jobs()
            finally:
                await client.close()
    finally:
        if held:
            await held.close()
        login.release(idle)
