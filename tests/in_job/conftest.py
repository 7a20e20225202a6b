"""What these tests run on: servers, volumes, PostgreSQL, MariaDB, an object store, and tasks on a store."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .harness import (
    DATA,
    Database,
    StartServer,
    descendants,
    free_port,
    needed,
    prepare,
    servers,
    short_folder,
    unprivileged,
    wait_for,
)
from .places import Place, Served, Warm, warm_process


def forks(request: pytest.FixtureRequest) -> Callable[..., Served] | None:
    """Return what starts a server as a fork of `warm`, None where a test has no such process."""
    if "warm" not in request.fixturenames:
        return None
    warm: Warm = request.getfixturevalue("warm")
    return warm.serve


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Starts serve.py for a destination and variables; everything started ends with the test.

    Where a test has `warm`, each server is a fork of it; otherwise it is a program of its own.
    """
    yield from servers(tmp_path, forks(request))


@pytest.fixture(scope="module")
def start_for_module(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    yield from servers(tmp_path_factory.mktemp("servers"), forks(request))


@pytest.fixture
def refused(start: StartServer) -> Callable[..., str]:
    """Starts a server that must refuse with exit code 1 and no trace; returns its last line."""

    def run(destination: str | Path, prefix: tuple[str, ...] = (), **env: str) -> str:
        server = start(destination, prefix=prefix, **env)
        assert server.process.wait(60) == 1
        text = server.log.read_text("utf-8")
        assert "Traceback" not in text
        assert text.splitlines() == server.lines
        return str(server.lines[-1]).removeprefix("mlflow-server: ")

    return run


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of today's schema, made once: tests copy it instead of waiting for sixty migrations.

    Once for all of xdist's processes, whose folders are in one.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "template.db"
    with (folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = tmp_path_factory.mktemp("template") / "mlflow.db"
            prepare(made)
            with closing(sqlite3.connect(made)) as database:
                database.execute("PRAGMA journal_mode = DELETE")
            made.rename(path)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def ready_volume(volume: Path, template: Path) -> Path:
    """A volume with a database that needs no preparation."""
    shutil.copyfile(template, volume / "mlflow.db")
    return volume


@pytest.fixture(scope="session")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload: below the folder $NO_LOCKS_IN, locks fail with the number $NO_LOCKS_ERRNO."""
    folder = tmp_path_factory.mktemp("no-locks")
    library = folder / "no_locks.so"
    gcc = needed("gcc", "apt-get install gcc libc6-dev")
    source = DATA / "no_locks.c"
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system in memory, as a small volume or a read-only one; this takes root."""
    program = needed("mount", "apt-get install mount")
    mounted: list[Path] = []

    def make(options: str, kind: str = "tmpfs", folder: Path | None = None) -> Path:
        folder = folder or tmp_path / f"mount-{len(mounted)}"
        folder.mkdir()
        command = [program, "-t", kind, "-o", options, kind, str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(
                f"a small file system cannot be mounted ({done.stderr.strip()}): run the tests as root"
            )
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Database]:
    hint = "apt-get install postgresql"
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    initdb, pg_ctl, psql = (needed(name, hint, *folders) for name in ("initdb", "pg_ctl", "psql"))
    folder, port, user = short_folder("pg"), free_port(), unprivileged()
    data = folder / "data"
    password = folder / "password"
    password.write_text(Database.PASSWORD)
    password.chmod(0o644)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def execute(sql: str, name: str = "postgres") -> str:
        command = [psql, "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "-d", name, "-Atc", sql]
        return subprocess.check_output(command, env={"PGPASSWORD": Database.PASSWORD}, text=True).strip()

    owner = ["-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
    init = [*user, initdb, "-D", str(data), *owner]
    subprocess.run(init, check=True, capture_output=True, cwd="/")
    begin = [*user, pg_ctl, "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start"]
    subprocess.run(begin, check=True, capture_output=True, cwd="/")
    try:
        yield Database("postgresql", port, execute)
    finally:
        end = [*user, pg_ctl, "-D", str(data), "-m", "immediate", "stop"]
        subprocess.run(end, check=True, capture_output=True, cwd="/")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Database]:
    hint = "apt-get install mariadb-server"
    install, daemon, client = (
        needed(name, hint, "/usr/sbin") for name in ("mariadb-install-db", "mariadbd", "mariadb")
    )
    folder, port, user = short_folder("my"), free_port(), unprivileged()
    place = [f"--datadir={folder}/data", "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([*user, install, "--no-defaults", *place], check=True, capture_output=True, cwd="/")
    address = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/socket"]
    fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite"]
    command = [*user, daemon, "--no-defaults", f"--datadir={folder}/data", *address, *fast]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd="/")

    def execute(sql: str, name: str = "") -> str:
        words = [
            client,
            "--no-defaults",
            "-uroot",
            "-S",
            f"{folder}/socket",
            "-N",
            "-e",
            sql,
            *filter(None, [name]),
        ]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    try:
        wait_for((folder / "socket").exists, "MariaDB", 30)
        execute(f"CREATE USER mlflow@localhost IDENTIFIED BY '{Database.PASSWORD}'")
        execute("GRANT ALL ON `mlflow%`.* TO mlflow@localhost")
        yield Database("mysql", port, execute)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def processes() -> Callable[[int], list[int]]:
    """Lists the descendants of a process."""
    return descendants


class S3:
    """An object store with a bucket."""

    def __init__(self, url: str) -> None:
        import boto3  # type: ignore[import-untyped]

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        self.client.create_bucket(Bucket="bucket")
        self.env = {"MLFLOW_S3_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        self.env |= {name.upper(): value for name, value in keys.items()}

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return the content of each object below a prefix by its key."""
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
        objects = {entry["Key"]: self.client.get_object(Bucket="bucket", Key=entry["Key"]) for entry in found}
        return {key.removeprefix(prefix): value["Body"].read() for key, value in objects.items()}


MakePlace = Callable[..., Place]
Migrated = Callable[[Database, str], str]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with warm_process(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture
def place(warm: Warm, tmp_path: Path) -> MakePlace:
    """Makes a store in a folder of its own, SQLite unless a URI is given."""

    def make(name: str = "volume", uri: str = "", destination: str | Path = "", **env: str) -> Place:
        return Place(warm, tmp_path / name, uri, destination, **env)

    return make


PREPARE = """
import os
from in_job import database_server, location
database_server.prepare_sql(location.sql_uri(os.environ["URI"]), 60)
"""


@pytest.fixture(scope="session")
def migrated(warm: Warm) -> Migrated:
    """Makes a database with the tables of today in a server, and returns its URI.

    Sixty migrations take seconds: they are done once for each server, and copied.
    """

    def make(server: Database, name: str) -> str:
        if "mlflow_migrated" not in server.templates:
            server.create("mlflow_migrated")
            warm.python(PREPARE, URI=server.uri("mlflow_migrated"))
            server.templates.add("mlflow_migrated")
        server.create(name, "mlflow_migrated")
        return server.uri(name)

    return make


@pytest.fixture(scope="session")
def filled(warm: Warm, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with rows in every table."""
    path = tmp_path_factory.mktemp("filled") / "mlflow.db"
    path.write_bytes(template.read_bytes())
    warm.python(Path(__file__).with_name("filling.py").read_text("utf-8"), DATABASE=str(path))
    return path


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer  # here, as it takes seconds and few tests need it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield S3("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()


@pytest.fixture(scope="session")
def backup(warm: Warm, filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with rows in every table and two artifacts."""
    store = Place(warm, tmp_path_factory.mktemp("backup"))
    shutil.copyfile(filled, store.path)
    (store.folder / "artifacts/0").mkdir(parents=True)
    (store.folder / "artifacts/0/a").write_bytes(b"one")
    (store.folder / "artifacts/b").write_bytes(b"two")
    return store.backups / store.backup(artifacts=True)
