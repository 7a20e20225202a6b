"""The `apolo` that mlflow-up puts before the real one: what it lets through, hands over, and waits for."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

Apolo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run"
    folder.mkdir()
    return folder


@pytest.fixture
def apolo(tmp_path: Path, run: Path) -> Apolo:
    """Starts `apolo` as neuro-flow would, with a real one on PATH that prints its arguments."""
    real = tmp_path / "bin"
    real.mkdir()
    (real / "apolo").write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    (real / "apolo").chmod(0o755)
    shutil.copyfile(ROOT / "scripts/flow/held.sh", run / "apolo")
    (run / "apolo").chmod(0o700)
    path = f"{run}:{real}:{os.environ['PATH']}"

    def start(*words: str, by: int = os.getpid()) -> subprocess.Popen[str]:
        env = {"PATH": path, "MLFLOW_HELD": str(run), "MLFLOW_HELD_BY": str(by)}
        return subprocess.Popen(["apolo", *words], env=env, stdout=subprocess.PIPE, text=True)

    return start


def handed_over(run: Path) -> list[str]:
    deadline = time.monotonic() + 30
    while not (run / "job").exists():
        assert time.monotonic() < deadline, "nothing has been handed over"
        time.sleep(0.01)
    return (run / "job").read_text().split("\0")


def test_a_run_waits_for_leave(apolo: Apolo, run: Path) -> None:
    words = ["run", "--env=A=b c\n'd'", "--volume=x", "image", "--", "python3", "-uc", "print('%s\\n')"]
    process = apolo(*words)
    assert handed_over(run) == [*words, ""]
    assert process.poll() is None
    (run / "go").touch()
    assert process.communicate(timeout=30)[0] == "".join(f"[{word}]" for word in words)
    assert process.returncode == 0


def test_a_run_without_leave_submits_nothing(apolo: Apolo, run: Path) -> None:
    process = apolo("run", "image")
    handed_over(run)
    shutil.rmtree(run)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 1


def test_a_run_ends_with_who_would_give_leave(apolo: Apolo) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = apolo("run", "image", by=gone.pid)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["mkdir", "-p", "storage:a b"], 0, "[mkdir][-p][storage:a b]"), (["attach", "job-1"], 1, "")],
)
def test_other_commands(apolo: Apolo, words: list[str], code: int, said: str) -> None:
    process = apolo(*words)
    assert process.communicate(timeout=30)[0] == said
    assert process.returncode == code
