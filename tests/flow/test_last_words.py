"""The last line of a target that has failed says the reason itself, and to run it again where that helps."""

from __future__ import annotations

import asyncio
import json
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from apolo_sdk import JobStatus

import up
from common.console import Failure
from flow.logs import last_words
from flow.store_task import Task
from in_job import store_job
from in_job.words import Problem

TRACEBACK = 'Traceback (most recent call last):\n  File "serve.py", line 1\nImportError: no module x\n'
LOGS = {
    "": "",
    "mlflow-server: waiting up to 2 s for x\nmlflow-server: x: not within 2 s (refused)\n": (
        "x: not within 2 s (refused)"
    ),
    "mlflow-server: MLflow 3.17.2, server mode\nError: No such option: --x\n"
    "mlflow-server: the server has ended by itself; see its words above\n": "Error: No such option: --x",
    "mlflow-server: MLflow 3.17.2, server mode\n[INFO] started\n": "[INFO] started",
    "mlflow-server: installed in 3 s\n" + TRACEBACK: "ImportError: no module x",
    TRACEBACK + "mlflow-server: the server cannot start: see above\n": "ImportError: no module x",
    "mlflow-server: the server cannot start: ImportError: y\nINFO: stopping\n": (
        "the server cannot start: ImportError: y"
    ),
    "mlflow-server: error: x holds 1 run\n": "x holds 1 run",
    "env: 'python3': No such file or directory\n": "env: 'python3': No such file or directory",
}


@pytest.mark.parametrize("log", LOGS)
def test_the_reason_is_taken_from_the_log(log: str) -> None:
    assert last_words(log) == LOGS[log]


class Flow:
    """Stands for `Flow`: a job that has ended with these last lines."""

    def __init__(self, tail: str) -> None:
        self.tail = tail
        self.job = SimpleNamespace(
            id="job-1",
            status=JobStatus.FAILED,
            history=SimpleNamespace(reason="OOMKilled", description="", restarts=0, exit_code=137),
        )
        self.client = SimpleNamespace(jobs=SimpleNamespace(status=self._status))

    async def _status(self, _: str) -> Any:
        return self.job

    async def log_tail(self, _: Any) -> str:
        return self.tail


async def test_of_a_server_that_ended(capsys: pytest.CaptureFixture[str]) -> None:
    for tail, words in ((TRACEBACK, ": ImportError: no module x"), ("", "")):
        flow: Any = Flow(tail)
        with pytest.raises(Failure) as caught:
            await up.died(flow, flow.job)
        reason = f"the server ended while starting (job job-1 failed OOMKilled, exit code 137){words}"
        assert str(caught.value) == f"{reason}; no job is left; correct that and run the same again"
        assert capsys.readouterr().err == f"{tail}\n"


async def test_of_a_task_without_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    flow: Any = Flow("mlflow-server: reading the store\nKilled\n")

    async def given(*_: Any) -> Any:
        return flow.job

    async def nothing(*_: Any) -> None:
        return None

    task = object.__new__(Task)
    task.flow, task.backups = flow, SimpleNamespace(path="/b")  # type: ignore[assignment]
    monkeypatch.setattr(Task, "_start", given)
    monkeypatch.setattr(Task, "_follow", given)
    monkeypatch.setattr(Task, "_result", nothing)
    with pytest.raises(Failure) as caught:
        await task.run("backup")
    reason = "the backup ended without a result (job job-1: failed OOMKilled): Killed"
    assert str(caught.value) == f"{reason}; run the same again"


@pytest.mark.parametrize("result", [None, {"error": "undone"}, {"kept": "x"}])
async def test_of_a_task_that_was_interrupted(
    result: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow: Any = Flow("")
    flow.job.status = JobStatus.RUNNING

    async def stop(_: Any) -> None:
        flow.job.status = JobStatus.CANCELLED

    async def given(*_: Any) -> Any:
        return flow.job

    async def interrupted(*_: Any) -> None:
        raise asyncio.CancelledError

    async def found(*_: Any) -> Any:
        return result

    flow.stop = stop
    task = object.__new__(Task)
    task.flow, task.backups = flow, SimpleNamespace(path="/b")  # type: ignore[assignment]
    for name, function in (("_start", given), ("_follow", interrupted), ("_result", found)):
        monkeypatch.setattr(Task, name, function)
    with pytest.raises(asyncio.CancelledError):
        await task.run("restore")
    said = ["mlflow: stopping job job-1; what it has not finished, it undoes"]
    said += ["mlflow: the restore was done before that"] if result and "kept" in result else []
    assert capsys.readouterr().err.splitlines() == said


AGAIN = "; run the same again when that is over"
ERRORS: list[tuple[Exception, str]] = [
    (OSError(28, "No space left on device"), f"No space left on device; free space on the volume{AGAIN}"),
    (PermissionError(13, "Permission denied"), f"denied; mount the volume writable (:rw){AGAIN}"),
    (Problem("another backup of /db: not within 10 s (held)"), f"not within 10 s (held){AGAIN}"),
    (Problem("/db was written to during its upgrade: stop its other users"), f"stop its other users{AGAIN}"),
    (Problem("the database: server closed the connection unexpectedly"), f"unexpectedly{AGAIN}"),
    (Problem("preparing the database was ended by signal 9 (9: out of memory?)"), f"of memory?){AGAIN}"),
    (Problem("/db holds 1 run: MLFLOW_FORCE=yes replaces it"), "MLFLOW_FORCE=yes replaces it"),
    (Problem("a restore was interrupted: run the same target again"), "run the same target again"),
    (Problem("backup.zip is not a whole backup: File is not a zip file"), "File is not a zip file"),
    (KeyError("x"), "KeyError('x')"),
]


@pytest.mark.parametrize(("error", "end"), ERRORS, ids=[end for _, end in ERRORS])
def test_of_a_task_that_failed(
    error: Exception, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> Any:
        raise error

    monkeypatch.setattr(store_job, "do", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(store_job, "hand_over", lambda *_: None)
    monkeypatch.setenv("MLFLOW_STORE_TASK", json.dumps({"backups": "/b", "result": "r"}))
    assert store_job.main() == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(end)
