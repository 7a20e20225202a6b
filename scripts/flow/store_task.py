"""Running a task of store_job.py on the server's store: in a job of its own, whether the server runs or not.

A job of its own, not a command in the server's: it works when the server cannot start, shares no memory with
it, and the platform sees to it that there is one at a time, by its name. The SDK starts it from what
neuro-flow evaluates of the action: image, preset, environment, secrets and volumes are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yarl

from common import console
from common.console import Failure, Problem, format_duration, one_line, say
from common.lazy import lazily
from flow import program
from flow.logs import WORDS, last_words
from flow.platform_check import check_submission
from flow.references import volumes_of
from flow.store_guard import require_same_store
from flow.submission import Submission, escaped
from flow.workspace import Flow, Job, state_of, tags
from settings.layers import redact
from settings.values import one_slash, sqlite_path

if TYPE_CHECKING:
    import aiohttp
    import apolo_sdk
else:
    aiohttp, apolo_sdk = lazily("aiohttp"), lazily("apolo_sdk")

JOB = "mlflow_store"
"""The job's id in the tags, where neuro-flow has the ids of live.yaml."""
RESULT = ".mlflow-result-"  # as in store_job.py, which imports nothing from here
LINE, ERROR = "mlflow-store-result: ", "error: "  # the same
RESULT_LAG = 15.0
"""Seconds in which a file that a job has written shows on the platform's storage."""
LIFE_SPAN = 24 * 3600  # seconds; a job that nobody watches any more ends by then


@dataclass(frozen=True)
class Backups:
    """The folder of the backups: where the job sees it, and where it is on the platform's storage."""

    path: str
    uri: yarl.URL
    volume: apolo_sdk.Volume | None
    """The volume to mount for it, None where the server's has it."""


def backups_of(flow: Flow, submission: Submission, project: str) -> Backups:
    """Return where backups are kept: on a volume of the server, where no artifact can be.

    That is `backups` beside the artifacts or the database. A volume that is the artifacts destination, or no
    volume at all, leaves a folder of its own on the storage.
    """
    destination = one_slash(submission.env.get("MLFLOW_ARTIFACTS_DESTINATION", ""))
    destination = destination.removeprefix("file://").rstrip("/")
    database = sqlite_path(submission.env.get("MLFLOW_BACKEND_STORE_URI", "")) or ""
    volumes = [v for v in flow.client.parse.volumes(submission.volumes).volumes if not v.read_only]

    def holds(volume: apolo_sdk.Volume, path: str) -> bool:
        return f"{path}/".startswith(volume.container_path.rstrip("/") + "/")

    apart = [v for v in volumes if not holds_folder(destination, f"{v.container_path.rstrip('/')}/backups")]
    apart.sort(key=lambda v: (not holds(v, destination), not holds(v, str(database))))
    if apart:
        folder = apart[0].container_path.rstrip("/") + "/backups"
        return Backups(folder, apart[0].storage_uri / "backups", None)
    uri = flow.client.parse.str_to_uri(f"storage:{project}-mlflow-backups", project_name=flow.project)
    volume = apolo_sdk.Volume(uri, "/mnt/mlflow-backups")
    return Backups(volume.container_path, volume.storage_uri, volume)


def in_json(value: object) -> str:
    """Return a value in JSON without any `$`, which Kubernetes reads in a job's environment."""
    return json.dumps(value).replace("$", "\\u0024")


def holds_folder(folder: str, path: str) -> bool:
    """Tell whether a path is a folder or in it."""
    return f"{path}/".startswith(f"{folder}/")


def job_name(project: str) -> str:
    """Return a name for the job, made of the flow's project: the platform allows not every one.

    It keeps names that begin with `job-` for itself, and takes letters, digits and single hyphens only.
    """
    words = re.sub("[^a-z0-9]+", "-", project.lower()).strip("-")
    if not words[:1].isalpha() or f"{words}-".startswith("job-"):
        words = f"flow-{words}".rstrip("-")
    return words[: 40 - len("-mlflow-store")].rstrip("-") + "-mlflow-store"


def own_tags() -> dict[str, str]:
    """Return the tags of the jobs that work on this workspace's store, by name."""
    return dict(tag.split(":", 1) for tag in tags(JOB))


class Task:
    """What is done to the store: evaluated by neuro-flow, and checked, before anything is started."""

    def __init__(self, flow: Flow, submission: Submission) -> None:
        self.flow = flow
        self.submission = submission
        self._tags = own_tags()
        self.backups = backups_of(flow, submission, self._tags["project"])

    @classmethod
    async def prepare(cls, flow: Flow, *, dry_run: bool = False) -> Task:
        """Return the task that today's settings mean; with `dry_run` its job may only look.

        Raises:
            Failure: the settings or the platform are not as a server needs them.
        """
        await require_same_store(flow)
        async with flow.rendered(keep=not dry_run):
            submission = await flow.evaluate()
        await check_submission(flow, submission)
        if not dry_run:
            await flow.make_folders(submission)
        return cls(flow, submission)

    async def look(self, what: str, source: str = "") -> dict[str, Any]:
        """Print what the store holds that something would be done to, and return what look.py has found.

        Raises:
            Failure: it cannot be read, or is not there yet.
        """
        for uri in self.flow.folders(self.submission):
            try:
                await self.flow.client.storage.stat(uri)
            except apolo_sdk.ResourceNotFound:
                fix = f"`{self.flow.settings.make('mlflow-up')}` makes it"
                raise Failure(Problem(f"there is no store yet: {uri} is not there", fix)) from None
        found = await self.run("look", dry_run=True, **({"from": source} if source else {}))
        print(f"would {what}: {found['store']}")
        print(f"  holds    {found['holds']}")
        if found["bytes"] is not None:
            print(f"  size     {found['bytes']:,} bytes")
        if found["unfinished"]:
            print("  before   finishes or undoes what was interrupted")
        return found

    async def run(self, what: str, **task: Any) -> dict[str, Any]:
        """Do `what` (a task of store_job.py) in a job, show its words, and return its result.

        Raises:
            Failure: it failed, or another such job is at work.
        """
        name = f"{RESULT}{uuid.uuid4().hex}.json"
        words = {"do": what, "backups": self.backups.path, "result": name, **task}
        starting = asyncio.ensure_future(self._start(words))
        try:
            job = await self._follow(await asyncio.shield(starting), what)
            result = await (self._looked(job) if task.get("dry_run") else self._result(job, name))
            if result is None:
                tail = await self.flow.log_tail(job)
                print(tail, file=sys.stderr)
                last = last_words(tail)
                ended = f"the {what} ended without a result (job {job.id}: {state_of(job)})"
                raise Failure(Problem(f"{ended}{last and f': {last}'}", "run the same again"))
        except (asyncio.CancelledError, Failure):
            await asyncio.shield(self._stop(starting, what, "" if task.get("dry_run") else name))
            raise
        if "error" in result:
            raise Failure(f"{result['error']}")
        return result

    async def _stop(self, starting: asyncio.Future[Job], what: str, name: str) -> None:
        """Stop a job that goes on, and say it where it had done its work already; `name` is of its result.

        One that is just being started may have been accepted: that is waited for.
        """
        await asyncio.wait({starting})
        if starting.exception():
            return
        job = await self.flow.client.jobs.status(starting.result().id)
        if job.status.is_finished:
            return
        say(f"stopping job {job.id}; what it has not finished, it undoes")
        await self.flow.stop(job)
        result = await self._result(await self.flow.client.jobs.status(job.id), name) if name else None
        if result is not None and "error" not in result:
            say(f"the {what} was done before that")

    async def _start(self, task: dict[str, Any]) -> Job:
        flow, submission = self.flow, self.submission
        parse, jobs = flow.client.parse, flow.client.jobs
        volumes = await volumes_of(flow, submission.volumes)
        env = parse.envs([f"{name}={escaped(value)}" for name, value in submission.env.items()])
        mounted = list(volumes.volumes)
        if self.backups.volume and not task.get("dry_run"):
            await flow.client.storage.mkdir(self.backups.uri, parents=True, exist_ok=True)
        if self.backups.volume and (not task.get("dry_run") or task.get("from")):
            mounted.append(self.backups.volume)
        name = job_name(self._tags["project"])
        try:
            return await jobs.start(
                image=parse.remote_image(submission.image),
                preset_name=submission.options.get("preset") or next(iter(flow.client.config.presets)),
                entrypoint="env",
                command=shlex.join(["python3", "-uc", program.command("store_job")]),
                env={**env.env, **program.variables("store_job"), "MLFLOW_STORE_TASK": in_json(task)},
                secret_env=env.secret_env,
                volumes=mounted,
                disk_volumes=volumes.disk_volumes,
                secret_files=volumes.secret_files,
                name=name,
                tags=sorted(f"{key}:{value}" for key, value in self._tags.items()),
                description=f"mlflow-{task['do']}",
                life_span=LIFE_SPAN,
                project_name=submission.project,
                org_name=flow.client.config.org_name,
                cluster_name=flow.client.config.cluster_name,
            )
        except apolo_sdk.IllegalArgumentError as error:
            if "already exists" not in str(error):
                what = f"the platform refuses the job: {one_line(str(error))}"
                raise Failure(Problem(what, "correct the setting")) from None
        raise Failure(
            Problem(
                f"another backup, restore, upgrade or clean-up is at work (job {name})",
                f"wait for its end, or `{flow.login.apolo_typed} kill {name}` and run the same again",
            )
        )

    async def _result(self, job: Job, name: str) -> dict[str, Any] | None:
        """Return the result that an ended job has kept, and remove it; None where there is none."""
        storage, uri = self.flow.client.storage, self.backups.uri / name
        lag = 0.0 if job.status == apolo_sdk.JobStatus.CANCELLED else RESULT_LAG
        with console.waiting_for(f"the result of job {job.id}") as waiting:
            while True:
                try:
                    data = b"".join([chunk async for chunk in storage.open(uri)])
                except apolo_sdk.ResourceNotFound:
                    if waiting.tick() >= lag:
                        return None
                    await asyncio.sleep(0.5)
                else:
                    await storage.rm(uri)
                    found: dict[str, Any] = json.loads(data)
                    return found

    async def _looked(self, job: Job) -> dict[str, Any] | None:
        """Return the result of a job that may change nothing: a line of its log, as soon as it is there."""
        with console.waiting_for(f"the result of job {job.id}") as waiting:
            while True:
                lines = (await self.flow.read_log(job)).splitlines()
                for line in lines:
                    if line.startswith(LINE):
                        found: dict[str, Any] = json.loads(line.removeprefix(LINE))
                        return found
                if waiting.tick() >= RESULT_LAG:
                    return None
                await asyncio.sleep(1)

    async def _follow(self, job: Job, what: str) -> Job:
        """Show what a job says until it has ended; return it as it is then."""
        flow = self.flow
        limit = flow.settings.timeout
        with console.waiting_for(f"job {job.id} to start") as waiting:
            while job.status.is_pending:
                if waiting.tick(state_of(job)) > limit:
                    hint = "; a disk can be mounted by one job at a time" if flow.job else ""
                    fix = f"free resources or choose another preset{hint}; MLFLOW_TIMEOUT is the limit"
                    raise Failure(Problem(f"the {what} has not started in {format_duration(limit)}", fix))
                await asyncio.sleep(0.2)
                job = await flow.client.jobs.status(job.id)
        with contextlib.suppress(aiohttp.ClientError, apolo_sdk.ClientError, ValueError):  # it is for people
            async for line in flow.lines(job):
                if line and not line.startswith((LINE, WORDS + ERROR)):  # those are in the result
                    say(redact(line.removeprefix(WORDS)))
        with console.waiting_for(f"job {job.id} to end") as waiting:
            while not job.status.is_finished:
                if waiting.tick() > limit:
                    raise Failure(Problem(f"job {job.id} is still {job.status}", "run the same again"))
                job = await flow.client.jobs.status(job.id)
                await asyncio.sleep(0.1)
        return job


async def require_no_task(flow: Flow) -> None:
    """Let nobody start a server while its store is being changed.

    Raises:
        Failure: a restore, an upgrade or a clean-up is at work.
    """
    statuses = apolo_sdk.JobStatus.active_items()
    async with flow.jobs(tags=tags(JOB), statuses=statuses) as listed:
        async for job in listed:
            if job.description != "mlflow-backup":
                fix = f"wait for its end, or `{flow.login.apolo_typed} kill {job.id}` stops it"
                raise Failure(Problem(f"{job.description} is at work on the store (job {job.id})", fix))
