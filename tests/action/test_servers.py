"""Every example of the reference that can be served here, as a real job of a flow without the toolkit."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT

from .harness import API, ARTIFACTS, EXAMPLES, Evaluated, Flow, Job, Platform, call, tool

pytestmark = pytest.mark.e2e
MakeFlow = Callable[..., Flow]
SECRETS = Platform.SECRETS
PASSWORD = quote(SECRETS["postgres-password"], safe="")
S3_ENDPOINT = "https://minio.example.com"  # as the example has it
SERVERS = {
    "plain": ["-1"],
    "storage": [
        *("backend_store_uri-1", "artifacts_destination-1", "volumes-1", "envs-1", "port-1", "job_name-1"),
        *("preset-1", "life_span-1", "restart-1", "browse-1", "backup_every-1"),
    ],
    "disk": ["backend_store_uri-2", "image-1", "extra_params-1"],
    "objects": ["artifacts_destination-2", "backend_store_uri-3", "extra_params-1"],
    "service-job": ["backend_store_uri-4"],
    "mysql-uri": ["backend_store_uri-3", "envs-1"],
    "files": ["backend_store_uri-5", "volumes-2", "extra_params-1"],
}
"""Flows that are run as real jobs, and the examples in each: as many in one as go together."""
ELSEWHERE = {"mode-1", "mode-2", "http_auth-1"}  # test_browser.py
NO_BACKEND_HERE = {"artifacts_destination-3", "artifacts_destination-4"}  # Google's and Microsoft's own


def test_every_example_is_run() -> None:
    run = {name for names in SERVERS.values() for name in names}
    assert run | ELSEWHERE | NO_BACKEND_HERE == set(EXAMPLES)


MARIADB = """
kind: live
jobs:
  mariadb:
    image: mariadb:11
    detach: True
    env: {MARIADB_DATABASE: mlflow, MARIADB_USER: mlflow, MARIADB_PASSWORD: secret:postgres-password}
"""


class Servers:
    """The servers of SERVERS, each in the background from the beginning, two at a time."""

    def __init__(self, platform: Platform, make: MakeFlow, folder: Path) -> None:
        self.platform, self.make, self.folder = platform, make, folder
        self.flows: dict[str, Flow] = {}
        self.evaluated: dict[str, Evaluated] = {}
        self.secret = threading.Lock()
        self.s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.s3.start()
        self.s3_url = "http://{}:{}".format(*self.s3.get_host_and_port())
        tool("initdb")
        tool("mariadbd")
        self.pool = ThreadPoolExecutor(2)
        starts = {
            "plain": self.start_plain,
            "storage": self.start_storage,
            "disk": lambda: self.start("disk"),
            "service-job": self.start_service_job,
            "objects": self.start_objects,
            "mysql-uri": self.start_mysql_uri,
            "files": lambda: self.start("files"),
        }
        self.started = {name: self.pool.submit(start) for name, start in starts.items()}

    def __getitem__(self, name: str) -> Job:
        return self.started[name].result()

    def close(self) -> None:
        """End what the platform does not end by itself."""
        self.pool.shutdown(cancel_futures=True)
        self.s3.stop()

    def new(self, name: str, **options: str) -> Flow:
        """Make the flow of a name in SERVERS."""
        self.flows[name] = self.make(name, *SERVERS[name], **options)
        return self.flows[name]

    def start(self, name: str) -> Job:
        """Start a server that needs nothing but its flow."""
        return self.new(name).run().until_serving()

    def start_plain(self) -> Job:
        """Start the first example as it is; git finds a repository of ours under GitHub's address."""
        repository = self.folder / "repositories/OWNER/REPO.git"
        for words in (
            ["init", "-q", str(repository)],
            ["add", "action.yaml"],
            ["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-qm", "The action"],
            ["tag", "TAG"],
        ):
            if words[0] == "add":
                shutil.copy(ROOT / "action.yaml", repository)
            command = ["git", *([] if words[0] == "init" else ["-C", str(repository)]), *words]
            subprocess.run(command, check=True, env=self.platform.env)
        config = self.platform.state / "home/.gitconfig"
        config.write_text(f'[url "file://{repository.parents[1]}/"]\n\tinsteadOf = git@github.com:\n')
        flow = self.new("plain", action="gh:OWNER/REPO@TAG")
        (flow.folder / "action.yaml").unlink()
        return flow.run().until_serving()

    def start_storage(self) -> Job:
        """Start a server with a browser that notes what it is to open."""
        browser = self.folder / "browser"
        browser.write_text(f'#!/bin/sh\nprintf %s "$1" >"{self.folder}/browsed"\n')
        browser.chmod(0o755)
        return self.new("storage").run(browser=str(browser)).until_serving()

    def start_service_job(self) -> Job:
        """Start PostgreSQL as a job, then the server that inspects it."""
        flow = self.new("service-job")
        flow.run("postgres")
        self.evaluated["service-job"] = flow.evaluate()
        return flow.run().until_serving()

    def start_objects(self) -> Job:
        """Start a second server of that database, by a URI in a secret; its object store is moto's."""
        assert call("PUT", f"{self.s3_url}/my-bucket")[0] == 200
        self["service-job"]
        database = self.flows["service-job"].host("postgres")
        return self.start_with_uri("objects", f"postgres://postgres:{PASSWORD}@{database}/postgres")

    def start_mysql_uri(self) -> Job:
        """Start MariaDB, and a server by a URI in a secret."""
        database = self.platform.flow("database", MARIADB).run("mariadb").described["internal_hostname_named"]
        return self.start_with_uri("mysql-uri", f"mysql://mlflow:{PASSWORD}@{database}/mlflow")

    def start_with_uri(self, name: str, uri: str) -> Job:
        """Start a server whose URI is in the secret that the example names."""
        flow = self.new(name)
        live_file = flow.folder / ".neuro/live.yaml"
        live_file.write_text(live_file.read_text().replace(S3_ENDPOINT, self.s3_url))
        with self.secret:  # a job has read it when `run` ends
            self.platform.add_secret("mlflow-db", uri)
            job = flow.run()
        return job.until_serving()


@pytest.fixture(scope="module")
def servers(
    platform: Platform, flow: MakeFlow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    made = Servers(platform, flow, tmp_path_factory.mktemp("servers"))
    yield made
    made.close()


def test_the_first_example_as_it_is(servers: Servers) -> None:
    job = servers["plain"]
    job.log_run()
    kept = servers.flows["plain"].storage / "artifacts"
    assert (kept / "mlflow.db").exists()  # where the action puts it when nothing is said
    status, answer = job.call("GET", f"{ARTIFACTS}/mlflow.db")
    assert (status, b"SQLite" in answer) != (200, True)
    job.stop()


def test_sqlite_on_a_storage_with_every_small_setting(servers: Servers) -> None:
    job = servers["storage"]
    described = job.described
    assert described["name"] == "team-mlflow"
    assert described["preset_name"] == "cpu-medium"
    assert described["restart_policy"] == "on-failure"
    assert described["max_run_time_minutes"] == 36 * 60
    assert described["container"]["http"] == {
        "port": 8080,
        "requires_auth": False,
        "health_check_path": "/",
    }
    assert (servers.folder / "browsed").read_text().rstrip("/") == job.url
    folder = job.log_run()
    storage = servers.flows["storage"].storage
    assert (storage / "mlflow.db").exists()
    assert (storage / f"artifacts{folder}/notes/a b.txt").exists()
    # The secret's origin replaces those that the action allows.
    body = {"max_results": 1}
    for origin, allowed in ((SECRETS["origins"], True), (job.url, False)):
        status, _ = job.call("POST", f"{API}/experiments/search", body, Origin=origin)
        assert (status == 200) is allowed
    assert "Started parent process" not in job.log  # of several workers
    assert SECRETS["origins"] not in json.dumps(described)
    job.stop()


def test_sqlite_on_a_disk_with_an_image_that_has_an_entrypoint(servers: Servers) -> None:
    job = servers["disk"]
    job.log_run()
    assert (servers.platform.disk("mlflow-db") / "mlflow.db").exists()
    assert not list(servers.flows["disk"].storage.rglob("*.db"))
    assert "Started parent process" not in job.log
    assert "GET /api" not in job.log
    job.stop()


def test_postgresql_as_a_job_of_the_same_flow(servers: Servers) -> None:
    job = servers["service-job"]
    evaluated = servers.evaluated["service-job"].env
    host = servers.flows["service-job"].host("postgres")
    assert evaluated["MLFLOW_BACKEND_STORE_URI"] == f"postgresql://postgres@{host}/postgres"
    assert evaluated["PGPASSWORD"] == "secret:postgres-password"
    job.log_run()
    assert (servers.platform.disk("mlflow-postgres") / "pgdata/PG_VERSION").exists()
    assert SECRETS["postgres-password"] not in json.dumps(job.described) + job.log
    job.stop()


def test_postgresql_by_a_secret_and_artifacts_in_s3(servers: Servers) -> None:
    job = servers["objects"]
    content = bytes(range(256)) * 4096
    folder = job.log_run(content, experiment="in S3")
    keys = {"aws_access_key_id": SECRETS["aws-key-id"], "aws_secret_access_key": SECRETS["aws-key"]}
    s3 = boto3.client("s3", endpoint_url=servers.s3_url, region_name="us-east-1", **keys)
    stored = s3.get_object(Bucket="my-bucket", Key=f"mlflow{folder}/notes/a b.txt")
    assert stored["Body"].read() == content
    assert list(servers.flows["objects"].storage.iterdir()) == []
    assert "://postgres:***@" in job.log
    assert PASSWORD not in json.dumps(job.described) + job.log
    job.stop()


def test_mysql(servers: Servers) -> None:
    job = servers["mysql-uri"]
    job.log_run()
    assert "backend store mysql+pymysql://mlflow:***@" in job.log
    assert PASSWORD not in json.dumps(job.described) + job.log
    job.stop()


def test_a_file_store(servers: Servers) -> None:
    job = servers["files"]
    job.log_run()
    assert list((servers.platform.state / "storage/mlflow/mlruns").glob("*/*/meta.yaml"))
    assert "mlflow migrate-filestore --source /mnt/mlflow/mlruns" in job.log
    job.stop()
