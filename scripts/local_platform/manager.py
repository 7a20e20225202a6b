"""The life of jobs: accepted, started, restarted; ended by themselves, by the user, or by their life span."""

import asyncio
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import images, jobs, network
from .environment import Place, Resources, build, remove
from .jobs import Job, check
from .names import HOME, ApiError, internal_hosts
from .output import Output
from .proxy import Ingress
from .runner import Process, StartError, namespace_command
from .state import State, write_atomic

log = logging.getLogger(__name__)

#: Seconds before the first restart of a job; doubled for each further one.
BACKOFF, BACKOFF_LIMIT = 1.0, 60.0
#: A job counts as running for so many seconds at least. Clients look every 0.2 s, and one that never saw the
#: job running does not show its output. On the platform no job ends this fast.
SHORTEST = 0.6
#: Measures life spans: the time of day may jump. It goes on while the machine sleeps.
CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

#: The last state of a job: status, reason, description, exit code.
End = tuple[str, str, str, int | None]
#: Bytes of its log that describe how a job failed.
TAIL = 2000


@dataclass
class Run:
    """A job that has a process, or is to get one, and what belongs to it only as long as that."""

    job: Job
    folder: Path
    output: Output
    address: str = network.LOCALHOST
    port: int | None = None
    ingress: Ingress | None = None
    stopping: bool = False
    exit_code: int = 0  # of the last process
    started_at: float | None = None  # by CLOCK
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    process: Process | None = None  # which clients can attach to

    @property
    def life_left(self) -> float | None:
        """Seconds until the life span is over; None without one."""
        if not self.job.max_run_time_minutes or self.started_at is None:
            return None
        return self.job.max_run_time_minutes * jobs.MINUTE - (time.clock_gettime(CLOCK) - self.started_at)

    def stop(self) -> None:
        """Ask for the process's end."""
        self.stopping = True
        self.wake.set()


class Manager:
    """
    All jobs of the platform.

    As on the platform, a job is cancelled at once, and its process ends later: after `poll` seconds it gets
    SIGTERM, and `grace` seconds to end in order.
    """

    def __init__(
        self,
        state: State,
        resources: Resources,
        mlflow: Path,
        open_ingress: Callable[[Run], Ingress],
        grace: float,
        poll: float,
    ) -> None:
        self._state = state
        self._resources = resources
        self._mlflow = mlflow
        self._open_ingress = open_ingress
        self._grace = grace
        self._poll = poll
        self._closing = asyncio.Event()
        self._ended: dict[str, Output] = {}  # logs of which not all can be read yet
        self.jobs: dict[str, Job] = {}
        self.runs: dict[str, Run] = {}

    def load(self) -> None:
        """Read the history. What was running when the platform went away unexpectedly is over: it says so."""
        for file in self._state.jobs.glob("*/job.json"):
            try:
                job = Job(**json.loads(file.read_bytes()))
            except (OSError, ValueError, TypeError):
                log.warning("%s is not readable and left out", file)
                continue
            self.jobs[job.id] = job
            if job.active or job.materialized:
                if job.active:
                    job.become("cancelled", "PlatformStopped", "the local platform ended unexpectedly")
                job.materialized = False
                self._save(job)
                self._clean(file.parent)
        self.jobs = dict(sorted(self.jobs.items(), key=lambda item: item[1].created_at))

    def get(self, job_id: str) -> Job:
        """Return a job; ApiError 404 if there is none."""
        try:
            return self.jobs[job_id]
        except KeyError:
            raise ApiError(404, f"no such job {job_id}") from None

    def output(self, job: Job) -> Output:
        """Return a job's log."""
        run = self.runs.get(job.id)
        if run:
            return run.output
        return self._ended.get(job.id) or Output(self._folder(job) / "log", live=False)

    def disk_user(self, disk_id: str) -> str | None:
        """Return the id of a job that uses a disk now."""
        for run in self.runs.values():
            if any(
                volume["src_disk_uri"].endswith("/" + disk_id)
                for volume in run.job.request.get("disk_volumes") or []
            ):
                return run.job.id
        return None

    async def create(self, request: dict[str, object]) -> Job:
        """Accept a job and start it in the background; ApiError 400 if the request is not valid."""
        job = check(request)
        for other in self.jobs.values():
            if other.active and job.name and (other.name, other.project) == (job.name, job.project):
                where = f"name '{job.name}' and project '{job.project.name}'"
                raise ApiError(400, f"job with {where} already exists: '{other.id}'")
        folder = self._folder(job)
        folder.mkdir(mode=0o700)
        run = Run(job, folder, Output(folder / "log", live=True))
        self.jobs[job.id], self.runs[job.id] = job, run
        try:
            if job.request.get("http"):
                run.ingress = self._open_ingress(run)
                job.ingress_port = await run.ingress.open(self._remembered_port(job))
                self._remember_port(job)
            write_atomic(folder / "job.json", json.dumps(job.record()).encode())
        except OSError:  # no port, no space: there is no such job
            del self.jobs[job.id], self.runs[job.id]
            run.output.close()
            if run.ingress:
                await run.ingress.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        run.task = asyncio.create_task(self._live(run))
        return job

    async def cancel(self, job: Job, reason: str = "UserRequested", description: str = "") -> None:
        """Cancel a job, on behalf of the user; one that is over stays as it is."""
        run = self.runs.get(job.id)
        if run and job.active:
            job.become("cancelled", reason, description)
            self._save(job)
            if run.ingress:  # the next job of this name is to get the address
                await run.ingress.stop_listening()
            run.stop()

    def extend(self, job: Job, minutes: float) -> None:
        """Lengthen a job's life span."""
        job.max_run_time_minutes = (job.max_run_time_minutes or 0) + minutes
        self._save(job)
        run = self.runs.get(job.id)
        if run:
            run.wake.set()

    async def close(self) -> None:
        """End all jobs, as the platform ends."""
        tasks = [run.task for run in self.runs.values() if run.task]
        self._closing.set()
        for run in list(self.runs.values()):
            await self.cancel(run.job, "PlatformStopped", "the local platform was stopped")
        if tasks:
            await asyncio.wait(tasks)

    async def _live(self, run: Run) -> None:
        job = run.job
        end: End | None
        try:
            end = await self._run(run)
        except StartError as error:
            end = ("failed", error.reason, str(error), error.exit_code)
        except (ApiError, OSError) as error:
            end = ("failed", "Error", str(error), None)
        except Exception:
            log.exception("job %s", job.id)
            end = ("failed", "Error", "the local platform made a mistake; its platform.log tells more", None)
        if run.ingress:
            await run.ingress.close()
        await asyncio.to_thread(self._clean, run.folder)
        # Only now, and at once: a client that sees the end may use the name, the port and the disks again.
        if end and job.active:
            job.become(*end)
        job.materialized = False
        del self.runs[job.id]
        run.output.close()
        self._ended[job.id] = run.output
        asyncio.get_running_loop().call_later(run.output.lag, self._ended.pop, job.id, None)
        with contextlib.suppress(OSError):  # the state folder may have been removed
            self._write_hosts()
        self._save(job)
        log.info("job %s: %s %s", job.id, job.status, job.statuses[-1]["reason"])

    async def _run(self, run: Run) -> End | None:
        """Start and restart the job's process until the job is over; returns how it ended, if by itself."""
        job = run.job
        policy = job.request.get("restart_policy") or "never"
        while not run.stopping:
            run.process = process = await self._start(run)
            run.started_at = run.started_at or time.clock_gettime(CLOCK)
            job.materialized = True
            if job.active:  # else it was cancelled meanwhile
                job.become("running")
                self._save(job)
            await self._until_end(run, process)
            run.exit_code = await process.ended
            if not run.stopping:
                await self._wait(run, min(SHORTEST, SHORTEST - (time.time() - job.statuses[-1]["at"])))
            run.output.detach_all()
            run.process = None
            if not run.stopping and (policy == "always" or (policy == "on-failure" and run.exit_code)):
                job.restarts += 1
                job.become("running", "Restarting", exit_code=run.exit_code)
                self._save(job)
                await self._wait(run, min(BACKOFF * 2 ** (job.restarts - 1), BACKOFF_LIMIT))
            elif not run.stopping and run.exit_code:
                return "failed", "Error", run.output.tail(TAIL), run.exit_code
            elif not run.stopping:
                return "succeeded", "", "", 0
        return None

    async def _start(self, run: Run) -> Process:
        namespace = await asyncio.to_thread(namespace_command) is not None
        try:
            name = run.job.request["image"]
            image = await asyncio.to_thread(images.find, name, self._state.images, self._mlflow)
        except images.ImageError as error:
            raise StartError("ErrImagePull", str(error)) from error
        if namespace and run.address == network.LOCALHOST:
            run.address = network.own_address(other.address for other in self.runs.values())
        http = run.job.request.get("http")
        run.port = network.usable_port(run.address, http["port"]) if http else None
        if namespace:
            self._write_hosts()
        place = Place(
            run.folder, run.address, run.port, namespace, self._state.hosts, self._moved(run, namespace)
        )
        return await Process.start(build(run.job, image, place, self._resources), run.output)

    async def _until_end(self, run: Run, process: Process) -> None:
        """Wait for the process, or stop it when the user asks for that or the job's life span is over."""
        while not process.ended.done():
            await self._wait(run, run.life_left, process.ended)
            left = run.life_left
            if left is not None and left <= 0 and not process.ended.done():
                await self.cancel(run.job, "LifeSpanEnded")
            if run.stopping:
                closing = asyncio.create_task(self._closing.wait())
                waiting: set[asyncio.Task[Any]] = {process.ended, closing}
                await asyncio.wait(waiting, timeout=self._poll, return_when=asyncio.FIRST_COMPLETED)
                closing.cancel()
                await process.stop(self._grace)

    @staticmethod
    async def _wait(run: Run, seconds: float | None, *others: "asyncio.Task[int]") -> None:
        """Wait until the time is over, another future is done, or the run is woken."""
        run.wake.clear()
        if run.stopping or (seconds is not None and seconds <= 0):
            return
        waker = asyncio.create_task(run.wake.wait())
        waiting: set[asyncio.Task[Any]] = {waker, *others}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waker.cancel()

    def _moved(self, asking: Run, namespace: bool) -> tuple[tuple[str, str], ...]:
        """List the addresses of other jobs that are not where their host name and declared port say."""
        moved = []
        for run in self.runs.values():
            http = run.job.request.get("http")
            if run is asking or not http or run.port is None:
                continue
            if not namespace or run.port != http["port"]:
                for host in internal_hosts(run.job.id, run.job.name, run.job.project):
                    moved.append(
                        (f"{host}:{http['port']}", f"{host if namespace else run.address}:{run.port}")
                    )
        return tuple(moved)

    def _write_hosts(self) -> None:
        names = {
            run.address: internal_hosts(run.job.id, run.job.name, run.job.project)
            for run in self.runs.values()
            if run.address != network.LOCALHOST
        }
        network.write_hosts(self._state.hosts, names)

    def _remembered_port(self, job: Job) -> int | None:
        port = self._state.load("ports.json", {}).get(_port_key(job)) if job.name else None
        return port if isinstance(port, int) else None

    def _remember_port(self, job: Job) -> None:
        """Keep the public port of a named job: its next run is to be found under the same address."""
        ports, key = self._state.load("ports.json", {}), _port_key(job)
        if job.name and ports.get(key) != job.ingress_port:
            self._state.save("ports.json", {**ports, key: job.ingress_port})

    def _folder(self, job: Job) -> Path:
        return self._state.jobs / job.id

    def _save(self, job: Job) -> None:
        """Keep a job's record. Where that fails (no space, no folder) the job goes on without."""
        try:
            write_atomic(self._folder(job) / "job.json", json.dumps(job.record()).encode())
        except OSError as error:
            log.warning("job %s is not saved: %s", job.id, error)

    @staticmethod
    def _clean(folder: Path) -> None:
        """Remove what a job leaves behind in its container; the record and the log stay."""
        remove(folder, "home", "work", "root", "secrets")


def _port_key(job: Job) -> str:
    return f"{job.name}" if job.project == HOME else f"{job.project}/{job.name}"
