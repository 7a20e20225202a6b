"""The unmodified command lines on the local platform: each command, its exit code, its effect."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_platform import client
from tests.e2e.screen import on_terminal
from tests.local_platform.harness import SERVER, Platform, http

pytestmark = pytest.mark.e2e

LIVE = """
kind: live
id: flow
volumes:
  data: {remote: "storage:flow/data", mount: /mnt/data, local: data}
jobs:
  web:
    image: python:3
    name: web
    http_port: 5000
    http_auth: False
    life_span: 1h
    detach: True
    volumes: ["${{ volumes.data.ref_rw }}"]
    env: {PROGRAM: "${{ 'exec' }}"}
    cmd: python /mnt/data/server.py
  reader:
    image: python:3
    env:
      HOST: "${{ inspect_job('web').internal_hostname_named }}"
      PORT: "${{ inspect_job('web').container.http.port }}"
    cmd: python -u /mnt/data/reader.py
    volumes: ["${{ volumes.data.ref_ro }}"]
  taken: {image: "python:3", name: web, detach: True, cmd: "true"}
  huge: {image: "python:3", preset: gpu-huge, detach: True, cmd: "true"}
  unmapped: {image: "nope:1", detach: True, cmd: "true"}
"""

READER = """
import os, sys, urllib.request
print(urllib.request.urlopen(os.path.expandvars("http://$HOST:$PORT")).status)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("cli"))
    yield platform
    client.stop(platform.state)


@pytest.fixture(scope="module")
def flow(platform: Platform) -> Path:
    folder = platform.state.parents[1] / "flow"
    (folder / ".neuro").mkdir(parents=True)
    (folder / ".neuro/live.yaml").write_text(LIVE)
    (folder / "data").mkdir()
    (folder / "data/server.py").write_text(SERVER)
    (folder / "data/reader.py").write_text(READER)
    return folder


def test_neuro_flow(platform: Platform, flow: Path) -> None:
    def run(*command: str, code: int = 0) -> str:
        done = platform.cli("neuro-flow", *command, cwd=flow)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "data" in run("mkvolumes")
    assert (platform.state / "storage/flow/data").is_dir()
    run("upload", "data")
    assert (platform.state / "storage/flow/data/server.py").read_text() == SERVER
    assert "apolo run" in run("run", "--dry-run", "web")
    assert "not running" in run("status", "web", code=1)
    assert "not running" in run("kill", "web")
    assert "Status: running" in run("run", "web")
    assert "is running, connecting" in run("run", "web")
    assert "running" in next(line for line in run("ps").splitlines() if " web " in line)
    status = run("status", "web")
    assert "Http URL" in status
    assert "Life span ends" in status
    assert "7" not in run("run", "reader", code=7).splitlines()
    assert "200" in run("logs", "reader")
    assert "already exists: 'job-" in run("run", "taken", code=65)
    assert "gpu-huge" in run("run", "huge", code=2)
    assert "there are: " in run("run", "unmapped", code=125)
    assert "serving" in _follow(platform, flow)
    assert "Killed job" in run("kill", "web")
    run("run", "web")
    assert "Killed job" in run("kill", "ALL")
    (platform.state / "storage/flow/data/result").write_text("result")
    run("download", "data")
    assert (flow / "data/result").read_text() == "result"
    run("clean", "data")
    assert not (platform.state / "storage/flow/data").exists()
    assert "does not exist" in run("run", "web", code=125)


def _follow(platform: Platform, flow: Path) -> str:
    """Follow the log of a running job until its first line has come, then leave."""
    with subprocess.Popen(
        [str(platform.state / "bin/neuro-flow"), "logs", "web"], cwd=flow, stdout=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        line = logs.stdout.readline()
        logs.terminate()
        return line


def test_a_pending_job_is_told(platform: Platform, flow: Path) -> None:
    # Jobs are pending for moments only, but as long as their image cannot be read.
    images = platform.state / "images.yaml"
    text = images.read_text()
    images.unlink()
    os.mkfifo(images)
    try:
        platform.run("true", tags=["project:flow", "job:reader", "flow:flow"])
        done = platform.cli("neuro-flow", "run", "reader", cwd=flow)
        assert (done.returncode, "pending" in done.stdout) == (2, True)
    finally:
        images.write_text(text)
        images.unlink()
        images.write_text(text)


def test_secrets_and_disks(platform: Platform, flow: Path) -> None:
    def run(*command: str, code: int = 0) -> str:
        done = platform.cli("apolo", *command, cwd=flow)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    (flow / "password").write_text("s3cr3t")
    run("secret", "add", "pw", "@password")
    assert "secret:pw" in run("secret", "ls")
    run("disk", "create", "1G", "--name", "my-disk")
    assert "my-disk" in run("disk", "ls")
    run("mkdir", "--parents", "storage:x")
    mounts = (
        "--volume",
        "disk:my-disk:/mnt/d:rw",
        "--volume",
        "secret:pw:/mnt/s/pw",
        "--volume",
        "storage:x:/mnt/x:ro",
    )
    script = 'cat /mnt/s/pw; test "$PW" = s3cr3t && echo " equal"; echo x > /mnt/d/x && echo x > /mnt/x/x'
    out = run("run", *mounts, "--env", "PW=secret:pw", "python:3", "--", "sh", "-c", script, code=2)
    assert "s3cr3t equal" in out
    assert len(list((platform.state / "disks").glob("*/x"))) == 1
    run("disk", "rm", "my-disk")
    assert "my-disk" not in run("disk", "ls")
    run("secret", "rm", "pw")
    assert "secret:pw" not in run("secret", "ls")
    run("secret", "rm", "pw", code=72)


def test_apolo_jobs_and_storage(platform: Platform, flow: Path) -> None:
    def run(*command: str, code: int = 0) -> str:
        done = platform.cli("apolo", *command, cwd=flow)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    options = ("--detach", "--name", "long", "--life-span", "5m", "--pass-config")
    run("run", *options, "python:3", "--", "sh", "-c", "echo $APOLO_PASSED_CONFIG; sleep 600")
    assert "1h5m" in run("job", "bump-life-span", "long", "1h")
    assert "long" in run("job", "ls")
    refused = run("job", "exec", "long", "--", "ls", code=65)
    assert "does not support" in refused
    run("job", "kill", "long")
    passed = json.loads(base64.b64decode(run("job", "logs", "long").splitlines()[0]))
    assert passed["url"] == platform.login.url
    assert (passed["cluster"], passed["project_name"]) == ("local", "mlflow")

    (flow / "é file").write_text("content")
    run("mkdir", "storage:dir")
    run("cp", "é file", "storage:dir/é file")
    run("cp", "--recursive", "data", "storage:dir")
    assert "é file" in run("ls", "storage:dir")
    run("mv", "storage:dir/é file", "storage:dir/moved")
    run("cp", "storage:dir/moved", "back")
    assert (flow / "back").read_text() == "content"
    run("rm", "--recursive", "storage:dir")
    run("ls", "storage:dir", code=72)
    run("config", "show")
    assert "image:" not in run("image", "ls")


def test_logins_of_other_kinds(platform: Platform, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "NEURO_CLI_DISABLE_PYPI_VERSION_CHECK": "1"}
    executables = Path(sys.executable).parent

    def run(name: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(executables / name), *command],
            env={**environment, **more},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    token = platform.login.token
    wrong = run("neuro", "config", "login-with-token", token[:-4] + "AAAA", platform.login.url)
    assert (wrong.returncode, "401" in wrong.stderr) == (1, True)
    assert run("neuro", "config", "login-with-token", token, platform.login.url).returncode == 0
    assert run("apolo", "job", "ls").returncode == 0
    config = {"token": token, "cluster": "local", "url": platform.login.url}
    config |= {"org_name": "local", "project_name": "mlflow"}
    passed = base64.b64encode(json.dumps(config).encode()).decode()
    other = str(tmp_path / "other")
    assert run("apolo", "secret", "ls", APOLO_CONFIG=other, APOLO_PASSED_CONFIG=passed).returncode == 0
    assert run("apolo", "secret", "ls", **platform.login.environment).returncode == 0
    assert http("GET", platform.login.url + "/config").status == 401


ASKING = """
import os, sys, time
name = input("name? ")
print(name.upper(), sys.stdin.isatty(), os.get_terminal_size().columns, os.environ["TERM"])
time.sleep(1000)
"""


def test_a_job_that_is_started_from_a_terminal_has_one(platform: Platform) -> None:
    command = [str(platform.state / "bin/apolo"), "run", "--life-span=1h", "python:3", "--"]
    env = {"PATH": os.environ["PATH"]}
    typed = {"name? ": "joe\r", "JOE True 70 xterm": "\x03"}
    text, _ = on_terminal([*command, "python", "-c", ASKING], 70, platform.state, env, typed=typed, code=130)
    assert "KeyboardInterrupt" in text
    assert "Connection lost" not in text
