"""Mistakes that are found before a job starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import up
from common.console import Failure
from settings import layers, problems, values

GOOD = {
    "mode": ["server", "UI"],
    "artifacts_destination": [
        "/mnt/mlflow/a",
        "//mnt/mlflow/a",
        "s3://bucket/a",
        "gs://b",
        "wasbs://c@a/x",
        "file:///mnt/mlflow",
    ],
    "backend_store_uri": [
        "",
        "secret:db",
        "/mnt/mlflow/runs",
        "file:///mnt/mlflow/runs",
        "sqlite:////mnt/mlflow/mlflow.db",
        "sqlite://///mnt/mlflow/mlflow.db",
        "//mnt/mlflow/runs",
        "sqlite:///file:/mnt/mlflow/m.db?vfs=unix-dotfile&uri=true",
        "postgresql://me@host/db",
        "postgres://host:5432/db",
        "mysql+pymysql://me:p%40s%23@host/db",
        "mssql+pymssql://me@host/db",
    ],
    "http_auth": ["True", "false", "", "Yes", "no", "ON", "off", "1", "0"],
    "browse": ["yes", "0"],
    "port": ["1", "65535"],
    "life_span": ["1m", "1d2h3m", "60s"],
    "job_name": ["", "abc", "a-1b"],
    "volumes": ["[]", '["storage:a:/a:rw", "disk:d:/d", "secret:s:/s/f", "storage://c/o/p/x y:/b:ro"]'],
    "envs": ["{}", '{"A": "b", "_1": ""}'],
    "extra_params": ["--workers 2 'a b'", "--default-artifact-root s3://b", "--static-prefix=/x", "--dev"],
    "platform": ["local"],
    "timeout": ["5s", "60"],
    "restart": ["on-failure"],
    "image": ["example.org/x:1"],
    "deploy_env_manager": ["uv", "local"],
    "deploy_cache": ["", "/mnt/models"],
    "deploy_workers": ["1", "16"],
    "deploy_port": ["9000"],
    "deploy_http_auth": ["yes"],
    "deploy_life_span": ["30d"],
    "deploy_image": ["example.org/x:1"],
    "deploy_volumes": ["[]", '["storage:a:/a:rw"]'],
    "deploy_envs": ["{}", '{"MLFLOW_TRACKING_PASSWORD": "secret:reader", "MLFLOW_PORT": "1"}'],
}
BAD = [  # setting, value, what the fix says
    ("deploy_env_manager", "conda", "use uv or local"),
    ("deploy_cache", "models", "write the whole path, from / on"),
    ("deploy_workers", "0", "use a number from 1 to 99"),
    ("deploy_workers", "two", "use a number from 1 to 99"),
    ("deploy_port", "0", "use a number from 1 to 65535"),
    ("deploy_http_auth", "maybe", "use True or False"),
    ("deploy_life_span", "for ever", "use at least a minute"),
    ("deploy_image", "", "use an image's name, without blanks"),
    ("deploy_volumes", "storage:a:/a", "use JSON like"),
    ("deploy_envs", '{"MLFLOW_DEPLOY_PORT": "1"}', "set deploy_port instead of MLFLOW_DEPLOY_PORT"),
    ("deploy_envs", '{"MLFLOW_TRACKING_URI": "x"}', "set deploy_tracking_uri instead"),
    ("mode", "servers", "use server or ui"),
    ("mode", "", "use server or ui"),
    ("artifacts_destination", "", "set it to a folder on a mounted volume"),
    ("artifacts_destination", "artifacts", "write the whole path"),
    ("artifacts_destination", "./mlruns", "write the whole path"),
    ("backend_store_uri", "mlruns", "write the whole path, from / on, or a URI"),
    ("backend_store_uri", "file://mlruns", "write the whole path: file:///FOLDER"),
    ("backend_store_uri", "sqlite:///:memory:", "a database in memory is lost with the job"),
    ("backend_store_uri", "sqlite:///file::memory:?cache=shared", "a database in memory is lost"),
    ("backend_store_uri", "sqlite:///file:/a.db?mode=memory&uri=true", "a database in memory is lost"),
    ("backend_store_uri", "sqlite://", "with 2 slashes it is not an absolute path"),
    ("backend_store_uri", "sqlite:///mlflow.db", "with 3 slashes it is not an absolute path"),
    ("backend_store_uri", "sqlite://mnt/mlflow.db", "with 2 slashes it is not an absolute path"),
    ("backend_store_uri", "sqlite:/mnt/mlflow.db", "with 1 slashes it is not an absolute path"),
    ("backend_store_uri", "sqlite:////file:/a.db", "write sqlite:////FOLDER/mlflow.db"),
    ("backend_store_uri", "oracle://me@host/db", "the image has no driver for oracle://"),
    ("backend_store_uri", "postgresql+asyncpg://me@host/db", "no driver for postgresql+asyncpg://"),
    ("backend_store_uri", "mysql+mysqldb://me@host/db", "no driver for mysql+mysqldb://"),
    ("backend_store_uri", "http://other:5000", "the image has no driver for http://"),
    ("backend_store_uri", "postgresql://me:p@ss@host/db", "in the password write @ as %40"),
    ("backend_store_uri", "postgresql://me:p:ss@host/db", "in the password write : as %3A"),
    ("backend_store_uri", "postgresql://me:p/ss@host/db", "in the password write / as %2F"),
    ("backend_store_uri", "postgresql://me:p#ss@host/db", "in the password write # as %23"),
    ("backend_store_uri", "postgresql://me:p%ss@host/db", "in the password write % as %25"),
    ("backend_store_uri", "postgresql://me:p[ss@host/db", "in the password write [ as %5B"),
    ("backend_store_uri", "postgresql://me:p?ss@host/db", "in the password write ? as %3F"),
    ("http_auth", "maybe", "use True or False"),
    ("http_auth", "2", "use True or False"),
    ("port", "", "use a number from 1 to 65535"),
    ("port", "0", "use a number from 1 to 65535"),
    ("port", "65536", "use a number from 1 to 65535"),
    ("port", "abc", "use a number from 1 to 65535"),
    ("port", "-1", "use a number from 1 to 65535"),
    ("port", "5e3", "use a number from 1 to 65535"),
    ("port", " 5000", "use a number from 1 to 65535"),
    ("port", "\u0665\u0660", "use a number from 1 to 65535"),
    ("life_span", "", "use at least a minute"),
    ("life_span", "forever", "use at least a minute"),
    ("life_span", "30s", "use at least a minute"),
    ("life_span", "0", "use at least a minute"),
    ("life_span", "10", "use at least a minute"),
    ("life_span", "1h1d", "use at least a minute"),
    ("life_span", "2w", "write weeks as days"),
    ("job_name", "ab", "use 3 to 40 lowercase letters"),
    ("job_name", "Bad_Name", "use 3 to 40 lowercase letters"),
    ("job_name", "a--b", "use 3 to 40 lowercase letters"),
    ("job_name", "-ab", "use 3 to 40 lowercase letters"),
    ("job_name", "a" * 41, "use 3 to 40 lowercase letters"),
    ("job_name", "1abc", "use 3 to 40 lowercase letters"),
    ("job_name", "job-x", "begin it with another word than job-"),
    ("volumes", "storage:a:/a:rw", "use JSON like"),
    ("volumes", "{}", "use a JSON list of text"),
    ("volumes", "[1]", "use a JSON list of text"),
    ("volumes", '["a:/a"]', "write 'a:/a' as storage:FOLDER:/PATH:rw"),
    ("volumes", '["storage:a"]', "write 'storage:a' as"),
    ("volumes", '["storage:a:b:rw"]', "write 'storage:a:b:rw' as"),
    ("volumes", '["storage:a:/a:rwx"]', "write 'storage:a:/a:rwx' as"),
    ("volumes", '["storage:a:/a", "disk:b:/a/"]', "mount only one volume at /a"),
    ("envs", "[]", "use a JSON object like"),
    ("envs", "A=b", "use JSON like"),
    ("envs", '{"A": 1}', "put the value of A in quotes"),
    ("envs", '{"A-B": "c"}', "'A-B' is no name for a variable"),
    ("envs", '{"A": "b", "A": "c"}', "give A once"),
    ("envs", '{"MLFLOW_PORT": "1"}', "set port instead of MLFLOW_PORT"),
    ("extra_params", "--workers '2", "close the quotes"),
    ("extra_params", "--host 0.0.0.0", "leave --host out"),
    ("extra_params", "-h 0.0.0.0", "leave -h out"),
    ("extra_params", "-p5001", "leave -p out"),
    ("extra_params", "--port=5001", "leave --port out"),
    ("extra_params", "--backend-store-uri x", "leave --backend-store-uri out"),
    ("extra_params", "--default-artifact-root /mnt/x", "leave --default-artifact-root out"),
    ("extra_params", "--default-artifact-root=./x", "leave --default-artifact-root out"),
    ("extra_params", "--static-prefix mlflow", "begin --static-prefix with a /"),
    ("extra_params", "--static-prefix=/mlflow/", "end it without one"),
    ("extra_params", "--static-prefix /a//b", "end it without one"),
    ("extra_params", "--static-prefix", "begin --static-prefix with a /"),
    ("extra_params", "--gunicorn-opts '--timeout 9'", "leave the server as it is"),
    ("image", "", "use an image's name"),
    ("image", "my image", "use an image's name"),
    ("platform", "mars", "use neuro or local"),
    ("platform", "Local", "use neuro or local"),
    ("timeout", "0s", "use a duration like"),
    ("timeout", "soon", "use a duration like"),
    ("timeout", "0", "use a duration like"),
    ("restart", "sometimes", "use never or on-failure or always"),
    ("browse", "maybe", "use True or False"),
]


def _problems(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> list[str]:
    variable = f"MLFLOW_{name.upper()}"
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MAKEFLAGS", " -- " + f"{variable}={value}".replace("\\", "\\\\").replace(" ", "\\ "))
    return [str(problem) for problem in problems.problems(layers.load())]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_good_values(workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert _problems(monkeypatch, name, value) == []


@pytest.mark.parametrize(("name", "value", "fix"), BAD)
def test_bad_values(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fix: str
) -> None:
    [problem] = _problems(monkeypatch, name, value)
    with pytest.raises(Failure) as caught:
        up.main()
    assert caught.value.code == 1
    assert list(map(str, caught.value.problems)) == [problem]
    assert not (workspace / ".mlflow").exists()  # nothing was rendered, no platform or job started
    shown = layers.redact(value)
    assert problem.startswith(f"make command line: {name} is {shown!r}; ")
    assert fix in problem
    assert "\n" not in problem
    assert "ss@host" not in problem  # a password


VOLUME = '["storage:a:/mnt/a:rw", "storage:b:/mnt/b:ro", "secret:s:/run/s"]'
TOGETHER = [  # destination, backend store, envs, setting, what, is it a warning
    ("/a", "secret:db", {}, "artifacts_destination", "which no volume holds: lost with the job", False),
    ("/mnt/ab", "secret:db", {}, "artifacts_destination", "which no volume holds: lost with the job", False),
    ("/run/s/x", "secret:db", {}, "artifacts_destination", "which no volume holds", False),
    ("/mnt/b/x", "secret:db", {}, "artifacts_destination", "on a volume mounted read-only", False),
    ("s3://b", "sqlite:////tmp/m.db", {}, "backend_store_uri", "'/tmp/m.db', which no volume holds", False),
    ("s3://b", "sqlite:////mnt/b/m.db", {}, "backend_store_uri", "mounted read-only", False),
    ("s3://b", "/tmp/runs", {}, "backend_store_uri", "'/tmp/runs', which no volume holds", False),
    ("s3://b", "", {}, "backend_store_uri", "is empty, and s3://b keeps no runs", False),
    ("/mnt/a", "sqlite:////mnt/a/m.db", {}, "backend_store_uri", "/mnt/a/m.db lies in", True),
    (
        "s3://b",
        "postgresql://u:pw@h/d",
        {},
        "backend_store_uri",
        "'postgresql://u:***@h/d' can be read",
        True,
    ),
    ("s3://b", "postgresql://h/d?password=pw", {}, "backend_store_uri", "password=***' can be read", True),
    (
        "s3://b",
        "secret:db",
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=x"},
        "envs",
        "AZURE_STORAGE_CONNECTION_STRING can be read",
        True,
    ),
    (
        "s3://b",
        "secret:db",
        {"AWS_SECRET_ACCESS_KEY": "x"},
        "envs",
        "AWS_SECRET_ACCESS_KEY can be read",
        True,
    ),
]


@pytest.mark.parametrize(("destination", "store", "envs", "name", "what", "warning"), TOGETHER)
def test_values_that_do_not_go_together(
    destination: str, store: str, envs: dict[str, str], name: str, what: str, warning: bool
) -> None:
    given = {"mode": "server", "volumes": VOLUME, "envs": json.dumps(envs)}
    given |= {"artifacts_destination": destination, "backend_store_uri": store}
    [finding] = values.together(given)
    assert (finding.name, finding.warning) == (name, warning)
    assert what in finding.what
    assert "pw" not in str(finding)


@pytest.mark.parametrize(
    ("destination", "store", "envs"),
    [
        ("/mnt/a/artifacts", "sqlite:////mnt/a/m.db", {"AWS_SECRET_ACCESS_KEY": "secret:k", "A": "b"}),
        ("/mnt/a", "", {}),
        ("s3://b", "postgresql://u@h/d", {}),
    ],
)
def test_values_that_go_together(destination: str, store: str, envs: dict[str, str]) -> None:
    given = {"mode": "server", "volumes": VOLUME, "envs": json.dumps(envs)}
    given |= {"artifacts_destination": destination, "backend_store_uri": store}
    assert list(values.together(given)) == []


def test_names_of_secrets() -> None:
    given = {
        "backend_store_uri": "secret:db",
        "envs": '{"A": "secret:/org/project/a", "B": "plain"}',
        "volumes": '["secret:file:/run/f", "storage:a:/a:rw", "secret://c/o/p/key:/run/k"]',
    }
    assert list(values.secret_references(given)) == [
        ("backend_store_uri", "secret:db"),
        ("envs", "secret:/org/project/a"),
        ("volumes", "secret:file"),
        ("volumes", "secret://c/o/p/key"),
    ]


@pytest.mark.parametrize("name", [".neuro/project.yml", "project.yaml"])
@pytest.mark.parametrize("line", ["id: ${{ 'a' }}", "project_name: $[[ 'a' ]]", "id: [a]", "id: ["])
def test_names_in_the_project_file(workspace: Path, name: str, line: str) -> None:
    (workspace / ".neuro/project.yml").unlink()
    (workspace / name).write_text(f"# a project\n{line}\n")
    [problem] = map(str, problems.problems(layers.load()))
    assert problem.startswith(name)
    assert re.search("write the name itself|correct the file", problem)


def test_all_problems_at_once(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text("port: x\nmode: y\nnonsense: z\n")
    with pytest.raises(Failure) as caught:
        problems.require(layers.load())
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (None, "there is no live flow here"),
        ("kind: live\njobs: {}\n", "no job mlflow_server"),
        (
            "jobs:\n  mlflow_server:\n    action: ws:other\n    args: {}\n",
            ":3: the action of mlflow_server is ws:other",
        ),
        ("jobs:\n  mlflow_server:\n    args: {}\n", ":3: the action of mlflow_server is none"),
        ("jobs:\n  mlflow_server:\n    action: ws:.mlflow/action.yaml\n", ":3: mlflow_server has no args"),
        ("jobs: [\n", "not YAML"),
    ],
)
def test_mistakes_in_the_flow(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, flow: str | None, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://bucket")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "secret:db")
    live = workspace / ".neuro/live.yaml"
    live.unlink() if flow is None else live.write_text(flow)
    [problem] = map(str, problems.problems(layers.load()))
    assert message in problem
