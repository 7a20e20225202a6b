"""Jobs are apart from each other and from the toolkit, as containers are: their files and addresses."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_platform import loopback, network
from local_platform.runner import namespace_command
from tests.conftest import ROOT
from tests.local_platform.harness import MLFLOW, Platform, eventually, http, make_wheel

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(namespace_command() is None, reason="no mount namespaces here"),
]

#: Serves its own job's id at an address, as a container's command does: `host port`.
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = os.environ["NEURO_JOB_ID"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
print("serving", flush=True)
server.serve_forever()
"""
READ = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=9).read().decode())"


def _addresses() -> list[str]:
    """Return the machine's addresses but the loopback ones."""
    told = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout
    return [address for address in told.split() if ":" not in address]


def _serve(platform: Platform, host: str = "0.0.0.0", **fields: Any) -> Any:
    port = {"port": 8080, "requires_auth": fields.pop("auth", False)}
    job_id = platform.run("python", "-c", SERVER, host, "8080", http=port, **fields)
    eventually(lambda: "serving" in platform.log(job_id) or platform.job(job_id)["status"] == "failed")
    return platform.until(job_id, "running")


@pytest.fixture(scope="module")
def pair(shared: Platform) -> Iterator[list[Any]]:
    """Two jobs that listen everywhere at the same port, the second protected."""
    jobs = [_serve(shared, name="everywhere"), _serve(shared, name="protected", auth=True)]
    yield jobs
    for job in jobs:
        shared.api("DELETE", f"jobs/{job['id']}")


def test_two_jobs_listen_everywhere_at_the_same_port(shared: Platform, pair: list[Any]) -> None:
    bearer = {"Authorization": f"Bearer {shared.login.token}"}
    for job in pair:
        assert http("GET", job["http_url"], None, bearer).body.decode() == job["id"]
        reader = shared.ended("python", "-c", READ, f"http://{job['internal_hostname_named']}:8080/")
        assert shared.log(reader["id"]) == f"{job['id']}\n"


def test_a_protected_job_is_not_reached_beside_the_ingress(shared: Platform, pair: list[Any]) -> None:
    assert http("GET", pair[1]["http_url"]).status == 401
    for address in ("127.0.0.1", *_addresses()):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, 8080), timeout=5)


def test_a_job_finds_its_own_server_at_localhost(shared: Platform) -> None:
    script = 'python -c "$1" $4 8080 & until python -c "$2" $3 2>/dev/null; do sleep 0.1; done; kill %1'
    for host in ("0.0.0.0", "127.0.0.1", "localhost"):
        words = ("sh", SERVER, READ, "http://localhost:8080/", host)
        job = shared.ended("bash", "-c", script, *words)
        assert shared.log(job["id"]).splitlines()[-1] == job["id"]


def test_what_a_job_binds_to_localhost_is_its_own(shared: Platform) -> None:
    first, second = (_serve(shared, "127.0.0.1") for _ in range(2))
    for job in (first, second):
        assert http("GET", job["http_url"]).status == 503  # as on the platform: nobody else gets there
        shared.api("DELETE", f"jobs/{job['id']}")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 8080), timeout=5)


def test_a_job_reaches_a_server_of_the_machine(shared: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('ok')"
        job = shared.ended("python", "-c", program, str(server.getsockname()[1]))
    assert shared.log(job["id"]) == "ok\n"


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.9.9", "192.168.255.1"])
def test_private_networks_are_out_of_reach(shared: Platform, address: str) -> None:
    program = """
import errno, socket, sys
for family, prefix in ((socket.AF_INET, ""), (socket.AF_INET6, "::ffff:")):
    with socket.socket(family) as way:
        way.setblocking(False)
        print(errno.errorcode[way.connect_ex((prefix + sys.argv[1], 5432))])
"""
    job = shared.ended("python", "-c", program, address)
    assert shared.log(job["id"]) == "ETIMEDOUT\nETIMEDOUT\n"


def test_the_proxies_of_a_machine_are_reached_wherever_they_are() -> None:
    env = {
        "HTTP_PROXY": "http://user:word@10.0.0.9:3128",
        "https_proxy": "http://localhost:1",
        "NO_PROXY": "*",
    }
    assert network.proxies(env) == ["10.0.0.9", "127.0.0.1"]
    addresses = loopback.Addresses("127.64.0.1", "127.128.0.1", network.proxies(env))
    for host, reached in (("10.0.0.9", True), ("10.0.0.8", False)):
        packed = b"\x02\x00\x0c\x38" + socket.inet_aton(host) + bytes(8)
        assert (addresses._connect(0, 0, packed) is None) == reached


def test_what_a_job_writes_outside_its_volumes_goes_with_it(shared: Platform) -> None:
    script = """
        set -e
        for folder in /etc /usr/bin /opt /var/lib /tmp /mnt "$HOME" "$1"; do
            echo mine > "$folder/of-a-job"
        done
        rm -rf /usr/share/doc; test ! -e /usr/share/doc && cat /etc/of-a-job && echo x > /dev/shm/of-a-job
    """
    package = MLFLOW.parent / "lib"
    job = shared.ended("sh", "-c", script, "sh", str(package))
    assert (job["status"], shared.log(job["id"])) == ("succeeded", "mine\n")
    again = shared.ended("sh", "-c", "ls /etc/of-a-job /tmp/of-a-job /dev/shm/of-a-job")
    assert shared.log(again["id"]).count("No such file") == 3
    for folder in ("/etc", "/usr/bin", "/opt", "/var/lib", "/tmp", "/mnt", "/dev/shm", str(package)):
        assert not (Path(folder) / "of-a-job").exists()
    assert not (shared.state / "jobs" / job["id"] / "root").exists()


def test_a_job_that_installs_another_mlflow_harms_nobody(new: Callable[[], Platform], tmp_path: Path) -> None:
    platform = new()
    wheel = tmp_path / "mlflow-0.0.1-py3-none-any.whl"
    make_wheel(wheel)
    (platform.state / "storage/wheels").mkdir()
    wheel.rename(platform.state / "storage/wheels" / wheel.name)
    volume = {
        "src_storage_uri": "storage://local/local/mlflow/wheels",
        "dst_path": "/mnt/wheels",
        "read_only": True,
    }
    script = (
        "pip install -q --no-deps --no-index /mnt/wheels/*.whl; python -c 'import mlflow; print(mlflow.mine)'"
    )
    job = platform.ended("sh", "-c", script, image="mlflow:3", volumes=[volume])
    assert (job["status"], platform.log(job["id"]).splitlines()[-1]) == ("succeeded", "here")
    version = "import mlflow; print(mlflow.__version__)"
    after = platform.ended("python", "-c", version, image="mlflow:3")
    told = subprocess.run(
        [str(ROOT / ".mlflow/venv-mlflow/bin/python"), "-c", version],
        capture_output=True,
        text=True,
        check=True,
    )
    assert platform.log(after["id"]).splitlines()[-1] == told.stdout.strip() != "0.0.1"
