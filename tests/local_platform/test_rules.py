"""What the real platform refuses, leaves out or does later: one test for each rule, against HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local_platform import client
from local_platform.substitution import substitute
from tests.local_platform.harness import HOME, QUERY, Platform, eventually, http, processes

OTHER = {"org_name": "local", "project_name": "other"}
SECOND = {"org_name": "second", "project_name": "mlflow"}
HERE = [HOME, OTHER, SECOND]
JOB = {"image": "python:3", "preset_name": "cpu-small", "command": "true"}


def _query(project: dict[str, str]) -> str:
    return "&".join(f"{key}={value}" for key, value in project.items())


def _log(platform: Platform, job_id: str, query: str = "") -> str:
    """Return a job's log as the API gives it now."""

    async def read() -> bytes:
        headers = {"Authorization": f"Bearer {platform.login.token}"}
        url = f"{platform.login.url}/monitoring/{job_id}/log_ws{query}"
        async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(url) as socket:
            return b"".join([message.data async for message in socket])

    return asyncio.run(read()).decode()


def test_there_are_two_projects_and_two_organisations(shared: Platform) -> None:
    config = shared.api("GET", "config").json
    assert config["clusters"][0]["orgs"] == ["local", "second"]
    found = [{"org_name": p["org_name"], "project_name": p["name"]} for p in config["projects"]]
    assert found == HERE


@pytest.mark.parametrize("missing", ["project_name", "org_name"])
@pytest.mark.parametrize(
    ("method", "path", "data"),
    [
        ("GET", "secrets", None),
        ("DELETE", "secrets/x", None),
        ("POST", "secrets", {"key": "x", "value": "eA=="}),
        ("GET", "disks", None),
        ("GET", "disks/x", None),
        ("DELETE", "disks/x", None),
        ("POST", "disks", {"storage": 1}),
        ("GET", "flow/projects/by_name?name=x", None),
        ("POST", "flow/projects", {"name": "x"}),
        ("POST", "jobs?from_preset", JOB),
    ],
)
def test_a_project_has_to_be_named(shared: Platform, method: str, path: str, data: Any, missing: str) -> None:
    named = {key: value for key, value in HOME.items() if key != missing}
    if data is None:
        path += ("&" if "?" in path else "?") + _query(named)
    answer = shared.api(method, path, None if data is None else {**data, **named})
    assert (answer.status, answer.json) == (400, {"error": f"{{'{missing}': DataError('is required')}}"})


def test_jobs_are_listed_of_every_project_unless_one_is_named(shared: Platform) -> None:
    started = [shared.run("true", tags=["every:1"], name="every", **project) for project in HERE]

    def found(query: str) -> list[str]:
        return [job["id"] for job in shared.api("GET", f"jobs?tag=every:1{query}").json["jobs"]]

    assert found("") == started
    assert [found(f"&{_query(project)}") for project in HERE] == [[job] for job in started]
    assert found("&project_name=mlflow") == [started[0], started[2]]


def test_a_name_is_unique_in_its_project_only_and_so_are_the_hosts(shared: Platform) -> None:
    jobs = [shared.job(shared.run("sleep", "60", name="twice", **project)) for project in HERE]
    hashes = [hashlib.sha256(f"{p['org_name']}{p['project_name']}".encode()).hexdigest()[:10] for p in HERE]
    assert [job["internal_hostname_named"] for job in jobs] == [f"twice--{h}.platform-jobs" for h in hashes]
    assert [job["org_project_hash"][:10] for job in jobs] == hashes
    answer = shared.api("POST", "jobs?from_preset", {**JOB, **OTHER, "name": "twice"})
    assert (answer.status, "project 'other' already exists" in answer.json["error"]) == (400, True)
    for job in jobs:
        shared.api("DELETE", f"jobs/{job['id']}")
        shared.gone(job["id"])


def test_secrets_disks_files_and_flows_are_of_one_project(shared: Platform) -> None:
    for number, project in enumerate(HERE[:2]):
        value = base64.b64encode(str(number).encode()).decode()
        assert shared.api("POST", "secrets", {"key": "mine", "value": value, **project}).status == 201
        assert shared.api("POST", "disks", {"name": "mine", "storage": 1, **project}).status == 201
        assert shared.api("POST", "flow/projects", {"name": "mine", **project}).status == 201
        path = "/".join(project.values())
        assert shared.api("PUT", f"storage/{path}/mine?op=CREATE", str(number).encode()).status == 201
    for number, project in enumerate(HERE):
        keys = [secret["key"] for secret in shared.api("GET", f"secrets?{_query(project)}").json]
        disks = [disk["name"] for disk in shared.api("GET", f"disks?{_query(project)}").json]
        flow = shared.api("GET", f"flow/projects/by_name?name=mine&{_query(project)}").status
        file = shared.api("GET", f"storage/{'/'.join(project.values())}/mine?op=OPEN")
        wanted = (False, False, 404, 404) if number == 2 else (True, True, 200, 200)
        assert ("mine" in keys, "mine" in disks, flow, file.status) == wanted
        if number < 2:
            secret = "secret://local/" + "/".join(project.values()) + "/mine"
            job = shared.ended("sh", "-c", "echo $S", secret_env={"S": secret}, **project)
            assert shared.log(job["id"]) == file.body.decode() + "\n"
        shared.api("DELETE", f"disks/mine?{_query(project)}")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        pytest.param(
            {"volumes": [{"src_storage_uri": "storage://local/local/other/x", "dst_path": "/x"}]},
            "403 project mismatch",
            id="storage",
        ),
        pytest.param(
            {"secret_env": {"A": "secret://local/second/mlflow/x"}}, "Missing secrets: 'x'", id="secret"
        ),
        pytest.param(
            {"disk_volumes": [{"src_disk_uri": "disk://local/local/other/x", "dst_path": "/x"}]},
            "Missing disks: 'x'",
            id="disk",
        ),
    ],
)
def test_what_is_of_another_project_does_not_start(shared: Platform, fields: Any, text: str) -> None:
    shared.api("PUT", "storage/local/other/x?op=MKDIRS")
    shared.api("POST", "secrets", {"key": "x", "value": "eA==", **SECOND})
    job = shared.ended("true", **fields)
    assert (job["status"], text in job["history"]["description"]) == ("failed", True)


def test_a_job_names_disks_by_id(shared: Platform) -> None:
    disk = shared.api("POST", "disks", {"storage": 1, "name": "by-name", **HOME}).json
    assert shared.api("GET", f"disks/by-name?{QUERY}").json["id"] == disk["id"]
    for name, status in (("by-name", "failed"), (disk["id"], "succeeded")):
        volume = {"src_disk_uri": f"disk://local/local/mlflow/{name}", "dst_path": "/mnt/by-name"}
        job = shared.ended("true", disk_volumes=[volume])
        assert job["status"] == status
        assert job["history"]["description"] == (
            None if status == "succeeded" else "Missing disks: 'by-name'"
        )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "job-mlflow"}, "job-"),
        ({"max_run_time_minutes": 0}, "max_run_time_minutes"),
        ({"tags": [f"t:{number}" for number in range(17)]}, "tags"),
        ({"project_name": "third"}, "third"),
        ({"org_name": "third"}, "third"),
    ],
)
def test_what_a_job_may_not_have_is_refused(shared: Platform, fields: Any, text: str) -> None:
    answer = shared.api("POST", "jobs?from_preset", {**JOB, **HOME, **fields})
    assert 400 <= answer.status < 404
    assert text in answer.json["error"]


@pytest.mark.e2e
def test_a_job_is_cancelled_at_once_and_ends_later(
    new: Callable[[], Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_PLATFORM_GRACE", "60")
    platform = new()
    marker = "1.4142"
    (platform.state / "storage/d").mkdir()
    volume = {"src_storage_uri": "storage://local/local/mlflow/d", "dst_path": "/mnt/d"}
    deaf = f"trap 'touch $D/asked' TERM; echo up; until test -e $D/end; do sleep 0.05; done # {marker}"
    fields: dict[str, Any] = {
        "name": "late",
        "http": {"port": 5000},
        "volumes": [volume],
        "env": {"D": "/mnt/d"},
    }
    job_id = platform.run("sh", "-c", deaf, **fields)
    eventually(lambda: platform.log(job_id) == "up\n")
    assert platform.api("DELETE", f"jobs/{job_id}").status == 204
    job = platform.job(job_id)
    assert (job["status"], job["materialized"], job["history"]["reason"]) == (
        "cancelled",
        True,
        "UserRequested",
    )
    assert "exit_code" not in job["history"]
    eventually((platform.state / "storage/d/asked").exists)
    assert processes(marker)
    assert platform.job(job_id)["materialized"]
    # The name and the address are free at once, although the process of the first has not ended.
    second = platform.job(platform.run("sleep", "60", name="late", http={"port": 5000}))
    assert second["http_url"] == job["http_url"]
    (platform.state / "storage/d/end").touch()
    assert platform.gone(job_id)["status"] == "cancelled"
    assert processes(marker) == []
    assert platform.job(second["id"])["status"] in ("pending", "running")


@pytest.mark.e2e
def test_the_log_of_an_ended_job_lags(new: Callable[[], Platform], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_PLATFORM_LOG_LAG", "4")
    platform = new()
    job = platform.ended("sh", "-c", "echo early; sleep 5; echo late")
    first = _log(platform, job["id"])
    assert (first, job["status"]) == ("early\n", "succeeded")
    assert eventually(lambda: _log(platform, job["id"]), lambda log: log != first) == "early\nlate\n"


@pytest.mark.e2e
def test_a_line_stands_between_old_and_new_log(shared: Platform) -> None:
    (shared.state / "storage/lines").mkdir(0o700)
    volume = {"src_storage_uri": "storage://local/local/mlflow/lines", "dst_path": "/mnt/lines"}
    script = "echo old; until test -e $D/go; do sleep 0.05; done; echo new"
    logs = []
    for query in ("", "?separator=---"):
        job_id = shared.run("sh", "-c", script, env={"D": "/mnt/lines"}, volumes=[volume])
        eventually(lambda job_id=job_id: shared.log(job_id) == "old\n")  # type: ignore[misc]

        async def follow(job_id: str = job_id, query: str = query) -> list[str]:
            headers = {"Authorization": f"Bearer {shared.login.token}"}
            url = f"{shared.login.url}/monitoring/{job_id}/log_ws{query}"
            async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(url) as socket:
                first = (await socket.receive()).data
                (shared.state / "storage/lines/go").touch(0o600)
                text: bytes = first + b"".join([message.data async for message in socket])
                return text.decode().splitlines()

        logs.append(asyncio.run(follow()))
        (shared.state / "storage/lines/go").unlink()
    assert logs[0][0] == logs[1][0] == "old"
    assert logs[0][1].startswith("=== Live logs ===")
    assert logs[1] == ["old", "---", "new"]


def test_the_end_of_the_log_describes_a_failure(shared: Platform) -> None:
    job = shared.ended("sh", "-c", "echo one; echo two; exit 3")
    assert (job["history"]["description"], job["history"]["exit_code"]) == ("one\ntwo", 3)


def test_what_there_is_not_is_null_or_absent(shared: Platform) -> None:
    job = shared.job(shared.run("sleep", "60", max_run_time_minutes=600))
    job = shared.until(job["id"], "running")
    assert job["history"]["reason"] is job["history"]["description"] is None
    assert not {"exit_code", "finished_at"} & job["history"].keys()
    assert not {"name", "tags", "description", "http_url", "schedule_timeout"} & job.keys()
    assert type(job["history"]["run_time_seconds"]) is float
    assert (job["being_dropped"], job["logs_removed"], job["privileged"]) == (False, False, False)
    assert (job["container"]["env"], job["container"]["volumes"]) == ({}, [])
    shared.api("DELETE", f"jobs/{job['id']}")


def test_a_live_job_is_created_each_time(shared: Platform) -> None:
    flow = shared.api("POST", "flow/projects", {"name": "created", **HOME}).json
    body = {"project_id": flow["id"], "yaml_id": "train", "tags": [], "multi": False, "raw_id": ""}
    answers = [shared.api("PUT", "flow/live_jobs/replace", body) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json == answers[1].json


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("pa$$w", "pa$w"),
        ("$$$$", "$$"),
        ("$(A) $A ${A} $", "1 $A ${A} $"),
        ("$$(A) $$$(A)", "$(A) $1"),
        ("$(B) $() $(A", "$(B) $() $(A"),
        ("$( A)", "$( A)"),
    ],
)
def test_dollars_are_substituted_as_kubernetes_does(text: str, wanted: str) -> None:
    assert substitute(text, {"A": "1"}) == wanted


def test_the_platforms_variables_win_over_the_users(shared: Platform) -> None:
    names = ["NEURO_JOB_ID", "NEURO_JOB_PRESET", "NEURO_JOB_HTTP_AUTH"]
    program = f"import os; print([os.environ[name] for name in {names}])"
    job = shared.ended("python", "-c", program, env=dict.fromkeys(names, "mine"))
    assert shared.log(job["id"]) == f"{[job['id'], 'cpu-small', '']}\n"


FAILING = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = int(self.path[1:])
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"error": "mine"}')
print("serving", flush=True)
address = os.environ["MLFLOW_HOST"], int(os.environ["NEURO_JOB_HTTP_PORT"])
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


@pytest.mark.e2e
def test_the_body_of_a_5xx_becomes_a_page(shared: Platform) -> None:
    job_id = shared.run("python", "-c", FAILING, http={"port": 5000})
    url = shared.until(job_id, "running")["http_url"]
    eventually(lambda: http("GET", f"{url}/200").status == 200)
    for status in (200, 404, 409, 429):
        answer = http("GET", f"{url}/{status}")
        assert (answer.status, answer.json) == (status, {"error": "mine"})
    for status in (500, 502, 503, 504, 599):
        answer = http("GET", f"{url}/{status}")
        assert (answer.status, answer.headers.get_content_type()) == (status, "text/html")
        assert answer.body.startswith(b"<html>")
        assert b"mine" not in answer.body
    shared.api("DELETE", f"jobs/{job_id}")


def test_a_request_without_a_token_is_told_so(shared: Platform) -> None:
    for answer in (shared.api("GET", "jobs", token=""), shared.api("GET", "jobs", token="x")):
        assert answer.status == 401
    assert "there is no token" in shared.api("GET", "jobs", token="").json["error"]
    assert "not one of this platform" in shared.api("GET", "jobs", token="x").json["error"]
    job = shared.job(shared.run("sleep", "60", http={"port": 5000, "requires_auth": True}))
    assert "there is no token" in http("GET", job["http_url"]).json["error"]
    wrong = {"Authorization": "Bearer x"}
    assert "not one of this platform" in http("GET", job["http_url"], None, wrong).json["error"]
    shared.api("DELETE", f"jobs/{job['id']}")


@pytest.mark.e2e
def test_the_platform_ends_when_its_last_job_does(
    new: Callable[[], Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setenv("LOCAL_PLATFORM_IDLE", "1")
    platform = new()
    job_id = platform.run("sleep", "60", name="last")
    used = Path(f"{platform.state}.lock")
    with used.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a target of the toolkit does
        assert platform.cli("apolo", "kill", "last").returncode == 0
        eventually(lambda: not platform.job(job_id)["materialized"])
        pid = platform.pid
        with contextlib.suppress(TimeoutError):
            asyncio.run(asyncio.wait_for(asyncio.sleep(60), 5))
        assert pid in processes("local_platform", str(platform.state))
    eventually(lambda: processes("local_platform", str(platform.state)) == [])
    assert client.find(platform.state) is None
    platform.restart()
    assert platform.job(job_id)["history"]["reason"] == "UserRequested"
    assert json.loads((platform.state / "server.json").read_text())["pid"] != pid
