"""The jobs that serve models: started, watched, and what their users need to know."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common import console
from common.console import Failure, Problem, format_duration
from common.lazy import lazily
from flow import neuro_flow, registry, server
from flow.logs import last_words
from flow.neuro_flow import HeldRun
from flow.platform_check import check_deployment
from flow.submission import Submission
from flow.workspace import Flow, Job, state_of, time_left
from settings.action import compose, find
from settings.layers import redact
from settings.live import MODEL_CALL, live_file, server_jobs

if TYPE_CHECKING:
    import aiohttp
else:
    aiohttp = lazily("aiohttp")

LONGEST = 20
"""Characters of a suffix: the job's name has 40, and begins with the project."""
SHOWN = 1000
"""Characters of an example that are printed whole."""


@dataclass
class State:
    """What a job says of its model: the answer of `/deployment`, empty where there is none."""

    said: dict[str, Any] = field(default_factory=dict)
    ready: bool = False
    """Whether it answers predictions."""

    @property
    def words(self) -> str:
        """What it does now, for people."""
        said = self.said.get("problem") or self.said.get("step") or self.said.get("state") or "starting"
        return redact(console.one_line(str(said)))[:200]


def suffix_of(model: registry.Model) -> str:
    """Return what neuro-flow calls the job of a model: its name, as far as a job's name can have it."""
    plain = re.sub("[^a-z0-9]+", "-", model.name.lower()).strip("-")
    if plain == model.name and len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 5].strip('-')}-{hashlib.sha256(model.name.encode()).hexdigest()[:4]}".strip(
        "-"
    )


def suffix(job: Job) -> str:
    """Return the suffix that neuro-flow knows a job by."""
    return next((tag.removeprefix("multi:") for tag in job.tags if tag.startswith("multi:")), "")


def model_of(job: Job) -> registry.Model:
    """Return the model that a job was started for."""
    text = server.env_of(job).get("MLFLOW_DEPLOY_MODEL", "")
    try:
        return registry.parse(text)
    except ValueError:
        return registry.Model(text)


def require_model_job(flow: Flow, lines: str) -> None:
    """See to it that the flow has a job for models; `lines` are shown where it has none, to be put into it.

    Raises:
        Failure: it has none.
    """
    settings = flow.settings
    live = live_file(settings.flow_dir)
    root = compose(live.read_text(encoding="utf-8")) if live else None
    if not server_jobs(root, MODEL_CALL):
        print(lines, file=sys.stderr)
        what = f"no job calls {MODEL_CALL}"
        fix = "put the lines above into it, each below the `volumes:` and `jobs:` that are there"
        raise Failure(Problem(what, fix, str(live or settings.flow_dir)))
    if find(root, "jobs", settings.deploy_job, "args") is None:
        fix = "write `args: {}` at least: without it neuro-flow leaves out the defaults"
        raise Failure(Problem(f"{settings.deploy_job} has no args", fix, str(live)))


async def evaluated(flow: Flow, run: HeldRun | None, suffix: str, inputs: dict[str, str]) -> Submission:
    """Return the job of a model that a run would submit, checked; without a run nothing is left behind.

    Raises:
        Failure: it cannot be evaluated, or what it names is not there.
    """
    words = ("--suffix", suffix)
    if run:
        await run.evaluate(*words, model=inputs)
        submission = await run.job()
    else:
        async with neuro_flow.rendered(flow.settings, keep=False, model=inputs):
            job = flow.settings.deploy_job
            submission = await neuro_flow.evaluate(flow.settings, flow.login, job, *words)
    await check_deployment(flow, submission)
    return submission


@contextlib.asynccontextmanager
async def started(flow: Flow, run: HeldRun, suffix: str) -> AsyncIterator[Job]:
    """Let a run submit its job, that of a suffix, and yield it as soon as the platform knows it.

    neuro-flow ends when the job runs, which may be never: both are watched, and it is ended with the block.

    Raises:
        Failure: neuro-flow cannot submit it, or it ended at once.
    """
    try:
        jobs = await run.submit(lambda: flow.models(suffix))
        if not jobs:
            await run.end()
            jobs = await flow.models(suffix, ended=True)
        if not jobs:
            raise Failure(Problem("neuro-flow has started no job", "run the same again"))
        yield jobs[0]
    finally:
        await run.close()


async def free(flow: Flow, job: Job) -> None:
    """Stop a job and wait until its name is free; what it runs may go on for a while, and changes nothing."""
    await flow.client.jobs.kill(job.id)
    deadline = time.monotonic() + flow.settings.timeout
    while not (await flow.client.jobs.status(job.id)).status.is_finished:
        if time.monotonic() > deadline:
            raise Failure(Problem(f"job {job.id} does not end", "run the same again"))
        await asyncio.sleep(0.1)


async def look(flow: Flow, job: Job) -> State:
    """Ask a running job for the state of its model."""
    if job.http_url is None or not job.http_url.host:
        return State()
    headers = {}
    if server.needs_login(job):
        headers["Authorization"] = f"Bearer {await flow.client.config.token()}"
    state = State()
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, ValueError):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10), headers=headers) as session:
            async with session.get(f"{address(job)}/deployment", allow_redirects=False) as answer:
                said = json.loads(await answer.text()) if answer.status == 200 else {}
                state.said = said if isinstance(said, dict) else {}
            if state.said.get("state") == "ready":
                async with session.get(f"{address(job)}/ping", allow_redirects=False) as answer:
                    state.ready = answer.status == 200
    return state


async def serves(flow: Flow, job: Job, model: registry.Model) -> bool:
    """Tell whether a running job answers for a model, by whatever name it was told to: `iris` as `iris/3`."""
    state = await look(flow, job) if job.status.is_running else State()
    return state.ready and state.said.get("uri") == model.uri and not state.said.get("follow")


def address(job: Job) -> str:
    """Return where clients reach the model."""
    return str(job.http_url).rstrip("/")


async def answering(flow: Flow, job: Job, what: str) -> tuple[Job, State]:
    """Wait until a model answers a prediction; return its job as it is then, and what it says.

    Raises:
        Failure: it ended, or the time limit has passed; the last lines of its log are shown.
    """
    limit, make = flow.settings.timeout, flow.settings.make
    state = State()
    with console.waiting_for(f"{what} to answer") as waiting:
        while True:
            job = await flow.client.jobs.status(job.id)
            if job.status.is_finished:
                waiting.done()
                tail = await flow.log_tail(job)
                print(tail, file=sys.stderr)
                words = last_words(tail)
                reason = f"{what} never answered (job {job.id} {state_of(job)}){words and f': {words}'}"
                raise Failure(Problem(reason, "correct that, and run the same again"))
            state = await look(flow, job) if job.status.is_running else State()
            if state.ready:
                return job, state
            words = state.words if job.status.is_running else state_of(job)
            if waiting.tick(words) > limit:
                break
            await asyncio.sleep(0.1)
    if job.status.is_running:
        print(await flow.log_tail(job), file=sys.stderr)
    fix = f"MLFLOW_TIMEOUT is the limit; `{make('mlflow-deployments')}` says what runs"
    raise Failure(Problem(f"{what} has not answered in {format_duration(limit)}: {words}", fix))


def body_of(said: dict[str, Any]) -> tuple[str, str]:
    """Return a body to send to `/invocations`, and where it is from: the example, or the signature."""
    example, signature = said.get("example"), said.get("signature")
    if example is not None:
        text = json.dumps(example)
        return (
            (text, "its own example")
            if len(text) <= SHOWN
            else (json.dumps(_first(example)), "its example, cut")
        )
    inputs = signature.get("inputs") if isinstance(signature, dict) else None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        columns = json.loads(inputs) if isinstance(inputs, str) else inputs
        if columns and all("name" in column and column["type"] != "tensor" for column in columns):
            row = [ZEROS.get(column["type"]) for column in columns]
            split = {"columns": [column["name"] for column in columns], "data": [row]}
            return json.dumps({"dataframe_split": split}), "its signature: put your own values in"
        if columns:
            return json.dumps(
                {"inputs": _zeros(columns[0]["tensor-spec"]["shape"])}
            ), "the shape of its signature"
    return '{"inputs": [[0]]}', "no signature is known: put in what the model takes"


ZEROS = {"double": 0.0, "float": 0.0, "long": 0, "integer": 0, "string": "", "boolean": False}
"""A value for each type of a column that has a plain one."""


def _zeros(shape: list[int]) -> Any:
    return [_zeros(shape[1:])] * max(shape[0], 1) if shape else 0


def _first(example: Any) -> Any:
    """Return an example with its first row only, where it has rows."""
    if isinstance(example, dict) and isinstance(split := example.get("dataframe_split"), dict):
        return {"dataframe_split": {"columns": split.get("columns"), "data": split.get("data", [])[:1]}}
    if isinstance(example, dict):
        return {name: value[:1] if isinstance(value, list) else value for name, value in example.items()}
    return example


def describe(flow: Flow, job: Job, state: State) -> str:
    """Return how to use a model that answers, when that ends and how to stop it."""
    make, name = flow.settings.make, model_of(job).name
    left, port = time_left(job), job.container.http.port if job.container.http else ""
    body, origin = body_of(state.said)
    curl, python = _calls(flow, job, body)
    rows = [
        ("access", "users of the platform" if server.needs_login(job) else "whoever knows the address"),
        ("body", origin),
        ("try", curl),
    ]
    if left is not None:
        end = time.strftime("%F %H:%M", time.localtime(time.time() + left))
        rows.append(("ends", f"{end}, in {format_duration(left)}"))
        rows.append(("later", f"{flow.login.apolo_typed} job bump-life-span {job.id} 2d"))
    inspected = f"inspect_job('{flow.settings.deploy_job}', '{suffix(job)}').internal_hostname_named"
    rows += [
        ("logs", f"{flow.login.neuro_flow} logs {flow.settings.deploy_job} {suffix(job)}"),
        ("stop", f"{make('mlflow-undeploy')} MODEL={shlex.quote(name)}"),
        ("jobs", "of this flow reach it, without any token, at"),
        ("", f"http://${{{{ {inspected} }}}}:{port}/invocations"),
    ]
    table = [f"  {name:9}  {text}".rstrip() for name, text in rows]
    return "\n".join([*table, "  in Python:", "", *python])  # whose lines are to be copied as they are


def _calls(flow: Flow, job: Job, body: str) -> tuple[str, list[str]]:
    """Return a call for a shell, and the lines of one in Python; the token is fetched, never written."""
    url, apolo = f"{address(job)}/invocations", flow.login.apolo
    curl = shlex.join(["curl", "-s", "-H", "Content-Type: application/json", "-d", body, url])
    headers, token = '{"Content-Type": "application/json"}', []
    if server.needs_login(job):
        curl += f' -H "Authorization: Bearer $({shlex.quote(apolo)} config show-token)"'
        show = json.dumps([apolo, "config", "show-token"])
        token = ["import subprocess", f"token = subprocess.check_output({show}, text=True).strip()"]
        headers = '{"Content-Type": "application/json", "Authorization": f"Bearer {token}"}'
    python = [
        "import json, urllib.request",
        *token,
        f"data = json.dumps({json.loads(body)!r}).encode()",
        f'request = urllib.request.Request("{url}", data, {headers})',
        "print(json.load(urllib.request.urlopen(request)))",
    ]
    return curl, python
