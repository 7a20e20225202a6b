"""What a running job says of the server in it: its address, who gets in, and how a shell does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from flow import server

SECRET = SimpleNamespace(path="/org/project/first password")
URL = "https://mlflow--me.jobs.example.org/"


def job(extra: str = "", *, auth: bool = False, **env: Any) -> Any:
    container = SimpleNamespace(
        env={"MLFLOW_ACTION_EXTRA_PARAMS": extra, **env},
        secret_env={"MLFLOW_AUTH_ADMIN_PASSWORD": SECRET} if "basic-auth" in extra else {},
        http=SimpleNamespace(requires_auth=auth, port=5000),
    )
    return SimpleNamespace(http_url=URL, container=container)


def flow(value: str = "", command: str = "") -> Any:
    settings = SimpleNamespace(job="mlflow_server")
    return SimpleNamespace(
        settings=settings, login=SimpleNamespace(apolo="/my bin/apolo", secret=lambda _: (value, command))
    )


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)


@pytest.mark.parametrize(
    ("extra", "env", "prefix"),
    [
        ("", {}, ""),
        ("--static-prefix '/a'", {}, "/a"),
        ("--workers 1", {"MLFLOW_STATIC_PREFIX": "/x"}, "/x"),
    ],
)
def test_a_prefix_belongs_to_every_address(extra: str, env: dict[str, str], prefix: str) -> None:
    running = job(extra, **env)  # type: ignore[arg-type]
    assert server.address(running) == f"https://mlflow--me.jobs.example.org{prefix}"
    assert server.inspected_uri(flow(), running).endswith(f":5000{prefix}")
    [line] = server.exports(flow(), running)
    out = subprocess.check_output(["bash", "-c", f'{line}; printf %s "$MLFLOW_TRACKING_URI"'], text=True)
    assert urlsplit(out).path == prefix


@pytest.mark.parametrize(
    ("extra", "auth", "words"),
    [
        ("", False, "whoever knows the address"),
        ("", True, "users of the platform"),
        ("--app-name basic-auth", False, "users of MLflow's own, by name and password"),
        ("--app-name=basic-auth", True, "users of the platform who are users of MLflow's own"),
    ],
)
def test_who_gets_in(extra: str, auth: bool, words: str) -> None:
    assert server.who_gets_in(job(extra, auth=auth)).startswith(words)


def credentials(lines: list[str]) -> str:
    """Return what a shell has after these lines; the lines do not have the password."""
    script = "\n".join([*lines, 'printf "%s|%s" "$MLFLOW_TRACKING_USERNAME" "$MLFLOW_TRACKING_PASSWORD"'])
    assert "pa$s word" not in script
    return subprocess.check_output(["bash", "-c", script], text=True)


def test_credentials_come_from_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = job("--app-name basic-auth")
    assert len(server.exports(flow(), running)) == 1
    assert "admin is the first user" in server.missing_credentials(flow(), running)
    assert server.missing_credentials(flow(), job()) == ""

    file = tmp_path / "first"
    file.write_text("first pa$s word")
    known = flow("first pa$s word", f"cat '{file}'")
    assert credentials(server.exports(known, running)) == "admin|first pa$s word"
    named = job("--app-name basic-auth", MLFLOW_AUTH_ADMIN_USERNAME="root")
    assert credentials(server.exports(known, named)) == "root|first pa$s word"
    assert len(server.exports(known, job())) == 1  # nobody asks for it

    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password=file %pa$s word\n"
    )
    assert credentials(server.exports(known, running)) == "ann|file %pa$s word"

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob's")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "own pa$s word")
    assert credentials(server.exports(known, running)) == "bob's|own pa$s word"
    assert server.missing_credentials(flow(), running) == ""
