"""What a model requires and the image lacks, and which Python it wants."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from in_job.deployment.finding import check_python
from in_job.deployment.requirements import DAY, UNUSED, USED, environment, lacking, remove_unused
from in_job.words import Problem
from tests.in_job.harness import wait_for

from .conftest import Deploy


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("pytest", False),
        ("PyTest>=1", False),
        ("pytest<1", True),
        ("pytest @ https://example.com/pytest.whl", True),
        ("no-such-package", True),
        ("no-such-package; python_version < '3'", False),
        ("mlflow==1.0", False),
        ("mlflow_skinny==1.0", False),
        ("pytest[no-such-extra]", False),
        ("uvicorn[no-such-extra]==0.0.1", True),
        ("code/own-1.0-py3-none-any.whl", True),
        ("git+https://example.com/own.git", True),
    ],
)
def test_only_what_the_image_does_not_meet_is_missing(line: str, missing: bool) -> None:
    found, options = lacking(["--pre", line])
    assert len(found) == missing
    assert options == ["--pre"]


@pytest.mark.parametrize(
    ("logged", "pickled", "said"),
    [
        ("3.11.2", True, ""),
        ("", True, ""),
        ("3.10.1", False, "WARNING: models:/a/1 was logged by Python 3.10.1, and this image has 3.11"),
        ("3.10.1", True, "its code is pickled, which another minor version cannot run; take an image with"),
    ],
)
def test_the_python_that_logged_a_model(logged: str, pickled: bool, said: str) -> None:
    found: dict[str, Any] = {"python": logged, "pickled": pickled, "uri": "models:/a/1"}
    if pickled and said:
        with pytest.raises(Problem, match=said):
            check_python(found, (3, 11))
    else:
        assert check_python(found, (3, 11)) == said


def test_only_environments_that_no_job_uses_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = {"a" * 16: UNUSED + 1, "b" * 16: UNUSED - 1, "c" * 16: None, "mine": UNUSED + 1}
    for name, days in used.items():
        (tmp_path / name / "library").mkdir(parents=True)
        if days:
            (tmp_path / name / USED).write_text(str(time.time() - days * DAY))
    for name, days in ((".new-old", 2), (".new-begun", 0)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, time.time() - days * DAY))
    remove_unused(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-begun", "b" * 16, "c" * 16, "mine"]
    said = capsys.readouterr().err
    assert said == f"mlflow-deploy: removing {tmp_path}/{'a' * 16}: no job has used it for {UNUSED} days\n"
    remove_unused(tmp_path)
    assert (tmp_path / ("c" * 16)).is_dir(), "a month begins where nothing is known"


def test_an_old_environment_that_is_taken_again_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("in_job.deployment.requirements.key", lambda *_: "a" * 16)
    (tmp_path / ("a" * 16)).mkdir()
    (tmp_path / ("a" * 16) / USED).write_text("0")
    found = {"uri": "models:/a/1", "path": str(tmp_path)}
    assert environment(found, ["no-such-package"], "uv", tmp_path) == tmp_path / ("a" * 16)
    assert (tmp_path / ("a" * 16)).is_dir()


@pytest.mark.e2e
def test_a_stop_in_the_middle_of_an_installation_leaves_nothing(deploy: Deploy, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        deployed = deploy("trees", PIP_INDEX_URL=index, PIP_FIND_LINKS="", PIP_CONFIG_FILE="/dev/null")
        wait_for(lambda: any(line.startswith("installing ") for line in deployed.lines), "pip", 60)
        silent.accept()
        assert list((tmp_path / "cache").iterdir())
        assert deployed.call("GET", "/health")[0] == 503
        assert deployed.state["step"] == "making its environment"
        assert deployed.stop() == 0
    assert deployed.lines[-1].startswith("installing "), "a stop is no failure"
    assert not list((tmp_path / "cache").iterdir())
