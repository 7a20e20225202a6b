"""The workspace's flow on a platform: its jobs, found, lengthened and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import console
from common.console import Failure, Problem, one_line, say
from common.lazy import lazily
from common.waits import ended
from flow import neuro_flow
from flow.login import Login
from flow.logs import Logs
from flow.neuro_flow import HeldRun
from flow.submission import Submission
from settings import action
from settings.layers import Settings, redact
from settings.live import flow_dir, live_file, project_file

if TYPE_CHECKING:
    import apolo_sdk
    import yarl

    Job = apolo_sdk.JobDescription
else:
    apolo_sdk, Job = lazily("apolo_sdk"), object

GONE_WAIT = 60.0
"""Seconds that the processes of a job have to end: the platform gives them 30, and looks now and then."""


def tags(job: str) -> set[str]:
    """Return the tags by which neuro-flow finds a job of this workspace.

    Source: `LiveContext` in apolo_flow 24.12.1: ids in lower case with `-` for `_`; the project's id is the
    folder's name where project.yml has none, the flow's is `live` where live.yaml has none.
    """
    folder = flow_dir()
    ids = {"project": Path.cwd().stem, "flow": "live", "job": job}
    for name, path in (("project", project_file(folder)), ("flow", live_file(folder))):
        if written := _scalar(path, "id"):
            ids[name] = written
    return {f"{name}:{value.replace('_', '-').lower()}" for name, value in ids.items()}


def _scalar(path: Path | None, key: str) -> str:
    """Return what a file of the flow says under a key, an empty string where it says nothing."""
    node = action.find(action.compose(path.read_text(encoding="utf-8")), key) if path else None
    return str(node.value) if node is not None else ""


def state_of(job: Job) -> str:
    """Return a job's status and why it has it, as words; a tail of its log among them is left out."""
    said = (job.history.description or "").strip()
    words = (job.status, job.history.reason, "" if "\n" in said else said)
    return redact(one_line(" ".join(filter(None, words))))


class Flow(Logs):
    """The workspace's flow on the chosen platform."""

    def __init__(self, settings: Settings, login: Login, client: apolo_sdk.Client) -> None:
        self.settings = settings
        self.login = login
        self.client = client
        named = _scalar(project_file(settings.flow_dir), "project_name")
        self.project: str = named or client.config.project_name or ""
        """The platform's project of the flow's jobs: that of the login, unless project.yml names another."""
        self.job: Job | None = None
        """The active server job, if there is one."""
        self.held: HeldRun | None = None
        """The run that is to become the server's or a model's job, where it has begun."""

    def jobs(
        self, *, every_project: bool = False, **filters: Any
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Job]]:
        """List jobs of the flow's project; all lists go through here.

        Without a project's name the platform lists the jobs of all that the user can read, also by tags.
        """
        config = self.client.config
        return self.client.jobs.list(
            cluster_name=config.cluster_name,
            org_names=[config.org_name],
            project_names=[] if every_project else [self.project],
            **filters,
        )

    async def has_active_jobs(self) -> bool:
        """Tell whether any job of the user is pending or running on the platform, the server's or another."""
        statuses = apolo_sdk.JobStatus.active_items()
        async with self.jobs(statuses=statuses, limit=1, every_project=True) as jobs:
            return bool([job async for job in jobs])

    async def find(self, *, ended: bool = False) -> Job | None:
        """Return the active server job, or with `ended` the newest one that has ended, or None."""
        statuses = apolo_sdk.JobStatus.finished_items() if ended else apolo_sdk.JobStatus.active_items()
        mine = tags(self.settings.job)
        async with self.jobs(tags=mine, statuses=statuses, reverse=True, limit=1) as listed:
            async for job in listed:
                return job
        return None

    async def models(self, suffix: str = "", *, ended: bool = False) -> list[Job]:
        """Return the active jobs that serve models, the newest first, or with `ended` those that have ended.

        With a `suffix` only those that neuro-flow finds by it.
        """
        statuses = apolo_sdk.JobStatus.finished_items() if ended else apolo_sdk.JobStatus.active_items()
        mine = tags(self.settings.deploy_job) | ({f"multi:{suffix}"} if suffix else set())
        async with self.jobs(tags=mine, statuses=statuses, reverse=True) as listed:
            return [job async for job in listed]

    async def neuro_flow(self, *words: str) -> str:
        """Run a neuro-flow command and return what it printed, as `neuro_flow.neuro_flow` does."""
        return await neuro_flow.neuro_flow(self.settings, self.login, *words)

    def rendered(self, *, keep: bool = False) -> contextlib.AbstractAsyncContextManager[None]:
        """Have the rendered action as these settings want it while the block runs, and then with `keep`."""
        return neuro_flow.rendered(self.settings, keep=keep)

    async def evaluate(self) -> Submission:
        """Return the job that neuro-flow would submit of what is `rendered`.

        Raises:
            Failure: the flow or the action cannot be evaluated.
        """
        return await neuro_flow.evaluate(self.settings, self.login)

    def folders(self, submission: Submission) -> list[yarl.URL]:
        """Return the storage folders that the job mounts."""
        references = [volume for volume in submission.volumes if volume.startswith("storage:")]
        return [self.client.parse.volume(reference).storage_uri for reference in references]

    async def make_folders(self, submission: Submission) -> None:
        """Make the storage folders that the job mounts: a job does not start where one is missing."""
        for folder in self.folders(submission):
            await self.client.storage.mkdir(folder, parents=True, exist_ok=True)

    async def stop(self, job: Job) -> None:
        """Stop a job and wait for its end, and that of its processes where it can be seen.

        Raises:
            Failure: it has not ended after the time limit.
        """
        await self.client.jobs.kill(job.id)
        try:
            await self._ended(job)
        except asyncio.CancelledError:
            say(f"job {job.id} ends all the same: it has been told to")
            raise

    async def _ended(self, job: Job) -> None:
        """Wait for the end of a job that has been told to end.

        Raises:
            Failure: it has not ended after the time limit.
        """
        with console.waiting_for(f"job {job.id} to end") as waiting:
            while not job.status.is_finished:
                if waiting.tick(job.status) > self.settings.timeout:
                    raise Failure(
                        Problem(
                            f"job {job.id} is still {job.status}",
                            "run the same again",
                        )
                    )
                await asyncio.sleep(0.2)
                job = await self.client.jobs.status(job.id)
            await self._gone(job, waiting)

    async def _gone(self, job: Job, waiting: console.Waiting) -> None:
        """Wait for the end of a job that is called ended at once: of its container, and of what that says."""
        reading = asyncio.ensure_future(self.read_log(job))
        deadline = time.monotonic() + min(GONE_WAIT, self.settings.timeout)
        try:
            while time.monotonic() < deadline:
                if reading.done() and not job._internal.materialized:
                    return
                waiting.tick(f"{job.status}, and its processes are ending")
                await asyncio.wait({reading}, timeout=0.5)
                job = await self.client.jobs.status(job.id)
            left = f"the processes of job {job.id} may run for another {GONE_WAIT:.0f} s"
            say(f"{left}; nothing else changes their store until then")
        finally:
            await ended(reading)


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


async def lengthen(flow: Flow, job: Job, seconds: int, what: str, source: str) -> None:
    """Lengthen a job's life span, by whole minutes; `what` says which value of the user's wants that.

    Raises:
        Failure: the platform refuses it.
    """
    try:
        await flow.client.jobs.bump_life_span(job.id, seconds)
    except apolo_sdk.IllegalArgumentError as error:
        reason = redact(one_line(str(error)))
        refused = f"{what}, which the platform refuses for job {job.id}: {reason}"
        raise Failure(Problem(refused, "choose another one", source)) from None
