"""The workspace's flow on a platform: its server's job, found, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import console
from common.console import UNREACHABLE, Failure, Problem, one_line, say
from common.lazy import lazily
from common.waits import ended, within
from flow import neuro_flow
from flow.login import VENV_BIN, Login, log_in
from flow.neuro_flow import HeldRun
from flow.submission import Submission
from settings import action
from settings.layers import Settings, redact
from settings.live import flow_dir, live_file, project_file

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk
    import yarl

    Job = apolo_sdk.JobDescription
else:
    aiohttp, apolo_sdk, Job = lazily("aiohttp"), lazily("apolo_sdk"), object

CONNECT_TIMEOUT = 12
"""Seconds for the first answer of the platform: `make` has to say so within 15 that there is none."""
FIRST_LINES, MORE_LINES = 15.0, 2.0
"""Seconds for the first piece of a log, and for each further one: what is there has been read then."""
GONE_WAIT = 60.0
"""Seconds that the processes of a job have to end: the platform gives them 30, and looks now and then."""
WORDS = "mlflow-server: "
"""What the lines of our own in the log of a job begin with, as in scripts/in_job."""
LOG_LAG = 15.0
"""Seconds by which the log of an ended job may lag behind its end."""


@contextlib.contextmanager
def platform_errors(settings: Settings) -> Iterator[None]:
    """Turn what the SDK raises into one line: exit code 2 where there is no login or no platform, else 1."""
    local = f"make mlflow-{settings.target or 'up'} MLFLOW_PLATFORM=local"
    again = f"`{VENV_BIN}/neuro login` logs in; `{local}` needs no login"
    try:
        yield
    except apolo_sdk.ConfigError as error:
        absent = re.search("does not exist|not a regular file", str(error))
        reason = "not logged in to the platform" if absent else f"no login: {error}"
        raise Failure(Problem(reason, again), code=UNREACHABLE) from None
    except apolo_sdk.AuthError as error:
        reason = f"the platform refuses the login: {one_line(str(error))}"
        raise Failure(Problem(reason, again), code=UNREACHABLE) from None
    except (
        aiohttp.ClientError,
        asyncio.TimeoutError,
        ConnectionError,
        apolo_sdk.BadGateway,
        apolo_sdk.ServerNotAvailable,
    ) as error:
        reason = one_line(str(error)) or f"no answer in {CONNECT_TIMEOUT} s"
        fix = "check the network; run the same command again"
        raise Failure(
            Problem(f"the platform cannot be reached: {reason}", fix, settings.platform), code=UNREACHABLE
        ) from None
    except (
        apolo_sdk.IllegalArgumentError,
        apolo_sdk.ResourceNotFound,
        apolo_sdk.ClientError,
        apolo_sdk.NDJSONError,
    ) as error:
        reason = redact(one_line(str(error))[:1000]) or type(error).__name__
        fix = "correct what it names; where it names nothing of yours, run the same command again"
        raise Failure(Problem(f"the platform refuses that: {reason}", fix, settings.platform)) from None


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


class Flow:
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

    async def log(self, job: Job, *, follow: bool) -> AsyncIterator[bytes]:
        """Yield a job's log; without `follow` only what is there.

        The platform ends the stream only with the job, so what is there has been read when it pauses.
        """
        wait = None if follow or job.status.is_finished else FIRST_LINES
        mark = f"mlflow {uuid.uuid4().hex}"  # stands between the kept log and the live one, not of the job
        line = re.compile(mark.encode() + rb"\n?")
        stream = self.client.jobs.monitor(job.id, cluster_name=job.cluster_name, separator=mark)
        async with stream as chunks:
            iterator = chunks.__aiter__()
            with contextlib.suppress(asyncio.TimeoutError, StopAsyncIteration):
                while True:
                    chunk = await within(wait, iterator.__anext__())
                    wait = wait and MORE_LINES
                    yield line.sub(b"", chunk)

    async def lines(self, job: Job) -> AsyncIterator[str]:
        """Yield the lines of a job's log as they come, without blanks around them, until the job ends."""
        rest = b""
        async for chunk in self.log(job, follow=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").strip()

    async def log_tail(self, job: Job, lines: int = 15) -> str:
        """Return the last lines of a job's log.

        Those of an ended job may not be there yet: they are read again until its description's last line,
        which the platform takes from the job itself, is among them, or shown from the description.
        """
        said = [line.strip() for line in (job.history.description or "").splitlines() if line.strip()]
        deadline = time.monotonic() + LOG_LAG
        while True:
            read = await self.read_log(job)
            missing = job.status.is_finished and (said[-1] not in read if said else not read.strip())
            if not missing or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
        text = "\n".join(said) if missing and len(said) > 1 else read
        return "\n".join(redact(text).splitlines()[-lines:])

    async def read_log(self, job: Job) -> str:
        """Return the end of a job's log, as far as it is there."""
        data = b""
        with contextlib.suppress(aiohttp.ClientError, apolo_sdk.ClientError, ValueError):
            async for chunk in self.log(job, follow=False):
                data = (data + chunk)[-100_000:]
        return data.decode(errors="replace")


def last_words(log: str) -> str:
    """Return the reason that the end of a log gives, "" for none: its last error, else our own last line.

    Ours are no reason where they point to those of others, or say what the server has begun with.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(rf"{WORDS}(MLflow \d|.*see (its words )?above$)", line)]
    own = [number for number, line in enumerate(lines) if line.startswith(WORDS)]
    after = lines[own[-1] + 1 :] if own else lines
    errors = [line for line in after if re.search("error|exception|cannot|fail|refused|killed", line, re.I)]
    found = errors or [lines[number] for number in own] or lines or [""]
    return found[-1].removeprefix(WORDS).removeprefix("error: ")[:500]


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


async def connected(login: Login) -> apolo_sdk.Client:
    """Return a client of the platform, which has to be closed."""
    getting = asyncio.ensure_future(apolo_sdk.get(path=login.config))
    try:
        return await within(CONNECT_TIMEOUT, getting)
    except asyncio.CancelledError:
        if not getting.cancelled() and not getting.exception():
            await getting.result().close()
        raise


@contextlib.asynccontextmanager
async def open_flow(
    settings: Settings, *, will_run: bool = False, will_start: str = ""
) -> AsyncIterator[Flow]:
    """Yield the flow, connected; ends the embedded platform again when no job is left on it.

    The run of the job `will_start` begins meanwhile, as `Flow.held`; the server's is evaluated, too.

    Raises:
        Failure: there is no login, or the platform does not answer.
    """
    login = log_in(settings, will_run=will_run)
    idle = False
    held = None
    try:
        if will_start:
            held = HeldRun(settings, login, will_start)
            await held.begin()
            if will_start == settings.job:
                await held.evaluate()
        with platform_errors(settings):
            client = await connected(login)
            try:
                flow = Flow(settings, login, client)
                if not flow.project:
                    fix = f"`{login.apolo_typed} config switch-project NAME`, or project_name in project.yml"
                    raise Failure(Problem("no project of the platform is chosen", fix))
                flow.held = held
                flow.job = await within(CONNECT_TIMEOUT, flow.find())
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
