"""A real platform in a folder of its own, and the ways to speak to it that the tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from local_platform import client

T = TypeVar("T")
PYTHON = str(Path(sys.executable).resolve())
MLFLOW = Path(__file__).parents[2] / ".mlflow/venv-mlflow/bin"
#: The login's project, in bodies and in queries.
HOME = {"org_name": "local", "project_name": "mlflow"}
QUERY = "org_name=local&project_name=mlflow"
#: Seconds that nothing here should need.
LONG = 60.0

#: An HTTP server as the command of a job: it answers with what it was asked, in JSON.
SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        size = 0
        while size < length:
            size += len(self.rfile.read(min(65536, length - size)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        data = json.dumps({"path": self.path, "headers": headers, "size": size}).encode()
        self.send_response(302 if self.path == "/redirect" else 200)
        if self.path == "/redirect":
            self.send_header("Location", f"https://{self.headers['Host']}/target?x=1")
        self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "none"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    do_POST = do_PUT = do_GET
    def log_message(self, *_): pass
print("serving", flush=True)
address = os.environ["MLFLOW_HOST"], int(os.environ["NEURO_JOB_HTTP_PORT"])
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


def eventually(what: Callable[[], T], wanted: Callable[[T], bool] = bool) -> T:
    """Wait until `what()` is as wanted, and return it."""
    deadline = time.monotonic() + LONG
    while not wanted(value := what()):
        assert time.monotonic() < deadline, f"still {value!r}"
        time.sleep(0.02)
    return value


def processes(*words: str) -> list[int]:
    """Ids of processes that have all these words in their command line."""
    found = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(line[0]) for line in lines if len(line) == 2 and all(word in line[1] for word in words)]


def make_wheel(path: Path) -> None:
    """Make a package that calls itself mlflow."""
    files = {
        "mlflow/__init__.py": "mine = 'here'\n",
        "mlflow-0.0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: mlflow\nVersion: 0.0.1\n",
        "mlflow-0.0.1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, "mlflow-0.0.1.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "mlflow-0.0.1.dist-info/RECORD": record}.items():
            archive.writestr(name, text)


class Answer:
    """An HTTP answer, whatever its status."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def http(method: str, url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """Make a request as it is: no redirects, no proxies, no exceptions for a status."""
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with opener.open(request, timeout=LONG) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


class Platform:
    """The platform of one state folder (with a blank in its path), stopped at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "a b" / ".mlflow" / "local"
        self.state.mkdir(parents=True)
        images = {
            "python:*": {"bin": str(Path(PYTHON).parent)},
            "entry:*": {"bin": "/bin", "entrypoint": "echo hello"},
            "mlflow:*": {"bin": str(MLFLOW)},
        }
        (self.state / "images.yaml").write_text(yaml.safe_dump(images))
        self.login = client.start(self.state)

    @property
    def pid(self) -> int:
        """The platform's process."""
        return int(json.loads((self.state / "server.json").read_text())["pid"])

    def kill(self) -> None:
        """End the platform's process as a crash would, and wait until it is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: client.find(self.state) is None)

    def restart(self) -> None:
        """Start the platform again, wherever it is now."""
        self.login = client.start(self.state)

    def api(self, method: str, path: str, data: Any = None, token: str | None = None) -> Answer:
        """Call the API with the platform's token, or another one ("" for none)."""
        token = self.login.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
        return http(method, f"{self.login.url}/{path}", body, headers)

    def run(self, *command: str, **fields: Any) -> str:
        """Start a job and return its id."""
        import shlex

        body = {
            "image": "python:3",
            "preset_name": "cpu-small",
            "command": shlex.join(command),
            **HOME,
            **fields,
        }
        answer = self.api("POST", "jobs?from_preset", body)
        assert answer.status == 202, answer.body
        return str(answer.json["id"])

    def job(self, job_id: str) -> Any:
        """Return a job as the API shows it."""
        return self.api("GET", f"jobs/{job_id}").json

    def until(self, job_id: str, *statuses: str) -> Any:
        """Wait until a job has one of these states, and return it."""
        return eventually(lambda: self.job(job_id), lambda job: job["status"] in statuses)

    def ended(self, *command: str, **fields: Any) -> Any:
        """Run a job to its end."""
        return self.until(self.run(*command, **fields), "succeeded", "failed", "cancelled")

    def gone(self, job_id: str) -> Any:
        """Wait until nothing of a job is left, which is later than its end, and return it."""
        return eventually(lambda: self.job(job_id), lambda job: not job["materialized"])

    def log(self, job_id: str) -> str:
        """Return all of a job's log so far, without the lag that it has by the API."""
        return (self.state / "jobs" / job_id / "log").read_text()

    def serve(self, **fields: Any) -> Any:
        """Run the HTTP server as a job and wait until it serves."""
        http_port = {"port": 5000, "requires_auth": fields.pop("auth", False)}
        job_id = self.run("python", "-c", SERVER, http=http_port, **fields)
        eventually(lambda: "serving" in self.log(job_id))
        job = self.until(job_id, "running")
        eventually(lambda: http("GET", job["http_url"]).status != 503)
        return job

    def cli(
        self, *command: str, cwd: Path | None = None, timeout: float = LONG
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line of the platform's own `bin` folder."""
        return subprocess.run(
            [str(self.state / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "COLUMNS": "200", "BROWSER": "true"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
