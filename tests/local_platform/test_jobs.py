"""Jobs by the API: what they see, how they end, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import aiohttp
import pytest

from local_platform.runner import namespace_command
from tests.local_platform.harness import HOME, QUERY, Platform, eventually, processes

URI = "storage://local/local/mlflow"
needs_namespaces = pytest.mark.skipif(namespace_command() is None, reason="no mount namespaces here")


def _volume(shared: Platform, name: str, target: str, read_only: bool = False) -> dict[str, Any]:
    (shared.state / "storage" / name).mkdir(0o700, parents=True, exist_ok=True)
    return {"src_storage_uri": f"{URI}/{name}", "dst_path": target, "read_only": read_only}


def _secret(shared: Platform, key: str, value: bytes) -> str:
    data = {"key": key, "value": base64.b64encode(value).decode(), **HOME}
    assert shared.api("POST", "secrets", data).status == 201
    return f"secret://local/local/mlflow/{key}"


@pytest.mark.e2e
def test_a_job_sees_the_platforms_variables_and_not_the_users(
    shared: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"
    job = shared.ended(
        "python",
        "-c",
        program,
        name="variables",
        env={"OWN": "a 'b' $c"},
        http={"port": 5000, "requires_auth": True},
    )
    assert (job["status"], job["history"]["exit_code"]) == ("succeeded", 0)
    env, cwd = json.loads(shared.log(job["id"]))
    wanted = {
        "OWN": "a 'b' $c",
        "NEURO_JOB_ID": job["id"],
        "NEURO_JOB_NAME": "variables",
        "NEURO_JOB_OWNER": "local",
        "NEURO_JOB_CLUSTER": "local",
        "NEURO_JOB_INTERNAL_HOSTNAME": job["internal_hostname"],
        "NEURO_JOB_INTERNAL_HOSTNAME_NAMED": job["internal_hostname_named"],
        "NEURO_JOB_HTTP_AUTH": "True",
        "NEURO_JOB_PRESET": "cpu-small",
    }
    assert {name: env.get(name) for name in wanted} == wanted
    assert int(env["NEURO_JOB_HTTP_PORT"]) > 0
    assert env["MLFLOW_HOST"].startswith("127.")
    assert str(shared.state / "jobs" / job["id"]) in cwd
    assert not {name for name in env if name.startswith(("PYTEST", "APOLO", "PYTHON", "VIRTUAL"))}
    assert not (shared.state / "jobs" / job["id"] / "home").exists()


@pytest.mark.e2e
@needs_namespaces
def test_volumes_are_mounted_where_the_job_says(shared: Platform) -> None:
    volumes = [
        _volume(shared, "rw", "/mnt/local-platform-test/deep/rw"),
        _volume(shared, "ro", "/local-platform-test/ro", read_only=True),
        _volume(shared, "inner", "/mnt/local-platform-test/deep/rw/inner"),
    ]
    script = """
        echo data > /mnt/local-platform-test/deep/rw/file
        echo data > /mnt/local-platform-test/deep/rw/inner/file
        echo data > /local-platform-test/ro/file
        echo data > /local-platform-test/beside
        echo data > /etc/hosts
        cd /local-platform-test && ls; ls /usr /etc/passwd > /dev/null && pwd
    """
    job = shared.ended("sh", "-c", script, volumes=volumes, working_dir="/local-platform-test/work")
    log = shared.log(job["id"])
    storage = shared.state / "storage"
    assert (storage / "rw/file").read_text() == (storage / "inner/file").read_text() == "data\n"
    assert "Read-only file system" in log
    assert list((storage / "ro").iterdir()) == []
    assert {"beside", "ro", "work", "/local-platform-test"} <= set(log.splitlines())
    from pathlib import Path

    assert not Path("/mnt/local-platform-test").exists()
    assert not Path("/local-platform-test").exists()
    assert Path("/etc/hosts").read_text() != "data\n"
    assert (shared.state / "hosts").read_text() != "data\n"


@pytest.mark.e2e
@needs_namespaces
def test_a_jobs_processes_are_its_own_and_end_with_it(shared: Platform) -> None:
    marker = "3141.25"
    script = f"setsid sleep {marker} & sleep 0.1; ps -ax -o pid=; echo $$$$; kill -0 1 && wait"
    job_id = shared.run("sh", "-c", script)
    eventually(lambda: processes("sleep", marker))
    eventually(lambda: shared.log(job_id).count("\n") > 3)
    assert max(int(line) for line in shared.log(job_id).split()) < 100
    assert shared.api("DELETE", f"jobs/{job_id}").status == 204
    job = shared.until(job_id, "cancelled")
    assert job["history"]["reason"] == "UserRequested"
    eventually(lambda: processes("sleep", marker) == [])
    assert shared.api("DELETE", f"jobs/{job_id}").status == 204


@pytest.mark.e2e
def test_a_job_can_end_in_order_or_is_killed(shared: Platform) -> None:
    orderly = shared.run("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    deaf = shared.run("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    for job_id in (orderly, deaf):
        eventually(lambda job_id=job_id: "up" in shared.log(job_id))  # type: ignore[misc]
        shared.api("DELETE", f"jobs/{job_id}")
        shared.gone(job_id)
    assert shared.log(orderly) == "up\nbye\n"


@pytest.mark.e2e
def test_secrets_are_variables_and_files_and_nowhere_else(shared: Platform) -> None:
    text, binary = _secret(shared, "text", b"s3cr3t-value"), _secret(shared, "binary", b"\xff\0x")
    program = "import os; print(len(os.environ['S']), open(os.environ['F'], 'rb').read())"
    job = shared.ended(
        "python",
        "-c",
        program,
        env={"F": "/run/local-platform-secret/file"},
        secret_env={"S": text},
        secret_volumes=[{"src_secret_uri": binary, "dst_path": "/run/local-platform-secret/file"}],
    )
    assert shared.log(job["id"]) == "12 b'\\xff\\x00x'\n"
    assert job["container"]["secret_env"] == {"S": text}
    for path in (shared.state / "platform.log", *(shared.state / "jobs").rglob("*")):
        assert path.is_dir() or b"s3cr3t-value" not in path.read_bytes(), path
    keys = [entry["key"] for entry in shared.api("GET", f"secrets?{QUERY}").json]
    assert [key for key in keys if key in ("text", "binary")] == ["binary", "text"]
    assert shared.api("DELETE", f"secrets/text?{QUERY}").status == 204
    assert shared.api("DELETE", f"secrets/text?{QUERY}").status == 404
    assert shared.api("POST", "secrets", {"key": "a/b", "value": "eA==", **HOME}).status == 400
    assert shared.api("POST", "secrets", {"key": "a", "value": "?", **HOME}).status == 400


@pytest.mark.e2e
def test_disks_keep_their_data_from_job_to_job(shared: Platform) -> None:
    disk = shared.api("POST", "disks", {"storage": 2**30, "name": "my-disk", **HOME}).json
    volume = {
        "src_disk_uri": f"disk://local/local/mlflow/{disk['id']}",
        "dst_path": "/mnt/disk",
        "read_only": False,
    }
    shared.ended("sh", "-c", "echo kept > $D/file", env={"D": "/mnt/disk"}, disk_volumes=[volume])
    reader = shared.run("sh", "-c", "cat $D/file; sleep 60", env={"D": "/mnt/disk"}, disk_volumes=[volume])
    eventually(lambda: shared.log(reader) == "kept\n")
    answer = shared.api("DELETE", f"disks/my-disk?{QUERY}")
    assert (answer.status, reader in answer.json["error"]) == (400, True)
    shared.api("DELETE", f"jobs/{reader}")
    shared.gone(reader)
    assert shared.api("DELETE", f"disks/my-disk?{QUERY}").status == 204
    assert shared.api("GET", f"disks/my-disk?{QUERY}").status == 404
    assert "Missing disks" in shared.ended("true", disk_volumes=[volume])["history"]["description"]


@pytest.mark.parametrize(
    ("fields", "reason", "text"),
    [
        pytest.param({"image": "nope:1"}, "ErrImagePull", "python:*", id="image"),
        pytest.param(
            {"volumes": [{"src_storage_uri": f"{URI}/none", "dst_path": "/x", "read_only": False}]},
            "Error",
            f"{URI}/none does not exist",
            id="volume",
        ),
        pytest.param(
            {"secret_env": {"A": "secret://local/local/mlflow/none"}}, "Error", "'none'", id="secret"
        ),
        pytest.param({"command": "no-such-command"}, "ContainerCannotRun", "no-such-command", id="command"),
        pytest.param({"command": ""}, "ContainerCannotRun", "no command", id="no command"),
    ],
)
def test_what_cannot_start_fails_and_says_why(shared: Platform, fields: Any, reason: str, text: str) -> None:
    request = {"image": "python:3", "preset_name": "cpu-small", "command": "true", **HOME, **fields}
    job = shared.until(shared.api("POST", "jobs?from_preset", request).json["id"], "failed")
    assert job["history"]["reason"] == reason
    assert text in job["history"]["description"]
    assert job["history"]["started_at"]


@pytest.mark.e2e
def test_names_are_unique_among_active_jobs(shared: Platform) -> None:
    first = shared.run("sleep", "60", name="unique")
    again = {"image": "python:3", "preset_name": "cpu-small", "command": "true", "name": "unique", **HOME}
    answer = shared.api("POST", "jobs?from_preset", again)
    assert answer.status == 400
    assert answer.json["error"] == f"job with name 'unique' and project 'mlflow' already exists: '{first}'"
    shared.api("DELETE", f"jobs/{first}")
    shared.until(first, "cancelled")
    assert shared.ended("true", name="unique")["status"] == "succeeded"


@pytest.mark.e2e
def test_a_life_span_ends_and_can_be_lengthened(shared: Platform) -> None:
    short = shared.run("sleep", "60", max_run_time_minutes=1)
    longer = shared.run("sleep", "60", max_run_time_minutes=1)
    endless = shared.run("sleep", "60")
    minutes = {"additional_max_run_time_minutes": 600}
    assert shared.api("PUT", f"jobs/{longer}/max_run_time_minutes", minutes).status == 204
    assert shared.until(short, "cancelled")["history"]["reason"] == "LifeSpanEnded"
    assert shared.api("PUT", f"jobs/{short}/max_run_time_minutes", minutes).status == 400
    assert (shared.job(longer)["status"], shared.job(longer)["max_run_time_minutes"]) == ("running", 601)
    assert shared.job(endless)["status"] == "running"
    for job_id in (longer, endless):
        shared.api("DELETE", f"jobs/{job_id}")
        shared.until(job_id, "cancelled")
    assert shared.api("PUT", f"jobs/{short}/max_run_time_minutes", {}).status == 400


@pytest.mark.e2e
def test_restart_policies(shared: Platform) -> None:
    volumes = [_volume(shared, "restarts", "/mnt/restarts")]
    script = "echo x >> $D/$1; test `wc -l < $D/$1` -ge 3 || exit 4"
    failing = shared.run(
        "sh",
        "-c",
        script,
        "sh",
        "a",
        env={"D": "/mnt/restarts"},
        volumes=volumes,
        restart_policy="on-failure",
    )
    always = shared.run("true", restart_policy="always")
    job = shared.until(failing, "succeeded")
    assert job["history"]["restarts"] == 2
    assert [item["reason"] for item in job["statuses"]].count("Restarting") == 2
    eventually(lambda: shared.job(always)["history"]["restarts"] >= 1)
    assert shared.job(always)["status"] == "running"
    shared.api("DELETE", f"jobs/{always}")
    shared.until(always, "cancelled")
    failed = shared.ended("sh", "-c", "exit 3")
    assert (failed["status"], failed["history"]["exit_code"], failed["history"]["restarts"]) == (
        "failed",
        3,
        0,
    )


@pytest.mark.e2e
def test_jobs_are_listed_by_tag_status_and_time(shared: Platform) -> None:
    one = shared.ended("true", tags=["a:1", "b:1"])["id"]
    two = shared.ended("false", tags=["a:1"])["id"]

    def found(query: str) -> list[str]:
        return [job["id"] for job in shared.api("GET", f"jobs?{query}").json["jobs"]]

    assert found("tag=a:1") == [one, two]
    assert found("tag=a:1&reverse=1") == [two, one]
    assert found("tag=a:1&reverse=1&limit=1") == [two]
    assert found("tag=a:1&tag=b:1") == [one]
    assert found("tag=a:1&status=failed&status=running") == [two]
    assert found("tag=a:1&org_name=other") == []
    assert found("tag=a:1&since=2100-01-01T00:00:00Z") == []
    assert shared.api("GET", "jobs?since=yesterday").status == 400
    assert shared.api("GET", "jobs/job-none").status == 404


@pytest.mark.e2e
def test_logs_are_followed_and_attached_clients_get_the_exit_code(shared: Platform) -> None:
    gate = _volume(shared, "gate", "/mnt/gate")
    script = "echo first; while ! test -e $G/go; do sleep 0.05; done; echo out; echo err >&2; exit 5"
    job_id = shared.run("sh", "-c", script, env={"G": "/mnt/gate"}, volumes=[gate])
    shared.until(job_id, "running")

    async def watch() -> tuple[bytes, list[bytes]]:
        headers = {"Authorization": f"Bearer {shared.login.token}"}
        root = f"{shared.login.url}/monitoring/{job_id}"
        async with aiohttp.ClientSession(headers=headers) as session:
            log = await session.ws_connect(f"{root}/log_ws?separator=new")
            first = (await log.receive()).data
            attached = await session.ws_connect(f"{root}/attach?stdout=1&stderr=1")
            (shared.state / "storage/gate/go").touch(0o600)
            messages = [message.data async for message in attached]
            async with session.get(f"{root}/attach?stdin=1") as again:
                assert again.status == 404, "apolo would take the end for a lost connection"
            return first + b"".join([message.data async for message in log]), messages

    log, messages = asyncio.run(watch())
    assert (log.splitlines()[:2], sorted(log.splitlines()[2:])) == ([b"first", b"new"], [b"err", b"out"])
    assert messages[-1] == b'\x03{"exit_code": 5}'
    assert sorted(messages[:-1]) == [b"\x01out\n", b"\x02err\n"]
    assert shared.api("GET", f"monitoring/{job_id}/attach").status == 404


@pytest.mark.parametrize(
    ("method", "path", "data"),
    [
        ("GET", "monitoring/job-x/exec", None),
        ("POST", "flow/bakes", {}),
        ("POST", "jobs", {"image": "x"}),
        ("POST", "jobs?from_preset", b"{"),
        ("POST", "jobs?from_preset", []),
        ("POST", "jobs?from_preset", {"privileged": True, **HOME}),
        ("POST", "secrets", {"key": "a", "value": 1, **HOME}),
        ("POST", "disks", {"storage": "many", **HOME}),
        ("PATCH", "jobs", None),
        ("GET", "buckets", None),
    ],
)
def test_what_is_not_supported_is_said(shared: Platform, method: str, path: str, data: Any) -> None:
    answer = shared.api(method, path, data)
    assert 400 <= answer.status < 500
    assert set(answer.json) == {"error"}
    assert "mistake" not in answer.json["error"]


@pytest.mark.e2e
def test_jobs_reach_each_other_by_name(shared: Platform) -> None:
    web = shared.serve(name="reached")
    url = f"http://{web['internal_hostname_named']}:5000/hello"
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status)"
    job = shared.ended("python", "-c", program, url)
    assert shared.log(job["id"]) == "200\n"
    shared.api("DELETE", f"jobs/{web['id']}")
    shared.until(web["id"], "cancelled")
