"""Flows that use the action without the toolkit, on an embedded platform, and clients of their servers."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import docs, programs
from local_platform import client
from tests.conftest import ROOT
from tests.e2e.conftest import Clone
from tests.in_job.places import Forks
from tests.local_platform.harness import HOME, QUERY

ACTION = (ROOT / "action.yaml").read_text(encoding="utf-8")
EXAMPLES = docs.examples(ACTION)
API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ENV = {"COLUMNS": "200", "NO_COLOR": "1", "BROWSER": "true"}
DRY_RUN = """
import os, sys
from apolo_flow.cli import main
os.chdir(os.environ["FOLDER"])
sys.exit(main())
"""
LONG = 180.0
"""Seconds that nothing here should need, on a machine that does other things as well."""


def tool(name: str) -> str:
    """Return the path of a program that the tests need; a missing one fails the test."""
    return programs.find(name) or pytest.fail(f"{name} is missing: bash dev/setup.sh installs it")


def merged(base: yaml.Node | None, extra: yaml.Node | None) -> yaml.Node | None:
    """Put the entries of one YAML mapping into another; every scalar stays as it was written."""
    if not (isinstance(base, yaml.MappingNode) and isinstance(extra, yaml.MappingNode)):
        return extra
    values = {key.value: (key, value) for key, value in base.value}
    for key, value in extra.value:
        old = values.get(key.value)
        values[key.value] = (key, merged(old[1], value) if old else value)
    return yaml.MappingNode(base.tag, list(values.values()), flow_style=False)


def live(*names: str, action: str = "ws:action.yaml", **args: str) -> str:
    """Return the live.yaml of the reference's first example, with these examples and `args` put in."""
    texts = [EXAMPLES["-1"].replace("gh:OWNER/REPO@TAG", action)]
    for text in [*(EXAMPLES[name] for name in names if name != "-1"), yaml.safe_dump(args) if args else ""]:
        if re.search("^jobs:", text, re.MULTILINE):  # a part of a flow
            texts.append(text)
        elif text:
            indented = "".join(f"      {line}\n" for line in text.splitlines())
            texts.append(f"jobs:\n  mlflow_server:\n    args:\n{indented}")
    flow: yaml.Node | None = yaml.compose("kind: live", Loader=yaml.SafeLoader)
    for text in texts:
        flow = merged(flow, yaml.compose(text, Loader=yaml.SafeLoader))
    return str(yaml.serialize(flow, width=10_000, allow_unicode=True))


@dataclass
class Evaluated:
    """The job that neuro-flow would start, read off what its `--dry-run` prints."""

    options: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, line: str) -> Evaluated:
        """Take `apolo run --NAME=VALUE … IMAGE -- COMMAND` apart; a flag's value is empty."""
        job = cls()
        words = shlex.split(line)
        end = words.index("--")
        job.options["image"], job.command = words[end - 1], words[end + 1 :]
        for word in words[2 : end - 1]:
            name, _, value = word.removeprefix("--").partition("=")
            if name == "env":
                variable, _, text = value.partition("=")
                job.env[variable] = text
            elif name == "volume":
                job.volumes.append(value)
            else:
                job.options[name] = value
        return job


class Platform(Clone):
    """An embedded platform with the images, secrets, disks and folders that the examples name."""

    SECRETS = {  # noqa: RUF012 - a constant
        "aws-key-id": "testing",
        "aws-key": "testing",
        "gcp-key": "{}",
        "azure-storage": "AccountName=account;AccountKey=a2V5",
        "origins": "https://dashboard.example.com",
        "postgres-password": "p@ss/w:rd%",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state.mkdir(parents=True)
        images = {
            f"{name}:*": {"bin": str(Path(__file__).parent / "images"), "entrypoint": f"{name}-image"}
            for name in ("postgres", "mariadb")
        }
        (self.state / "images.yaml").write_text(yaml.safe_dump(images))
        self.login = client.start(self.state)
        self._forks: Forks | None = None
        self._lock = threading.Lock()
        for name, value in self.SECRETS.items():
            self.add_secret(name, value)
        for name in ("mlflow-db", "mlflow-postgres"):
            self.api("POST", "disks", {"name": name, "storage": 2**30, **HOME})

    @property
    def forks(self) -> Forks:
        """A process that has imported neuro-flow, which takes a second."""
        with self._lock:
            self._forks = self._forks or Forks(
                self.home, str(ROOT / ".mlflow/venv/bin/python"), "apolo_flow.cli"
            )
            return self._forks

    def end(self) -> None:
        if self._forks:
            self._forks.end()
        super().end()

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the platform's API; return what it answers in JSON."""
        status, answer = call(method, f"{self.login.url}/{path}", body, token=self.login.token)
        assert status < 300, answer
        return json.loads(answer) if answer else None

    def add_secret(self, name: str, value: str) -> None:
        """Set a secret of the project."""
        data = {"key": name, "value": base64.b64encode(value.encode()).decode()}
        self.api("POST", "secrets", {**data, **HOME})

    def disk(self, name: str) -> Path:
        """Return the folder of a disk."""
        disks = self.api("GET", f"disks?{QUERY}")
        [found] = [disk["id"] for disk in disks if disk["name"] == name]
        return self.state / "disks" / str(found)

    def flow(self, name: str, text: str) -> Flow:
        """Make a flow in a folder of its own, with a storage folder of its own for the volume."""
        folder = self.path / "flows" / name
        (folder / ".neuro").mkdir(parents=True)
        for action in ("action.yaml", "deploy.yaml"):
            shutil.copy(ROOT / action, folder)
        text = text.replace("remote: storage:mlflow\n", f"remote: storage:{name}\n")
        (folder / ".neuro/live.yaml").write_text(text, encoding="utf-8")
        for storage in (name, "mlflow", "datasets"):
            (self.state / "storage" / storage).mkdir(exist_ok=True)
        return Flow(self, folder)


class Flow:
    """A flow's folder: action.yaml, live.yaml and nothing else."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self.folder = folder
        self.storage = platform.state / "storage" / folder.name

    def neuro_flow(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command of neuro-flow, check its exit code, and return what it printed."""
        done = subprocess.run(
            [f"{self.platform.state}/bin/neuro-flow", *words],
            cwd=self.folder,
            env={**self.platform.env, **ENV, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert done.returncode == code, done.stdout[-3000:]
        return done.stdout

    def dry_run(self, *job: str, code: int = 0) -> str:
        """Do what `neuro-flow run --dry-run` does, in a fork of a process that has imported it."""
        env = {**self.platform.env, **self.platform.login.environment, **ENV, "FOLDER": str(self.folder)}
        argv = ["neuro-flow", "run", "--dry-run", *job]
        with tempfile.TemporaryDirectory(dir=self.platform.home) as folder:
            done = self.platform.forks.run(DRY_RUN, env, Path(folder, "out"), *argv)
            assert done.wait(LONG) == code, done.said[-3000:]
            return done.said

    def evaluate(self, *job: str) -> Evaluated:
        """Return the job, the server's or what the words name, as neuro-flow would start it."""
        printed = self.dry_run(*(job or ["mlflow_server"]))
        return Evaluated.parse(printed[printed.index("apolo run ") :])

    def host(self, job: str) -> str:
        """Return the internal name of a running job of this flow."""
        jobs = self.platform.api("GET", f"jobs?name={self.folder.name}-{job}&status=running")["jobs"]
        return str(jobs[-1]["internal_hostname_named"])

    def run(self, job: str = "mlflow_server", *, browser: str = "true") -> Job:
        """Start a job; one that is not detached is waited for."""
        printed = self.neuro_flow("run", job, BROWSER=browser)
        found = re.search(r"job-[0-9a-f-]{36}", printed)
        assert found, printed
        return Job(self.platform, found[0])


class Job:
    """A job of the platform; if it is a server, with what clients do."""

    def __init__(self, platform: Platform, job_id: str) -> None:
        self.platform = platform
        self.id = job_id
        self.token = ""

    @property
    def described(self) -> Any:
        """The job as the platform's API shows it now."""
        return self.platform.api("GET", f"jobs/{self.id}")

    @property
    def log(self) -> str:
        """What the job has printed."""
        return (self.platform.state / "jobs" / self.id / "log").read_text(encoding="utf-8", errors="replace")

    @cached_property
    def url(self) -> str:
        """The address by which clients outside reach the job."""
        described = self.described
        return str(described.get("http_url_named") or described["http_url"]).rstrip("/")

    def stop(self) -> None:
        """End the job and wait until it has."""
        self.platform.api("DELETE", f"jobs/{self.id}")
        deadline = time.monotonic() + LONG
        while self.described["materialized"] or self.described["status"] in ("pending", "running"):
            assert time.monotonic() < deadline, self.described
            time.sleep(0.05)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Return status and body of a request to the server."""
        return call(method, self.url + path, body, token=self.token, **headers)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return MLflow's JSON answer to a request that must succeed."""
        status, answer = self.call(method, API + path, body)
        assert status == 200, (path, answer)
        return json.loads(answer)

    def until_serving(self) -> Job:
        """Wait until the server answers an API call; a job that ends before fails the test with its log."""
        deadline = time.monotonic() + LONG
        while self.call("GET", f"{API}/experiments/search?max_results=1")[0] != 200:
            described = self.described
            assert described["status"] in ("pending", "running"), f"{described['history']}\n{self.log}"
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)
        return self

    def log_run(self, content: bytes = b"kept \xe2\x9c\x93", experiment: str = "größe") -> str:
        """Do what a training job does: a run with a metric and an artifact; check what comes back."""
        number = self.ask("POST", "/experiments/create", {"name": experiment})["experiment_id"]
        created = self.ask("POST", "/runs/create", {"experiment_id": number, "start_time": 1})["run"]
        run, uri = created["info"]["run_id"], created["info"]["artifact_uri"]
        values = [{"key": "accuracy", "value": step / 2, "timestamp": 1, "step": step} for step in (0, 1)]
        self.ask("POST", "/runs/log-batch", {"run_id": run, "metrics": values})
        folder = uri.removeprefix("mlflow-artifacts:")
        assert folder.startswith("/"), uri
        assert self.call("PUT", f"{ARTIFACTS}{folder}/notes/a%20b.txt", content)[0] == 200
        listed = self.ask("GET", f"/artifacts/list?run_id={run}&path=notes")["files"]
        assert [file["path"] for file in listed] == ["notes/a b.txt"]
        assert self.call("GET", f"{ARTIFACTS}{folder}/notes/a%20b.txt") == (200, content)
        [found] = self.ask("POST", "/runs/search", {"experiment_ids": [number]})["runs"]
        assert found["data"]["metrics"][0]["value"] == 0.5
        return str(folder)


def call(method: str, url: str, body: object = None, *, token: str = "", **headers: str) -> tuple[int, bytes]:
    """Return status and body of a request, 0 where nobody answers; a body that is not bytes goes as JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if data is not None and not isinstance(body, bytes):
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return 0, b""
