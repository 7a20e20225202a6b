"""mlflow-up: check, render, start or find the server, wait until it answers, and say where it is."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator

from common import console
from common.console import UNCHANGED, Failure, Problem, complain, format_duration, say
from common.waits import ended
from flow import server
from flow.drift import drift, is_ours
from flow.logs import last_words
from flow.neuro_flow import HeldRun
from flow.opening import open_flow
from flow.platform_check import check_clash, check_submission
from flow.store_guard import remember, require_same_store
from flow.store_task import require_no_task
from flow.submission import inputs
from flow.workspace import Flow, Job, state_of
from settings import problems
from settings.layers import Settings, redact
from settings.variables import yes


@contextlib.asynccontextmanager
async def started(flow: Flow) -> AsyncIterator[Job]:
    """Submit the server's job and yield it as soon as the platform knows it.

    neuro-flow ends when the job runs, which may be never: so the job is watched beside it, and when the
    block ends in an exception neuro-flow is ended too. Its exit code counts only where there is no job.

    Raises:
        Failure: neuro-flow cannot evaluate or submit it, or it ended at once.
    """
    run = flow.held or HeldRun(flow.settings, flow.login, flow.settings.job)
    submitted = False
    try:
        if flow.held is None:
            await run.begin()
            await run.evaluate()
        job = await flow.find()  # another mlflow-up may have been faster
        if job is None:
            await require_no_task(flow)
            await require_same_store(flow)
            submission = await run.job()
            await check_submission(flow, submission)
            await check_clash(flow, submission)
            await flow.make_folders(submission)
            say(f"starting the server: neuro-flow run {flow.settings.job}")
            submitted = True
            job = await run.submit(flow.find)
        else:
            await run.close()
        if job:
            yield job
            if submitted:
                with contextlib.suppress(Failure):
                    await run.end()
        else:
            await run.end()
            await died(flow, await flow.find(ended=True))
    except asyncio.CancelledError:
        stop = f"`{flow.settings.make('mlflow-down')}` stops it"
        say(f"a job that has been started keeps running; {stop}" if submitted else "no job has been started")
        raise
    finally:
        await run.close()


async def died(flow: Flow, job: Job | None) -> None:
    """Raise the failure, which says the reason itself, below the last lines of the log."""
    reason, words = "it never started", ""
    if job:
        tail = await flow.log_tail(job)
        print(tail, file=sys.stderr)
        words = last_words(tail)
        reason = f"job {job.id} {state_of(job)}"
        if job.history.exit_code:
            reason += f", exit code {job.history.exit_code}"
    raise Failure(
        Problem(
            f"the server ended while starting ({reason}){words and f': {words}'}",
            "no job is left; correct that and run the same again",
        )
    )


async def wait(flow: Flow, job: Job) -> Job:
    """Wait until the server answers, and return its job as it is then.

    Raises:
        Failure: it ended, or the time limit has passed.
    """
    make, limit, restarts = flow.settings.make, flow.settings.timeout, job.history.restarts
    words: list[str] = []
    told = 0
    listener: asyncio.Task[None] | None = None
    async with contextlib.AsyncExitStack() as stack:
        waiting = stack.enter_context(console.waiting_for("the server to answer"))
        while True:
            job = await flow.client.jobs.status(job.id)
            if job.status.is_finished or job.history.restarts > restarts:
                waiting.done()
                if not job.status.is_finished:  # it would be restarted, to end again
                    await flow.stop(job)
                await died(flow, job)
            trouble = await server.probe(flow, job) if job.status.is_running else ""
            if job.status.is_running and not trouble:
                return job
            if job.status.is_running and listener is None:
                listener = asyncio.create_task(server.listen(flow, job, words))
                stack.push_async_callback(ended, listener)
            for said in words[told:]:
                if re.search("WARNING|upgrading", said):
                    waiting.done()
                    say(said)
            told = len(words)
            state = trouble or state_of(job)
            if waiting.tick(server.starting(state, words)) > limit:
                break
            await asyncio.sleep(0.1)
    if job.status.is_running:
        print(await flow.log_tail(job), file=sys.stderr)
        fix = f"see `{make('mlflow-logs')}`; it is left running: `{make('mlflow-down')}` stops it"
    else:
        fix = f"the job is left waiting for resources; choose another preset or `{make('mlflow-down')}`"
    raise Failure(
        Problem(f"no server after {format_duration(limit)}: {state}", f"{fix}; MLFLOW_TIMEOUT is the limit")
    )


async def bring_up(flow: Flow) -> None:
    """Start or find the server, and print where it is."""
    settings, found = flow.settings, flow.job
    if found and flow.held:
        await flow.held.close()
    async with contextlib.nullcontext(found) if found else started(flow) as job:
        job = await wait(flow, job)
    remember(flow, job)
    print(f"MLflow {'was running already' if found else 'is up'}: {server.address(job)}")
    print(server.describe(flow, job))
    if found:
        await say_drift(flow, job)
    warn_unprotected(settings, job)


async def say_drift(flow: Flow, job: Job) -> None:
    """Say in what the running server differs from today's settings."""
    if not is_ours(job):
        say(f"job {job.id} was started by an older action; its server goes on until it is replaced:")
        say(f"`{flow.settings.make('mlflow-restart')}` stops it, upgrades its store, and starts this one")
        return
    if differences := await drift(flow, job):
        say("it runs with other settings than today's: " + "; ".join(differences))
        same = ", typed with the same settings," if flow.settings.typed else ""
        say(f"`{flow.settings.make('mlflow-restart')}`{same} applies them")


async def show_start(flow: Flow) -> None:
    """Show the job that would be started, with all that is checked before.

    Raises:
        Failure: it would not be started.
    """
    await require_no_task(flow)
    await require_same_store(flow)
    async with flow.rendered():
        submission = await flow.evaluate()
    await check_submission(flow, submission)
    await check_clash(flow, submission)
    print(f"would start: neuro-flow run {flow.settings.job}")
    for name, value in inputs(submission).items():
        print(f"  {name:22} {redact(value) or '(empty)'}")
    say(UNCHANGED)


async def up(settings: Settings, *, dry_run: bool) -> None:
    """Run the target on the chosen platform; with `dry_run` only show what would be started."""
    async with open_flow(settings, will_run=not dry_run, will_start="" if dry_run else settings.job) as flow:
        if not dry_run:
            await bring_up(flow)
        elif flow.job:
            print(
                f"would start nothing: job {flow.job.id} is {state_of(flow.job)}, {server.address(flow.job)}"
            )
            await say_drift(flow, flow.job)
            say(UNCHANGED)
        else:
            await show_start(flow)


def warn_unprotected(settings: Settings, job: Job) -> None:
    """Say plainly that a server without authentication is open to whoever knows its address."""
    if settings.platform == "neuro" and not (server.needs_login(job) or server.has_users(job)):
        complain(
            [
                Problem(
                    "whoever knows the address can read, change and delete every run",
                    "MLFLOW_HTTP_AUTH=True lets only users of the platform in",
                    settings.inputs["http_auth"].source,
                    warning=True,
                )
            ]
        )


def main() -> None:
    """Run the target."""
    settings = problems.begin("up")
    asyncio.run(up(settings, dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
