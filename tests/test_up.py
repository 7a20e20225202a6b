"""Waiting for the server, on a platform that does not do as it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apolo_sdk import JobStatus

import up
from common.console import Failure
from flow import server
from flow.workspace import Flow
from settings import layers


def job(status: JobStatus, reason: str = "", description: str = "", restarts: int = 0) -> Any:
    """Return as much of a job as is looked at."""
    history = SimpleNamespace(reason=reason, description=description, restarts=restarts, exit_code=3)
    return SimpleNamespace(id="job-1", status=status, history=history, http_url=None)


class Platform:
    """Stands for `Flow`: the job is in these states, one after another, and stays in the last."""

    def __init__(self, *states: Any, limit: int = 0) -> None:
        self.states = list(states)
        self.stopped: list[str] = []
        self.settings = SimpleNamespace(timeout=limit, make=lambda target: f"make {target}")
        self.client = SimpleNamespace(jobs=SimpleNamespace(status=self._status))

    async def _status(self, _: str) -> Any:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    async def log(self, _: Any, **options: bool) -> AsyncIterator[bytes]:
        assert options == {"follow": True}
        for chunk in (b"mlflow-server: /db: upgrading the sch", b"ema from 1; backup: b\nother\n"):
            yield chunk
        await asyncio.sleep(60)

    lines = Flow.lines

    async def log_tail(self, _: Any) -> str:
        return "the last line"

    async def stop(self, stopped: Any) -> None:
        self.stopped.append(stopped.id)


async def _failure(platform: Platform) -> str:
    with pytest.raises(Failure) as caught:
        await up.wait(platform, job(JobStatus.PENDING))  # type: ignore[arg-type]
    [problem] = caught.value.problems
    return str(problem)


async def test_pending_too_long() -> None:
    said = await _failure(Platform(job(JobStatus.PENDING, "Scheduling", "no node has a GPU")))
    assert said.startswith(
        "no server after 0s: pending Scheduling no node has a GPU; the job is left waiting"
    )
    assert "MLFLOW_TIMEOUT is the limit" in said
    assert "make mlflow-down" in said


async def test_running_without_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    said = await _failure(Platform(job(JobStatus.RUNNING)))
    assert "it is left running: `make mlflow-down` stops it" in said
    assert capsys.readouterr().err == "the last line\n"


async def test_what_the_server_says_of_an_upgrade_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    states = [job(JobStatus.RUNNING)] * 3
    await _failure(Platform(*states, job(JobStatus.FAILED), limit=60))
    assert capsys.readouterr().err.splitlines() == [
        "mlflow: /db: upgrading the schema from 1; backup: b",
        "the last line",
    ]


@pytest.mark.parametrize(
    ("trouble", "words", "said"),
    [
        ("it answers 503 <html>", [], "starting: imports MLflow"),
        ("it answers 503 x", ["made a folder", "MLflow 3.17.2, server mode, …"], "starting: imports MLflow"),
        ("it does not answer: refused", ["waiting for a lock"], "starting: waiting for a lock"),
        ("it answers 403 Invalid Host header", ["x"], "it answers 403 Invalid Host header"),
        ("pending Scheduling", [], "pending Scheduling"),
    ],
)
def test_what_is_waited_for(trouble: str, words: list[str], said: str) -> None:
    assert server.starting(trouble, words) == said


async def test_failed_before_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    said = await _failure(Platform(job(JobStatus.FAILED, "ErrImagePull", "no such image"), limit=60))
    assert "(job job-1 failed ErrImagePull no such image, exit code 3)" in said
    assert "the last line" in capsys.readouterr().err


async def test_a_crash_loop_is_stopped() -> None:
    running = job(JobStatus.RUNNING, "Restarting", restarts=1)
    platform = Platform(job(JobStatus.RUNNING), running, limit=60)
    assert "the server ended while starting" in await _failure(platform)
    assert platform.stopped == ["job-1"]


@pytest.mark.parametrize("value", ["", "7000"])
async def test_a_restart_applies_what_was_typed_only_with_it(
    value: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def differing(*_: Any) -> list[str]:
        return ["port: 5000 → 7000"]

    monkeypatch.setattr(up, "drift", differing)
    monkeypatch.setattr(up, "is_ours", lambda _: True)
    if value:
        monkeypatch.setenv("MLFLOW_PORT", value)
        monkeypatch.setenv("MAKEFLAGS", f" -- MLFLOW_PORT={value}")
    flow: Any = SimpleNamespace(settings=layers.load())
    await up.say_drift(flow, job(JobStatus.RUNNING))
    same = ", typed with the same settings," if value else ""
    assert capsys.readouterr().err.endswith(f"mlflow: `make mlflow-restart`{same} applies them\n")
