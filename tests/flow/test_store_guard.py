"""A value that the shell has set by chance does not lead to another store."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.console import Failure
from flow import store_guard
from settings import layers, problems
from settings.variables import STORE

HERE = "sqlite:////mnt/mlflow/mlflow.db"
STARTED = {"backend_store_uri": HERE, "artifacts_destination": "/mnt/mlflow/artifacts", "volumes": '["a"]'}


class Parse:
    """Stands for the SDK's parser of what a job gets."""

    def envs(self, words: list[str]) -> Any:
        name, _, text = words[0].partition("=")
        if text.startswith("secret:"):
            return SimpleNamespace(env={}, secret_env={name: f"secret://c/o/p/{text[7:]}"})
        return SimpleNamespace(env={name: text}, secret_env={})


@pytest.fixture
def of_job(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the job says that it was started with."""
    said = dict(STARTED)
    monkeypatch.setattr(store_guard, "of_job", lambda _: said)
    monkeypatch.setattr(store_guard, "is_ours", lambda _: True)
    (Path(".mlflow")).mkdir(exist_ok=True)
    return said


def flow(target: str = "up", *, running: bool = False) -> Any:
    client = SimpleNamespace(parse=Parse())
    return SimpleNamespace(settings=layers.load(target), client=client, job=object() if running else None)


async def refused(opened: Any) -> list[str]:
    with pytest.raises(Failure) as caught:
        await store_guard.require_same_store(opened)
    return [str(problem) for problem in caught.value.problems]


async def test_another_store_than_the_running_servers(
    workspace: Path, of_job: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "1")  # moves no store
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", HERE)
    await store_guard.require_same_store(flow(running=True))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://me:pw@h/db")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://theirs")
    uri, destination = await refused(flow(running=True))
    assert uri == (
        "environment MLFLOW_BACKEND_STORE_URI: backend_store_uri is 'postgresql://me:***@h/db', and the "
        f"running server has '{HERE}'; `unset MLFLOW_BACKEND_STORE_URI` if it is meant for something else; "
        "MLFLOW_FORCE=yes takes it"
    )
    assert "artifacts_destination is 's3://theirs', and the running server has '/mnt/mlflow/" in destination
    monkeypatch.setenv("MLFLOW_FORCE", "yes")
    await store_guard.require_same_store(flow(running=True))


@pytest.mark.parametrize("target", STORE)
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
async def test_what_takes_the_value_for_each_target(
    workspace: Path, of_job: dict[str, str], monkeypatch: pytest.MonkeyPatch, target: str, running: bool
) -> None:
    store_guard.remember(flow(), object())  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:////mnt/mlflow/other.db")
    [asks] = await refused(flow(target, running=running))
    monkeypatch.setenv("MLFLOW_FORCE", "yes")
    if target in ("restore", "gc"):  # there it replaces or removes what is in the store
        assert [asks] == await refused(flow(target, running=running))
        assert "typed on the make command line it is taken" in asks
        monkeypatch.setenv("MAKEFLAGS", " -- MLFLOW_BACKEND_STORE_URI=sqlite:////mnt/mlflow/other.db")
    else:
        assert "MLFLOW_FORCE=yes takes it" in asks
    await store_guard.require_same_store(flow(target, running=running))


async def test_another_store_than_the_last_one_from_here(
    workspace: Path, of_job: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "secret:db")
    await store_guard.require_same_store(flow())  # none has been started
    of_job["backend_store_uri"] = "postgresql://me:pw@h/db"
    store_guard.remember(flow(), object())  # type: ignore[arg-type]
    assert "pw" not in store_guard.RECORD.read_text()
    assert store_guard.RECORD.stat().st_mode & 0o777 == 0o600
    [said] = await refused(flow())
    assert "is 'secret:db', and the last server from here has 'postgresql://me:***@h/db'" in said
    of_job["backend_store_uri"] = "secret://c/o/p/db"
    store_guard.remember(flow(), object())  # type: ignore[arg-type]
    await store_guard.require_same_store(flow())
    monkeypatch.setenv("MLFLOW_PLATFORM", "local")  # where none has been started from here
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "secret:other")
    await store_guard.require_same_store(flow())
    assert list(json.loads(store_guard.RECORD.read_text())) == ["neuro"]


async def test_what_was_typed_or_is_in_a_file_is_meant(
    workspace: Path, of_job: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:////mnt/mlflow/other.db")
    monkeypatch.setenv("MAKEFLAGS", " -- MLFLOW_BACKEND_STORE_URI=sqlite:////mnt/mlflow/other.db")
    await store_guard.require_same_store(flow(running=True))
    monkeypatch.delenv("MAKEFLAGS")
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI")
    (workspace / "mlflow.yaml").write_text("backend_store_uri: sqlite:////mnt/mlflow/other.db\n")
    await store_guard.require_same_store(flow(running=True))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{"])
async def test_a_damaged_record_is_none(
    workspace: Path, of_job: dict[str, str], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    store_guard.RECORD.write_bytes(content)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "secret:db")
    await store_guard.require_same_store(flow())
    store_guard.remember(flow(), object())  # type: ignore[arg-type]
    assert await refused(flow())


async def test_what_came_from_the_environment_is_said(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems.begin("up")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("MLFLOW_PORT", "7000")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://me:pw@h/db")
    problems.begin("up")
    lines = capsys.readouterr().err.splitlines()
    said = "MLFLOW_BACKEND_STORE_URI=postgresql://me:***@h/db, MLFLOW_PORT=7000"
    assert lines[-1] == f"mlflow: from the environment: {said}"
