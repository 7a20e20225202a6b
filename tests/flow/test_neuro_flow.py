"""What mlflow-up and mlflow-deploy put into neuro-flow's process: what it lets through, and waits for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

Run = Callable[..., "subprocess.Popen[str]"]
NEURO_FLOW = """
import asyncio, json, sys
import apolo_cli.main, apolo_flow.utils

print(json.dumps(sys.argv[1:]), flush=True)
apolo_cli.main.main = lambda words: print(json.dumps(words))
asyncio.run(apolo_flow.utils.make_cmd_exec("apolo")(*sys.argv[1:]))
"""
"""What calls `apolo` as neuro-flow does, with one that prints its arguments."""


@pytest.fixture
def held(tmp_path: Path) -> Path:
    folder = tmp_path / "a run"
    folder.mkdir()
    return folder


@pytest.fixture
def run(held: Path) -> Run:
    """Starts that with some words, and further ones to be read from the folder."""

    def start(*words: str, by: int = os.getpid()) -> subprocess.Popen[str]:
        own = {"MLFLOW_HELD": str(held), "MLFLOW_HELD_BY": str(by), "MLFLOW_HELD_JOB": "train"}
        env = {**os.environ, **own, "PYTHONPATH": str(ROOT / "scripts/flow/held")}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.Popen(
            [sys.executable, "-c", NEURO_FLOW, *words], env=env, stdout=subprocess.PIPE, text=True
        )

    return start


def hand_over(held: Path, *words: str) -> None:
    (held / "part").write_text(json.dumps(words))
    (held / "part").rename(held / "words")


def handed_over(held: Path) -> list[str]:
    deadline = time.monotonic() + 60
    while not (held / "job").exists():
        assert time.monotonic() < deadline, "nothing has been handed over"
        time.sleep(0.01)
    words: list[str] = json.loads((held / "job").read_text())
    return words


def test_a_run_waits_for_its_words_and_for_leave(run: Run, held: Path) -> None:
    first, more = ["run", "--env=A=b c\n'd'"], ["image", "--", "python3", "-uc", "print('%s\\n')"]
    process = run(*first)
    assert process.stdout
    hand_over(held, *more)
    assert handed_over(held) == first + more
    assert json.loads(process.stdout.readline()) == first + more
    assert process.poll() is None
    (held / "go").touch()
    assert json.loads(process.communicate(timeout=60)[0]) == first + more
    assert process.returncode == 0


def test_a_run_without_leave_submits_nothing(run: Run, held: Path) -> None:
    process = run("run", "image")
    hand_over(held)
    handed_over(held)
    shutil.rmtree(held)
    assert process.communicate(timeout=60)[0].splitlines() == ['["run", "image"]']
    assert process.returncode == 1


def test_a_run_that_is_given_up_before_it_has_its_words(run: Run, held: Path) -> None:
    process = run("run", "image")
    shutil.rmtree(held)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 1


def test_a_run_ends_with_who_would_give_leave(run: Run) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = run("run", "image", by=gone.pid)
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 1


def test_a_job_that_runs_already_is_left_alone(run: Run, held: Path) -> None:
    process = run("attach", "job-1")
    hand_over(held)
    assert process.communicate(timeout=60)[0].splitlines() == ['["attach", "job-1"]']
    assert process.returncode == 1
