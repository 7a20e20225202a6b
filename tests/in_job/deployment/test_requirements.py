"""What a model requires and the image lacks, and which Python it wants."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from in_job.deployment.finding import check_python
from in_job.deployment.requirements import lacking
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
