"""mlflow-deploy MODEL=iris: serve a registered model; a new version replaces the old one when it answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import time
from dataclasses import dataclass

from common import console
from common.console import UNCHANGED, Failure, Problem, complain, format_duration, parse_duration, say
from copying import edits
from flow import credentials, deployments, drift, server
from flow.deployments import State
from flow.neuro_flow import HeldRun
from flow.opening import open_flow
from flow.platform_check import check_clash
from flow.registry import Model, Registry
from flow.submission import Submission, inputs_of_deployment
from flow.workspace import Flow, Job, lengthen, require_job
from settings import access, problems
from settings.layers import Settings, redact
from settings.problems import is_expression
from settings.variables import yes


@dataclass(frozen=True)
class Plan:
    """What is to be served: the model, its job's suffix, and what deploy.yaml gets beside the settings."""

    model: Model
    suffix: str
    inputs: dict[str, str]

    @property
    def beside(self) -> str:
        """The suffix of the job in which a new version is tried, beside the one that is replaced."""
        return f"{self.suffix}-v{self.model.version}" if self.model.version else f"{self.suffix}-new"


async def make_plan(flow: Flow, server_job: Job, text: str, *, follow: bool) -> Plan:
    """Return what is to be served.

    Raises:
        Failure: there is no such model, or no job for it.
    """
    deployments.require_model_job(flow, edits.model_lines(flow.settings.job))
    model = await Registry(flow, server_job).find(text)
    if follow and not model.alias:
        fix = f"name an alias to follow: MODEL={model.name}@champion"
        raise Failure(Problem(f"{model} never moves", fix, "FOLLOW"))
    say(model.described())
    if model.newest and model.newest != model.version:
        say(f"the newest version is {model.newest}")
    inputs = {
        "model": f"models:/{model.name}@{model.alias}" if follow else model.uri,
        "tracking_uri": server.internal_uri(server_job),
        "follow": str(follow),
        **_user(flow, server_job),
    }
    return Plan(model, deployments.suffix_of(model), inputs)


def _user(flow: Flow, server_job: Job) -> dict[str, str]:
    """Return the envs with a name and password for a server that has users of its own, where they have none.

    Raises:
        Failure: the job would not get in.
    """
    setting = flow.settings.deploy["deploy_envs"]
    if not server.has_users(server_job) or is_expression(setting):
        return {}
    envs = json.loads(setting.value)
    if credentials.NAME in envs:
        return {}
    env = server.env_of(server_job)
    password = env.get(access.ADMIN_PASSWORD, "")
    if not password.startswith("secret:"):
        fix = f'set deploy_envs: {{"{credentials.NAME}": "…", "{credentials.PASSWORD}": "secret:NAME"}}'
        raise Failure(
            Problem("the server has users of its own, and the model's job is none", fix, setting.source)
        )
    name = env.get(access.ADMIN_NAME) or access.DEFAULT_ADMIN
    say(f"its job reads the model as {name}, by {password}; deploy_envs can name another user")
    return {"envs": json.dumps({**envs, credentials.NAME: name, credentials.PASSWORD: password})}


async def deploy(settings: Settings, text: str, *, follow: bool, dry_run: bool) -> None:
    """Serve a model; with `dry_run` only say what would be done."""
    begun = "" if dry_run else settings.deploy_job
    async with open_flow(settings, will_run=not dry_run, will_start=begun) as flow:
        plan = await make_plan(flow, require_job(flow), text, follow=follow)
        running = await flow.models(plan.suffix)
        job, run = running[0] if running else None, flow.held
        if job and run:
            await make_room(flow, plan)
        suffix = plan.beside if job and run else plan.suffix
        submission = await deployments.evaluated(flow, run, suffix, plan.inputs)
        changes = await drift.differences(flow, job, submission) if job else []
        longer = any(change.startswith("life_span: ") for change in changes)
        # A life span is lengthened as the job runs; the name is the suffix's, and so the trial's.
        changes = [change for change in changes if not change.startswith(("life_span: ", "job_name: "))]
        if job and not follow and await deployments.serves(flow, job, plan.model):
            changes = [change for change in changes if not change.startswith("model: ")]
        if run is None:
            show(flow, plan, submission, job, changes)
            return
        await check_clash(flow, submission)
        await flow.make_folders(submission)
        if job is None:
            await first(flow, plan, run)
        elif changes:
            say("; ".join(changes))
            await replace(flow, plan, run, job)
        else:
            await run.close()
            await keep(flow, plan, job, submission.options["life-span"] if longer else "")


async def make_room(flow: Flow, plan: Plan) -> None:
    """Stop what a call that was interrupted has left in the place where the new version is tried.

    Raises:
        Failure: another model is there.
    """
    for left in await flow.models(plan.beside):
        if deployments.model_of(left).name != plan.model.name:
            fix = f"`{flow.login.apolo_typed} kill {left.id}` makes room"
            raise Failure(Problem(f"job {left.id} has the name that the new version would be tried by", fix))
        await flow.stop(left)


def show(flow: Flow, plan: Plan, submission: Submission, job: Job | None, changes: list[str]) -> None:
    """Say what would be done."""
    if job and not changes:
        print(f"would change nothing: {plan.model} is what job {job.id} serves, {deployments.address(job)}")
    else:
        print(f"would serve: neuro-flow run {flow.settings.deploy_job} --suffix {plan.suffix}")
        for name, value in inputs_of_deployment(submission).items():
            if name not in ("restart", "browse"):
                print(f"  {name:22} {redact(value) or '(empty)'}")
        if job:
            print(f"would replace job {job.id} when it has answered: {'; '.join(changes)}")
    say(UNCHANGED)


async def first(flow: Flow, plan: Plan, run: HeldRun) -> None:
    """Serve a model that no job serves yet."""
    begin = time.monotonic()
    say(f"starting: neuro-flow run {flow.settings.deploy_job} --suffix {plan.suffix}")
    async with _until_interrupted(flow, plan), deployments.started(flow, run, plan.suffix) as job:
        job, state = await deployments.answering(flow, job, str(plan.model))
    tell(flow, plan, job, state, f"answers after {format_duration(time.monotonic() - begin)}")


@contextlib.asynccontextmanager
async def _until_interrupted(flow: Flow, plan: Plan):  # type: ignore[no-untyped-def]
    """Say on ^C what goes on."""
    try:
        yield
    except asyncio.CancelledError:
        stop = f"{flow.settings.make('mlflow-undeploy')} MODEL={shlex.quote(plan.model.name)}"
        say(f"a job that has been started keeps running; `{stop}` stops it")
        raise


async def keep(flow: Flow, plan: Plan, job: Job, span: str) -> None:
    """Say that there is nothing to change, once the job answers; a longer life span it gets as it runs."""
    if span and job.life_span:
        setting = flow.settings.deploy["deploy_life_span"]
        what = f"{setting.name} is {setting.shown!r}"
        await lengthen(flow, job, parse_duration(span) - int(job.life_span), what, setting.source)
    job, state = await deployments.answering(flow, job, str(plan.model))
    tell(flow, plan, job, state, "was served already, with these settings: nothing to change")


async def replace(flow: Flow, plan: Plan, run: HeldRun, old: Job) -> None:
    """Serve another version, or by other settings, than a job that runs: tried beside it, then in its place.

    The platform allows one job of a name, and the address is made of the name: so the new version proves
    itself under another one first, and takes over by a start that finds everything installed.
    """
    say(f"starting beside job {old.id}: neuro-flow run {flow.settings.deploy_job} --suffix {plan.beside}")
    then = HeldRun(flow.settings, flow.login, flow.settings.deploy_job)
    try:
        async with deployments.started(flow, run, plan.beside) as trial:
            await then.begin()
            trial, _ = await deployments.answering(flow, trial, str(plan.model))
    except BaseException:
        await then.close()
        await asyncio.shield(_stop_all(flow, plan.beside))
        say(f"job {old.id} goes on as it was: {deployments.address(old)}")
        raise
    say(f"{plan.model} answers at {deployments.address(trial)}; now it takes the place of job {old.id}")
    begin = time.monotonic()
    try:
        await deployments.free(flow, old)
        await then.evaluate("--suffix", plan.suffix, model=plan.inputs)
        async with deployments.started(flow, then, plan.suffix) as job:
            job, state = await deployments.answering(flow, job, str(plan.model))
    except BaseException:
        await then.close()
        say(f"{plan.model} goes on at {deployments.address(trial)}, in job {trial.id}; run the same again")
        raise
    away = time.monotonic() - begin
    await flow.stop(trial)
    tell(flow, plan, job, state, f"has replaced job {old.id}; the address was away for {away:.1f} s")


async def _stop_all(flow: Flow, suffix: str) -> None:
    for job in await flow.models(suffix):
        await flow.stop(job)


def tell(flow: Flow, plan: Plan, job: Job, state: State, what: str) -> None:
    """Print the address of what is served, and how to use it."""
    followed = f", and follows @{plan.model.alias}" if plan.inputs["follow"] == "True" else ""
    print(f"{plan.model} {what}{followed}: {deployments.address(job)}")
    print(deployments.describe(flow, job, state))
    if flow.settings.platform == "neuro" and not server.needs_login(job):
        what, fix = (
            "whoever knows the address can ask the model",
            "MLFLOW_DEPLOY_HTTP_AUTH=True lets only users in",
        )
        complain([Problem(what, fix, flow.settings.deploy["deploy_http_auth"].source, warning=True)])


def main() -> None:
    """Run the target."""
    settings = problems.begin("deploy")
    text = os.environ.get("MODEL", "")
    if not text:
        usage = f"say which: `{settings.make('mlflow-deploy')} MODEL=iris`, iris/3 or iris@champion"
        raise Failure(Problem("MODEL is empty", usage, "make command line"))
    asyncio.run(deploy(settings, text, follow=yes("FOLLOW"), dry_run=yes("MLFLOW_DRY_RUN")))


if __name__ == "__main__":
    console.run(main)
