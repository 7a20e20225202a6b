"""One platform per state folder: started, found, stopped, killed, copied, removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local_platform import client
from tests.local_platform.harness import (
    HOME,
    MLFLOW,
    QUERY,
    Platform,
    eventually,
    http,
    make_wheel,
    processes,
)

pytestmark = pytest.mark.e2e


def test_a_second_start_finds_the_first(new: Callable[[], Platform]) -> None:
    platform = new()
    assert client.start(platform.state) == platform.login == client.find(platform.state)
    url = platform.login.url
    client.stop(platform.state)
    assert client.find(platform.state) is None
    client.stop(platform.state)
    platform.restart()
    assert platform.login.url == url


def test_starts_at_once_give_one_platform(tmp_path: Path) -> None:
    state = tmp_path / "state"
    program = "from local_platform.client import *; print(start(Path(sys.argv[1])))"
    scripts = str(Path(client.__file__).parents[1])

    def start(_: int) -> str:
        command = [sys.executable, "-c", program, str(state)]
        env = {**os.environ, "PYTHONPATH": scripts}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    try:
        with ThreadPoolExecutor(4) as pool:
            urls = set(pool.map(start, range(4)))
        assert len(urls) == 1
        assert len(processes("local_platform/__main__.py", str(state))) == 1
    finally:
        client.stop(state)
    assert processes("local_platform", str(state)) == []


def test_killed_the_platform_takes_its_jobs_with_it(new: Callable[[], Platform]) -> None:
    platform = new()
    platform.api("PUT", "storage/local/mlflow/kept?op=CREATE", b"data")
    platform.api("POST", "secrets", {"key": "kept", "value": "eA==", **HOME})
    disk = platform.api("POST", "disks", {"storage": 1, **HOME}).json["id"]
    done = platform.ended("echo", "done")
    marker = "2718.28"
    job_id = platform.run(
        "sh", "-c", f"echo running; sleep {marker}; true", name="killed", http={"port": 5000}
    )
    eventually(lambda: processes("sleep", marker))
    platform.kill()
    eventually(lambda: processes("sleep", marker) == [])
    eventually(lambda: processes("container.py") == [] or not processes("container.py", str(platform.state)))
    platform.restart()
    job = platform.job(job_id)
    assert (job["status"], job["history"]["reason"]) == ("cancelled", "PlatformStopped")
    assert platform.log(job_id) == "running\n"
    assert platform.job(done["id"]) == done
    assert platform.api("GET", "storage/local/mlflow/kept?op=OPEN").body == b"data"
    assert [secret["key"] for secret in platform.api("GET", f"secrets?{QUERY}").json] == ["kept"]
    assert [found["id"] for found in platform.api("GET", f"disks?{QUERY}").json] == [disk]
    assert platform.ended("true", name="killed")["status"] == "succeeded"


def test_stopped_the_platform_ends_its_jobs_in_order(new: Callable[[], Platform]) -> None:
    platform = new()
    job_id = platform.run("sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    eventually(lambda: platform.log(job_id) == "up\n")
    client.stop(platform.state)
    assert platform.log(job_id) == "up\nbye\n"
    platform.restart()
    assert platform.job(job_id)["history"]["reason"] == "PlatformStopped"


def test_a_copied_folder_has_a_platform_of_its_own(new: Callable[[], Platform], tmp_path: Path) -> None:
    platform = new()
    copy = tmp_path / "copy"
    shutil.copytree(platform.state, copy)
    assert client.find(copy) is None
    login = client.start(copy)
    try:
        assert login.url != platform.login.url
        assert platform.api("GET", "jobs", token=login.token).status == 401
        assert client.find(platform.state) == platform.login
        client.stop(copy)
        assert client.find(platform.state) == platform.login
    finally:
        client.stop(copy)


def test_another_program_at_its_port_is_no_hindrance(new: Callable[[], Platform]) -> None:
    import socket
    from urllib.parse import urlsplit

    platform = new()
    url = platform.login.url
    client.stop(platform.state)
    with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        platform.restart()
        assert platform.login.url != url
        assert platform.cli("apolo", "secret", "ls").returncode == 0  # the stored login was renewed


def test_a_removed_folder_ends_the_platform_and_its_jobs(new: Callable[[], Platform]) -> None:
    platform = new()
    marker = "1618.03"
    platform.run("sleep", marker)
    eventually(lambda: processes("sleep", marker))
    pid = platform.pid
    shutil.rmtree(platform.state)
    eventually(lambda: pid not in processes("local_platform"))
    assert processes("sleep", marker) == []


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(client.PlatformError, match="cannot be used: Not a directory"):
        client.start(tmp_path / "file" / "state")


def test_a_platform_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "token").mkdir(parents=True)
    (state / "storage").write_text("")
    with pytest.raises(client.PlatformError, match=r"ended while starting: FileExistsError.*platform\.log"):
        client.start(state)


def test_its_commands_say_when_it_has_ended(new: Callable[[], Platform]) -> None:
    platform = new()
    said = "mlflow: the local platform has ended; make mlflow-up MLFLOW_PLATFORM=local starts it\n"
    assert platform.cli("apolo", "--version").stderr == ""
    client.stop(platform.state)
    done = platform.cli("apolo", "--version")
    assert (done.returncode, done.stderr) == (0, said)


def test_it_listens_on_loopback_only(new: Callable[[], Platform]) -> None:
    import socket
    from urllib.parse import urlsplit

    platform = new()
    port = urlsplit(platform.login.url).port or 0
    assert http("GET", f"http://127.0.0.1:{port}/ping").status == 200
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells the machine's own address
            address = probe.getsockname()[0]
        except OSError:
            pytest.skip("no network but loopback")
    if address.startswith("127."):
        pytest.skip("no network but loopback")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address, port), timeout=5)


def test_jobs_run_with_rewritten_paths_where_there_are_no_namespaces(
    new: Callable[[], Platform], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_PLATFORM_ISOLATION", "rewrite")
    platform = new()
    (platform.state / "storage/data").mkdir()
    volumes = [
        {"src_storage_uri": "storage://local/local/mlflow/data", "dst_path": "/mnt/data", "read_only": False}
    ]
    job = platform.ended(
        *("sh", "-c", 'echo "$URI" > "$FILE"; pwd; test -d "$1"', "sh", "/mnt/data"),
        env={"URI": "sqlite:////mnt/data/x.db", "FILE": "/mnt/data/file"},
        volumes=volumes,
        working_dir="/mnt/data",
    )
    data = platform.state / "storage/data"
    assert job["status"] == "succeeded"
    assert (data / "file").read_text() == f"sqlite:///{data}/x.db\n"
    assert platform.log(job["id"]).rstrip().endswith(str(data))
    web = platform.serve(name="web")
    program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status)"
    reader = platform.ended("python", "-c", program, f"http://{web['internal_hostname_named']}:5000/")
    assert platform.log(reader["id"]) == "200\n"
    make_wheel(platform.state / "storage/data/mlflow-0.0.1-py3-none-any.whl")
    script = "pip install -q --no-deps --no-index \"$D\"/*.whl; python -c 'import mlflow; print(mlflow.mine)'"
    job = platform.ended("sh", "-c", script, image="mlflow:3", env={"D": "/mnt/data"}, volumes=volumes)
    assert (job["status"], platform.log(job["id"]).splitlines()[-1]) == ("succeeded", "here")
    assert not list((MLFLOW.parent / "lib").glob("python*/site-packages/mlflow-0.0.1*"))
    marker = "1414.21"
    job_id = platform.run("sh", "-c", f"sleep {marker} & sleep {marker}; true")
    eventually(lambda: len(processes("sleep", marker)) >= 2)
    platform.kill()
    eventually(lambda: processes("sleep", marker) == [])
    platform.restart()
    assert platform.job(job_id)["status"] == "cancelled"
