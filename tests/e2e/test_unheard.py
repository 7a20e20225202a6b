"""Every target whose reader goes away, as `| head -1` does: it does all of its work, in silence."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass

import pytest

from tests.test_makefile import TARGETS

from .conftest import Clone

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Try:
    """A target's words, its exit code, and which of its streams have no reader, in turns."""

    words: str = ""
    code: int = 0
    closed: tuple[str, ...] = ("out",)


TRIES = {
    "up": Try(closed=("out", "err")),
    "status": Try(closed=("out", "err")),
    "extend": Try("BY=2d"),
    "logs": Try(closed=("out", "err")),
    "open": Try("BROWSER=true"),
    "env": Try(),
    "config": Try("MLFLOW_FORMAT=json"),
    "render": Try(),
    "check": Try(closed=("both",)),
    "help": Try(),
    "deployments": Try(),
    "deploy": Try("MODEL=none", code=1),  # none is registered
    "undeploy": Try("MODEL=none"),
    "gc": Try(closed=("both",)),
    "backup": Try("TO=runs.zip", closed=("both",)),
    "restore": Try("FROM=runs.zip MLFLOW_FORCE=yes", closed=("both",)),
    "upgrade": Try(closed=("both",)),
    "restart": Try(closed=("both",)),
    "install": Try("INTO=../their", closed=("both",)),
    "update": Try("FROM=../their", code=1),  # it was not installed here
    "uninstall": Try(code=1),
    "down": Try(closed=("both",)),
}
"""In the order in which they are run on one server."""
PAIRS = [(name, closed) for name, tried in TRIES.items() for closed in tried.closed]


def test_every_target_is_tried() -> None:
    assert {f"mlflow-{name}" for name in TRIES} == {name for name, _ in TARGETS}


@pytest.fixture(scope="module")
def clone(served: Clone) -> Clone:
    """A clone whose server is up, and a repository beside it to install into."""
    their = served.path.parent / "their"
    their.mkdir()
    subprocess.run(["git", "init", "-q", str(their)], check=True)
    return served


@pytest.mark.parametrize(("name", "closed"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_nobody_reads(name: str, closed: str, clone: Clone) -> None:
    script = "clean_up" if name == "gc" else name
    reader, unread = os.pipe()
    os.close(reader)
    streams = {"out": (unread, subprocess.PIPE), "err": (subprocess.PIPE, unread), "both": (unread, unread)}
    words = dict(word.split("=", 1) for word in TRIES[name].words.split())
    if closed == "err":  # else the log would be followed, which has a reader then
        words["MLFLOW_FOLLOW"] = "no"
    run = subprocess.run(
        ["bash", "scripts/bootstrap.sh", script],
        cwd=clone.path,
        env={**clone.env, "MLFLOW_PLATFORM": "local", **words},
        stdin=subprocess.DEVNULL,
        stdout=streams[closed][0],
        stderr=streams[closed][1],
        text=True,
        timeout=280,
        check=False,
    )
    os.close(unread)
    said = (run.stdout or "") + (run.stderr or "")
    assert run.returncode == TRIES[name].code, said
    assert not re.search(r"(?i)broken pipe|traceback|exception|bug|reached", said)


def test_what_nobody_read_was_done(clone: Clone) -> None:
    assert (clone.path / "runs.zip").stat().st_size > 1000
    assert (clone.path.parent / "their/scripts/mlflow/installed.json").exists()
    assert clone.local("mlflow-status", code=1)[0].startswith("state     not running")


def test_make_is_quiet_too(clone: Clone) -> None:
    for target in ("mlflow-status", "mlflow-config", "mlflow-help"):
        shell = f"set -o pipefail; make -s {target} MLFLOW_PLATFORM=local | head -1"
        run = subprocess.run(
            ["bash", "-c", shell], cwd=clone.path, env=clone.env, capture_output=True, text=True, check=False
        )
        assert len(run.stdout.splitlines()) == 1
        assert "Broken" not in run.stderr
        assert run.returncode == (2 if target == "mlflow-status" else 0), (
            run.stderr
        )  # no server, as with a reader
