"""What is read off neuro-flow and the flow's files."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apolo_sdk import JobStatus

from flow import submission
from flow.login import Login
from flow.workspace import Flow, tags


def test_dry_run_line() -> None:
    found = submission.parse_dry_run(
        "apolo run --name=x --http-port=5000 --no-http-auth --env=A=b=c '--env=B=d e\nf'"
        " --volume=storage:a:/a:rw --tag=t --life-span=60s image:1 -- python3 -uc 'print(1)'"
    )
    assert found.options == {"name": "x", "http-port": "5000", "no-http-auth": "", "life-span": "60s"}
    assert found.env == {"A": "b=c", "B": "d e\nf"}
    assert found.volumes == ["storage:a:/a:rw"]
    assert found.image == "image:1"


@pytest.mark.parametrize("line", ["", "neuro run x", "apolo run --name=x"])
def test_not_a_dry_run_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"apolo run line|no image"):
        submission.parse_dry_run(line)


def test_tags(workspace: Path) -> None:
    assert tags("mlflow_server") == {"project:mlflow", "flow:live", "job:mlflow-server"}
    (workspace / ".neuro/project.yml").unlink()
    (workspace / ".neuro/live.yaml").write_text("kind: live\nid: My_Flow\n")
    assert tags("a") == {"project:my project", "flow:my-flow", "job:a"}


def test_the_command_of_a_login_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my bin"
    folder.mkdir()
    (folder / "apolo").write_text("#!/bin/sh\necho called\n")
    (folder / "apolo").chmod(0o755)
    nothing: Any = None
    login = Login({}, None, str(folder / "apolo"), "neuro-flow", "", *[nothing] * 4)
    for place in (tmp_path, folder):
        monkeypatch.chdir(place)
        command = login.apolo_typed if "/" in login.apolo_typed else f"./{login.apolo_typed}"
        assert subprocess.check_output(["bash", "-c", command]) == b"called\n"


async def test_an_interrupted_wait_for_the_end_says_that_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    job: Any = SimpleNamespace(id="job-1", status=JobStatus.RUNNING)
    killed = asyncio.Event()

    async def kill(_: str) -> None:
        killed.set()

    async def status(_: str) -> Any:
        return job

    flow: Any = object.__new__(Flow)
    flow.settings = SimpleNamespace(timeout=60)
    flow.client = SimpleNamespace(jobs=SimpleNamespace(kill=kill, status=status))
    stopping = asyncio.create_task(flow.stop(job))
    await killed.wait()
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert capsys.readouterr().err == "mlflow: job job-1 ends all the same: it has been told to\n"
