"""What serve.py decides, without a server."""

from __future__ import annotations

import itertools
import re
import socket
import sqlite3
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from in_job import serve

from .harness import JOB, LABELS, old_database


@pytest.mark.parametrize(
    ("uri", "path", "opened"),
    [
        pytest.param("sqlite:////vol/mlflow.db", "/vol/mlflow.db", "file:/vol/mlflow.db", id="absolute"),
        pytest.param(
            "sqlite+pysqlite:////v/m.db?timeout=9", "/v/m.db", "file:/v/m.db", id="driver-and-option"
        ),
        pytest.param(
            "sqlite:///file:/v/m.db?vfs=unix-dotfile&uri=true",
            "/v/m.db",
            "file:/v/m.db?vfs=unix-dotfile",
            id="dotfile",
        ),
        pytest.param("sqlite:////a b/50%.db", "/a b/50%.db", "file:/a%20b/50%25.db", id="odd-signs"),
    ],
)
def test_sqlite_file(uri: str, path: str, opened: str) -> None:
    assert serve.sqlite_file(uri) == (Path(path), opened)


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("sqlite:///mlflow.db", id="relative"),
        pytest.param("sqlite://", id="nothing"),
        pytest.param("sqlite:///:memory:", id="memory"),
        pytest.param("sqlite:///file:/x?mode=memory&uri=true", id="memory-by-option"),
        pytest.param("sqlite:///file:x.db?uri=true", id="relative-file"),
    ],
)
def test_a_database_that_would_be_lost_with_the_job_is_refused(uri: str) -> None:
    with pytest.raises(serve.Problem, match="lost with the job: write sqlite:////"):
        serve.sqlite_file(uri)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("postgresql://me:s3cret@h/db", "postgresql://me:***@h/db", id="password"),
        pytest.param("postgresql://me:a/b:c@d@h/db", "postgresql://me:***@h/db", id="unescaped-signs"),
        pytest.param("postgresql://me:a b@h/db", "postgresql://me:***@h/db", id="blank"),
        pytest.param(
            "mysql://h/db?user=me&password=x&a=1", "mysql://h/db?user=me&password=***&a=1", id="option"
        ),
        pytest.param("postgresql://me@h:5432/db", "postgresql://me@h:5432/db", id="no-password"),
        pytest.param("two\nlines", "two lines", id="one-line"),
    ],
)
def test_no_password_is_printed(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    serve.say(text)
    assert capsys.readouterr().err == f"mlflow-server: {shown}\n"


def allowed(name: str, env: dict[str, str], *, origin: bool = False) -> bool:
    """Tell what MLflow would: its matching is fnmatch on the raw header."""
    kind = "CORS_ALLOWED_ORIGINS" if origin else "ALLOWED_HOSTS"
    patterns = serve.names(env)[f"MLFLOW_SERVER_{kind}"].split(",")
    return any(fnmatch(name, pattern) if "*" in pattern else name == pattern for pattern in patterns)


PLATFORM = {**JOB, "MLFLOW_HOST": "0.0.0.0"}
LOOPBACK = {**JOB, "MLFLOW_HOST": "127.0.0.7"}


@pytest.mark.parametrize(
    "host",
    [
        "mlflow--abc.jobs.example.neu.ro",
        "job-1f2e.jobs.example.neu.ro:443",
        "mlflow--abc.platform-jobs",
        "mlflow--abc.platform-jobs:5000",
        "job-1f2e.platform-jobs:5000",
        "localhost:5000",
        "127.0.0.1",
    ],
)
def test_own_hosts_are_allowed(host: str) -> None:
    assert allowed(host, PLATFORM)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "evil.com/mlflow--abc.jobs.x",
        "evil.com:80#mlflow--abc.jobs.x",
        "xmlflow--abc.jobs.example.neu.ro",
        "mlflow--abc.example.neu.ro",
        "mlflow--abc.platform-jobs.evil.com",
        "mlflow--abcd.jobs.example.neu.ro",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "10.0.0.1:5000",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert not allowed(host, PLATFORM)
    assert not allowed(host, LOOPBACK)


def test_behind_loopback_only_names_below_localhost_are_the_jobs_own() -> None:
    assert allowed("mlflow--abc.jobs.local.localhost", LOOPBACK)
    assert allowed("127.0.0.7:5000", LOOPBACK)
    assert allowed("https://mlflow--abc.jobs.local.localhost", LOOPBACK, origin=True)
    assert not allowed("mlflow--abc.jobs.evil.com", LOOPBACK)
    assert not allowed("https://mlflow--abc.jobs.evil.com", LOOPBACK, origin=True)


def test_origins() -> None:
    assert allowed("https://mlflow--abc.jobs.example.neu.ro", PLATFORM, origin=True)
    assert allowed("http://mlflow--abc.platform-jobs:5000", PLATFORM, origin=True)
    for origin in (
        "https://evil.com",
        "https://evil.com/https://mlflow--abc.jobs.x",
        "http://mlflow--abc.jobs.example.neu.ro",
        "null",
    ):
        assert not allowed(origin, PLATFORM, origin=True)


def test_an_unnamed_job_has_one_name_and_a_process_outside_the_platform_none() -> None:
    unnamed = {"NEURO_JOB_INTERNAL_HOSTNAME": f"{LABELS[0]}.ns", "NEURO_JOB_INTERNAL_HOSTNAME_NAMED": ""}
    assert allowed(f"{LABELS[0]}.ns:5000", {**unnamed, "MLFLOW_HOST": "0.0.0.0"})
    assert not allowed(".jobs.x", {**unnamed, "MLFLOW_HOST": "0.0.0.0"})
    assert serve.names({"MLFLOW_HOST": "0.0.0.0"}) == {}


def test_the_default_store_is_a_database_on_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert serve.choose_backend(str(tmp_path / "vol")) == f"sqlite:///{tmp_path}/vol/mlflow.db"
    with pytest.raises(
        serve.Problem, match="backend_store_uri is empty and artifacts_destination s3://bucket"
    ):
        serve.choose_backend("s3://bucket")


@pytest.mark.parametrize("place", ["mlruns", "vol/mlruns", "vol"])
def test_an_old_file_store_is_kept_until_there_is_a_database(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / place / "0").mkdir(parents=True)
    (tmp_path / place / "0" / "meta.yaml").touch()
    assert serve.choose_backend(str(tmp_path / "vol")) == str(tmp_path / place)
    (tmp_path / "vol").mkdir(exist_ok=True)
    (tmp_path / "vol" / "mlflow.db").touch()
    assert serve.choose_backend(str(tmp_path / "vol")) == f"sqlite:///{tmp_path}/vol/mlflow.db"


def test_artifacts_of_a_fresh_volume_are_apart_from_the_database(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert serve.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".mlflow.db.upgrade"):
        (tmp_path / name).touch()
    (tmp_path / "backups").mkdir()
    assert serve.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"


def test_artifacts_beside_an_old_database_stay_served_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "1").mkdir()
    assert serve.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path
    said = capsys.readouterr().err
    assert "WARNING: the database" in said
    assert "make the folder" in said


def test_artifacts_beside_a_database_that_is_not_there_yet_do_not_expose_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1").mkdir()
    for _ in ("first start", "later start"):
        assert serve.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"
        assert f"not served: 1 in {tmp_path}" in capsys.readouterr().err
        (tmp_path / "mlflow.db").touch()


def test_a_link_does_not_hide_that_the_database_is_inside(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    found = serve.artifacts_folder(tmp_path / "link", tmp_path / "volume" / "mlflow.db")
    assert found == tmp_path / "link" / "artifacts"


def test_a_database_elsewhere_leaves_the_destination_alone(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    assert serve.artifacts_folder(tmp_path / "served", tmp_path / "mlflow.db") == tmp_path / "served"
    assert serve.artifacts_folder(tmp_path / "served", tmp_path / "served2" / "m.db") == tmp_path / "served"
    assert list((tmp_path / "served").iterdir()) == []


def test_a_name_that_merely_begins_like_the_folder_of_the_store_is_an_artifact(tmp_path: Path) -> None:
    artifacts = ["0", "m.db", "models", "my-exp"]
    for name in (*artifacts, "m", "mlruns", "backups", ".hidden"):
        (tmp_path / name).mkdir()
    store = tmp_path / "m" / "mlflow.db"
    store.touch()
    assert serve.beside(tmp_path, store) == artifacts
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db.bak", "mlflow"):
        (tmp_path / name).touch()
    assert serve.beside(tmp_path, tmp_path / "mlflow.db") == sorted([*artifacts, "m", "mlflow"])
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    assert serve.beside(tmp_path, tmp_path / "link.db") == sorted([*artifacts, "m", "mlflow"])


def modules(monkeypatch: pytest.MonkeyPatch, *present: str, sqlalchemy_2: bool = True) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in present or None)
    monkeypatch.setattr(serve, "has_sqlalchemy_2", lambda: sqlalchemy_2)


@pytest.mark.parametrize(
    ("uri", "present", "result"),
    [
        pytest.param("postgres://u@h/d", ["psycopg"], "postgresql+psycopg://u@h/d", id="postgres"),
        pytest.param(
            "postgresql://u@h/d", ["psycopg", "psycopg2"], "postgresql+psycopg://u@h/d", id="preferred"
        ),
        pytest.param("postgresql://u@h/d", ["psycopg2"], "postgresql+psycopg2://u@h/d", id="psycopg2"),
        pytest.param("mysql://u@h/d", ["MySQLdb"], "mysql+mysqldb://u@h/d", id="mysqldb"),
        pytest.param("mariadb://u@h/d", ["pymysql"], "mysql+pymysql://u@h/d", id="mariadb"),
        pytest.param("mysql+pymysql://u@h/d", ["pymysql", "MySQLdb"], "mysql+pymysql://u@h/d", id="chosen"),
        pytest.param("mssql+pyodbc://u@h/d", [], "mssql+pyodbc://u@h/d", id="other"),
    ],
)
def test_drivers(uri: str, present: list[str], result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, *present)
    assert serve.sql_uri(uri) == result


def test_psycopg_3_needs_sqlalchemy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, "psycopg", "psycopg2", sqlalchemy_2=False)
    assert serve.sql_uri("postgresql://u@h/d") == "postgresql+psycopg2://u@h/d"


def test_a_missing_driver_and_an_ambiguous_password_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch)
    with pytest.raises(serve.Problem, match="postgresql needs the driver psycopg or psycopg2"):
        serve.sql_uri("postgresql://u@h/d")
    with pytest.raises(serve.Problem, match="mysql needs the driver mysqldb:"):
        serve.sql_uri("mysql+mysqldb://u@h/d")
    with pytest.raises(serve.Problem, match="write it as %40") as problem:
        serve.sql_uri("postgresql://u:s3c@ret@h/d")
    assert "s3c" not in str(problem.value)
    for sign, first in itertools.product("/?#", ("s3c", "123", "")):
        with pytest.raises(serve.Problem, match="%2F %3F %23") as problem:
            serve.sql_uri(f"postgresql://u:{first}{sign}ret@h/d")
        assert not re.search("s3c|123|ret|\n", serve.explain(problem.value))


@pytest.mark.parametrize(("workers", "most"), [(1, 80), (2, 40), (4, 20), (16, 10)])
def test_connections_stay_below_what_postgresql_allows(workers: int, most: int) -> None:
    pool = serve.store_defaults("postgresql+psycopg://u@h/d", workers)
    size = int(pool["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"])
    assert size + int(pool["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"]) == most


def test_the_newest_five_backups_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (tmp_path / "copy").write_text("new")
    for day in range(1, 8):
        (folder / f"mlflow-abc{9 - day}-2020010{day}T000000Z.db").touch()
    strangers = {"other-abc-20200101T000000Z.db", "mlflow-mine.db", "notes.txt"}
    for name in strangers:
        (folder / name).touch()
    serve.save_backup(tmp_path / "copy", tmp_path / "mlflow.db", "97727af70f4d")
    kept = sorted(entry.name for entry in folder.iterdir() if entry.name not in strangers)
    assert len(kept) == serve.BACKUPS_KEPT
    days = [name.split("-")[2][:8] for name in kept if "97727af70f4d" not in name]
    assert sorted(days) == ["20200104", "20200105", "20200106", "20200107"]
    assert strangers <= {entry.name for entry in folder.iterdir()}


def test_revisions_of_a_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fresh.db") as database:
        assert serve.sqlite_revision(database) is None
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        assert serve.sqlite_revision(database) is None
        database.execute("CREATE TABLE experiments (name TEXT)")
        assert serve.sqlite_revision(database) == ""
    with sqlite3.connect(old_database(tmp_path / "old.db")) as database:
        assert serve.sqlite_revision(database) == "97727af70f4d"


def test_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = f"overlay / overlay rw\nnas:/x {tmp_path}/a\\040b nfs4 rw\n/dev/sdb {tmp_path}/disk ext4 rw\n"
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *words: mounts if str(self) == "/proc/self/mounts" else read(self, *words),
    )
    assert serve.file_system(tmp_path / "a b" / "mlflow.db") == "nfs4"
    assert serve.file_system(tmp_path / "disk" / "deep" / "mlflow.db") == "ext4"
    assert serve.file_system(tmp_path / "mlflow.db") == "overlay"


def test_the_program_can_travel_in_an_action() -> None:
    text = Path(serve.__file__).read_text("utf-8")
    assert "${{" not in text
    assert "$[[" not in text
    standard = set(sys.stdlib_module_names)
    for line in text.splitlines():
        if line.startswith(("import ", "from ")):
            assert line.split()[1].split(".")[0] in standard | {"__future__"}


def test_what_the_workers_accept_sends_at_once() -> None:
    class Config:
        def bind_socket(self) -> socket.socket:
            return socket.create_server(("127.0.0.1", 0))

    serve.send_at_once(Config)
    with (
        Config().bind_socket() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
