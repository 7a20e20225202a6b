"""The calls to the platform: of which project, and by id or name; its refusals in one line."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from apolo_sdk import JobStatus

import deploy
from common.console import Failure
from flow import logs, platform_check, references, store_task
from flow.drift import of_job, of_submission
from flow.opening import platform_errors
from flow.store_guard import require_same_store
from flow.submission import Submission
from flow.workspace import Flow, state_of
from in_job import keeper
from settings import layers

from .platform import DISK, LOGIN, ORG, OTHER, PAGE, Platform, connected, job

VOLUME = "storage:mlflow:/mnt/mlflow:rw"
TAGS = {"project:mlflow", "flow:live", "job:mlflow-server"}


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
async def flow(
    platform: Platform, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Flow]:
    async with connected(platform, tmp_path, monkeypatch) as opened:
        yield opened


@pytest.fixture
async def other_flow(
    platform: Platform, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Flow]:
    """The flow with another project in project.yml than the login's."""
    with (workspace / ".neuro/project.yml").open("a") as file:
        file.write(f"project_name: {OTHER}\n")
    async with connected(platform, tmp_path, monkeypatch) as opened:
        yield opened


def submission(project: str = LOGIN, volumes: Sequence[str] = (VOLUME,), **env: str) -> Submission:
    options = {"project": project, "name": "mlflow-mlflow-server", "http-port": "5000", "no-http-auth": ""}
    options |= {"life-span": "60s"}
    env = {"MLFLOW_ARTIFACTS_DESTINATION": "/mnt/mlflow/artifacts", **env}
    return Submission(options, env, list(volumes), set(TAGS), "image:1")


async def _find(flow: Flow) -> None:
    await flow.find()


async def _find_ended(flow: Flow) -> None:
    await flow.find(ended=True)


async def _no_task(flow: Flow) -> None:
    await store_task.require_no_task(flow)


@pytest.mark.parametrize("call", [_find, _find_ended, _no_task])
async def test_every_list_of_jobs_names_project_and_organisation(
    platform: Platform, other_flow: Flow, call: Callable[[Flow], Awaitable[None]]
) -> None:
    platform.jobs = [job(LOGIN, tags=[*TAGS, "job:mlflow-store"], description="mlflow-restore")]
    await call(other_flow)
    [query] = platform.asked("/jobs$")
    assert (query["project_name"], query["org_name"], query["cluster_name"]) == ([OTHER], [ORG], ["default"])


async def test_a_server_of_another_project_is_not_ours(platform: Platform, flow: Flow) -> None:
    platform.jobs = [job(OTHER, tags=[*TAGS])]
    assert await flow.find() is None
    assert await flow.has_active_jobs()
    platform.jobs.append(job(LOGIN, tags=[*TAGS], number=2))
    found = await flow.find()
    assert found
    assert found.id.endswith("2")


async def test_a_server_that_inspect_job_would_take_for_ours_is_named(platform: Platform, flow: Flow) -> None:
    platform.jobs = [job(OTHER, tags=[*TAGS])]
    with pytest.raises(Failure, match=r"live.yaml: inspect_job.*server of project other-project") as caught:
        await platform_check.check_clash(flow, submission())
    assert 'tags: ["platform-project:${{ project.project_name }}"]' in str(caught.value)
    apart = submission()
    apart.tags.add(f"platform-project:{LOGIN}")
    await platform_check.check_clash(flow, apart)


async def test_secrets_are_listed_by_project(platform: Platform, flow: Flow) -> None:
    there = submission(A="secret:db", B=f"secret:/{ORG}/{OTHER}/theirs")
    await platform_check.check_submission(flow, there)
    assert sorted(query["project_name"] for query in platform.asked("/secrets")) == [[LOGIN], [OTHER]]
    assert all(query["org_name"] == [ORG] for query in platform.asked("/secrets"))
    missing = submission(A="secret:theirs", B=f"secret:/{ORG}/{OTHER}/db")
    with pytest.raises(Failure) as caught:
        await platform_check.check_submission(flow, missing)
    first, second = map(str, caught.value.problems)
    assert "there is no secret theirs; `apolo secret add theirs @FILE` makes it" in first
    assert "there is no secret db; `apolo secret add --project other-project db @FILE` makes it" in second


async def test_disks_are_known_by_id(platform: Platform, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = submission(volumes=(VOLUME, "disk:mlflow-db:/mnt/db:rw"))
    by_id = submission(volumes=(VOLUME, f"disk:{DISK}:/mnt/db:rw"))
    uri = f"disk://default/{ORG}/{LOGIN}/{DISK}"
    for one in (by_name, by_id):
        found = await references.volumes_of(flow, one.volumes)
        assert [str(volume.disk_uri) for volume in found.disk_volumes] == [uri]
    assert await of_submission(flow, by_name) == await of_submission(flow, by_id)
    mounted = {"src_disk_uri": uri, "dst_path": "/mnt/db", "read_only": False}
    kept = {"src_storage_uri": f"storage://default/{ORG}/{LOGIN}/mlflow", "dst_path": "/mnt/mlflow"}
    container = {"image": "image:1", "resources": {"memory": 1, "cpu": 1}, "disk_volumes": [mounted]}
    platform.jobs = [
        job(LOGIN, tags=[*TAGS], container={**container, "volumes": [{**kept, "read_only": False}]})
    ]
    running = await flow.find()
    assert running
    assert of_job(running)["volumes"] == (await of_submission(flow, by_name))["volumes"]
    flow.job = running
    monkeypatch.setenv("MLFLOW_VOLUMES", json.dumps(by_name.volumes))
    flow.settings.inputs["volumes"] = layers.load().inputs["volumes"]
    await require_same_store(flow)


@pytest.mark.parametrize("project", [LOGIN, OTHER])
async def test_a_task_runs_where_the_server_does(
    platform: Platform, flow: Flow, other_flow: Flow, project: str
) -> None:
    chosen, volumes = flow, [VOLUME, "disk:mlflow-db:/mnt/db:rw"]
    if project == OTHER:
        chosen, volumes = other_flow, [f"storage:/{ORG}/{OTHER}/mlflow:/mnt/mlflow:rw"]
    task = store_task.Task(chosen, submission(chosen.project, volumes))
    await task._start({"do": "backup"})
    [body] = [body for method, path, _, body in platform.requests if method == "POST"]
    assert (body["project_name"], body["org_name"], body["cluster_name"]) == (chosen.project, ORG, "default")
    wrong = store_task.Task(chosen, submission(OTHER if project == LOGIN else LOGIN, volumes))
    with (
        pytest.raises(Failure, match="refuses the login: project mismatch"),
        platform_errors(chosen.settings),
    ):
        await wrong._start({"do": "backup"})


async def test_a_task_is_stopped_that_is_interrupted_while_the_platform_accepts_it(
    platform: Platform, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    async def stop(found: Any) -> None:
        stopped.append(found.id)
        platform.jobs[0]["status"] = "cancelled"

    monkeypatch.setattr(flow, "stop", stop)
    platform.answers = asyncio.Event()
    task = asyncio.ensure_future(store_task.Task(flow, submission(LOGIN, [VOLUME])).run("gc", dry_run=True))
    await platform.accepted.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    platform.answers.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped == [platform.jobs[0]["id"]]


async def test_backups_are_kept_in_the_project_of_the_job(platform: Platform, other_flow: Flow) -> None:
    kept = store_task.backups_of(other_flow, submission(OTHER, ()), "mlflow")
    assert str(kept.uri) == f"storage://default/{ORG}/{OTHER}/mlflow-mlflow-backups"


@pytest.mark.parametrize(
    ("destination", "store"),
    [
        ("/mnt/mlflow/artifacts", ""),
        ("/////mnt/mlflow/artifacts", "sqlite://///mnt/mlflow/mlflow.db"),
        ("file:///mnt/mlflow/artifacts/", ""),
        ("/mnt/mlflow", "mssql://db/mlflow"),  # a server whose driver is not looked for
        ("s3://bucket", "sqlite:////mnt/mlflow/mlflow.db"),
        ("s3://bucket", "/mnt/mlflow/mlruns"),
    ],
)
async def test_the_server_keeps_its_own_backups_in_the_same_folder(
    flow: Flow, destination: str, store: str
) -> None:
    volumes = ["storage:a:/mnt/other:rw", VOLUME, "storage:b:/mnt/shown:ro"]
    env = {"MLFLOW_ARTIFACTS_DESTINATION": destination, "MLFLOW_BACKEND_STORE_URI": store}
    kept = store_task.backups_of(flow, submission(LOGIN, volumes, **env), "mlflow")
    assert str(keeper.folder_of({**env, keeper.VOLUMES: json.dumps(volumes)})) == kept.path


@pytest.mark.parametrize(
    ("project", "volume", "env", "said"),
    [
        (LOGIN, VOLUME, {}, "neuro-flow would start the job in project login-project, not in other-project"),
        (OTHER, VOLUME, {}, "storage://default/org/login-project/mlflow is not of the project other-project"),
        (OTHER, "disk:mlflow:/mnt/mlflow:rw", {}, "there is no disk mlflow; `apolo disk create --timeout"),
    ],
)
async def test_what_is_of_another_project_is_named(
    platform: Platform, other_flow: Flow, project: str, volume: str, env: dict[str, str], said: str
) -> None:
    with pytest.raises(Failure, match=said):
        await platform_check.check_submission(other_flow, submission(project, (volume,), **env))


async def test_names_that_the_platform_keeps_for_itself_are_found(platform: Platform, flow: Flow) -> None:
    made = submission()
    made.options["name"] = "job-x-mlflow-server"
    with pytest.raises(Failure, match="job_name is empty, and the job's name would be 'job-x-mlflow-server'"):
        await platform_check.check_submission(flow, made)


@pytest.mark.parametrize(
    ("project", "name"),
    [
        ("mlflow", "mlflow-mlflow-store"),
        ("job-x", "flow-job-x-mlflow-store"),
        ("job", "flow-job-mlflow-store"),
        ("-a--b-", "a-b-mlflow-store"),
        ("2nd", "flow-2nd-mlflow-store"),
        ("", "flow-mlflow-store"),
        ("a" * 60, f"{'a' * 27}-mlflow-store"),
    ],
)
def test_the_name_of_a_task(project: str, name: str) -> None:
    assert store_task.job_name(project) == name


@pytest.mark.parametrize(
    ("status", "text", "code", "said"),
    [
        (
            400,
            json.dumps({"error": "{'x': DataError('is\n required')}"}),
            1,
            "refuses that: {'x': DataError('is req",
        ),
        (404, json.dumps({"error": "no such job"}), 1, "the platform refuses that: no such job"),
        (500, PAGE.replace("502 Bad Gateway", "500 Internal"), 1, "the platform refuses that: 500 Internal;"),
        (502, PAGE, 2, "the platform cannot be reached: 502 Bad Gateway;"),
        (503, "<!DOCTYPE html><p>", 2, "the platform cannot be reached: an HTML page;"),
        (403, PAGE, 2, "the platform refuses the login: 502 Bad Gateway;"),
    ],
)
async def test_a_refusal_is_one_line(
    platform: Platform, flow: Flow, status: int, text: str, code: int, said: str
) -> None:
    platform.broken = (status, text)
    with pytest.raises(Failure) as caught, platform_errors(flow.settings):
        await flow.find()
    [problem] = caught.value.problems
    assert caught.value.code == code
    assert said in str(problem)
    assert "\n" not in str(problem)


async def test_a_job_in_words(platform: Platform, flow: Flow) -> None:
    tail = "1\nTraceback\nValueError: postgresql://me:secret@host/db"
    cases: dict[str | None, str] = {
        None: "failed",
        "": "failed",
        "no node has a GPU": "failed no node has a GPU",
        "postgresql://me:secret@host/db": "failed postgresql://me:***@host/db",
        tail: "failed",
    }
    for description, words in cases.items():
        platform.jobs = [job(LOGIN, tags=[*TAGS], status="failed", description=description)]
        found = await flow.find(ended=True)
        assert found
        assert found.status == JobStatus.FAILED
        assert state_of(found) == words


async def test_a_life_span_that_is_refused_is_named(platform: Platform, flow: Flow) -> None:
    platform.jobs = [job(LOGIN, tags=[*TAGS], max_run_time_minutes=1)]
    running: Any = await flow.find()
    platform.broken = (400, json.dumps({"error": "no such number of minutes"}))
    nothing: Any = None
    with pytest.raises(Failure) as caught:
        await deploy.keep(flow, nothing, running, "20d")
    said = "deploy_life_span is '10d', which the platform refuses for job job-"
    assert re.match(rf"deploy.yaml:\d+: {said}", str(caught.value))
    assert "no such number of minutes" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"), [("mlflow_server", "life_span"), ("mlflow_model --suffix a", "deploy_life_span")]
)
async def test_a_life_span_that_a_run_is_refused_for_is_named(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    cli = tmp_path / "neuro-flow"
    refusal = "ERROR: Illegal argument(s) (max_run_time_minutes 9 is not a number)"
    cli.write_text(f"#!/bin/sh\necho '{refusal}'\nexit 65\n")
    cli.chmod(0o755)
    monkeypatch.setenv("MLFLOW_FLOW_CLI", str(cli))
    monkeypatch.setenv("MLFLOW_LIFE_SPAN", "99999999d")
    monkeypatch.setenv("MLFLOW_DEPLOY_LIFE_SPAN", "99999999d")
    flow.settings = layers.load()
    with pytest.raises(Failure) as caught:
        await flow.neuro_flow("run", *words.split())
    what = f"{said} is '99999999d', which the platform refuses: {refusal}"
    assert str(caught.value) == f"environment MLFLOW_{said.upper()}: {what}; choose another one"


async def _tail(platform: Platform, flow: Flow, description: str | None) -> str:
    platform.jobs = [job(LOGIN, tags=[*TAGS], status="failed", description=description)]
    found = await flow.find(ended=True)
    assert found
    return await flow.log_tail(found)


async def test_the_log_of_an_ended_job_is_read_until_it_is_there(platform: Platform, flow: Flow) -> None:
    platform.logs = [[], [b"one\n"], [b"one\nMARK\n", b"two\nlast\n"], [b"never read"]]
    assert await _tail(platform, flow, "two\nlast") == "one\ntwo\nlast"
    platform.logs = [[], [b"one\n"], [b"never read"]]
    assert await _tail(platform, flow, None) == "one"


async def test_the_description_stands_in_for_a_log(
    platform: Platform, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_LAG", 0)
    platform.logs = [[b"one\n"]]
    assert await _tail(platform, flow, "two\npostgresql://me:secret@h/d") == "two\npostgresql://me:***@h/d"


async def test_a_log_is_shown_without_the_line_between_kept_and_live(platform: Platform, flow: Flow) -> None:
    platform.jobs = [job(LOGIN, tags=[*TAGS])]
    platform.logs = [[b"kept\n", b"MARK\n", b"live\n"]]
    found: Any = await flow.find()
    assert b"".join([piece async for piece in flow.log(found, follow=False)]) == b"kept\nlive\n"
