"""Automatic backups take a tenth of a processor at most, and hold nobody up; by a clock of the test's own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from in_job import keeper, sqlite
from in_job.words import Problem


class Child:
    """A process that needs some seconds of a processor, and holds the database during some of them."""

    def __init__(self, needs: float, held: range | tuple[()] = ()) -> None:
        self.needs, self.busy = needs, held
        self.now = self.ran = 0.0
        self.running = True
        self.stopped_while_held = 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.running:
            self.ran += seconds

    def wait(self, *_: int) -> tuple[int, int, None]:
        return (7, 0, None) if self.ran >= self.needs else (0, 0, None)

    def kill(self, _: int, number: int) -> None:
        self.running = number == signal.SIGCONT
        self.stopped_while_held += not self.running and bool(self[0])

    def __getitem__(self, _: int) -> int:
        return int(round(self.ran * 100) in self.busy)


@pytest.mark.parametrize("needs", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("held", [(), range(8, 60), range(5000)], ids=["never", "now and then", "always"])
def test_no_more_than_a_tenth_of_a_processor(
    needs: float, held: range | tuple[()], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(needs, held)
    monkeypatch.setattr(time, "sleep", child.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: child.now)
    monkeypatch.setattr(os, "wait4", child.wait)
    monkeypatch.setattr(os, "killpg", child.kill)
    stand_in: Any = child
    assert keeper.slowly(7, stand_in) == (0, None)
    assert child.ran / child.now <= 0.1
    # One that never lets go is stopped all the same, when writers have given up waiting for it.
    assert child.stopped_while_held <= child.ran / sqlite.SQLITE_WAIT


def test_one_that_is_killed_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(keeper, "back_up", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert not keeper.make_one({}, tmp_path, 60)
    assert "no automatic backup: it was ended by signal 9 (9: out of memory?)" in capfd.readouterr().err


def test_what_keeps_it_from_looking_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def gone(*_: object) -> None:
        raise OSError(116, "Stale file handle", "/mnt/mlflow/backups")

    monkeypatch.setattr(keeper, "keep_backups", gone)
    child = keeper.start(environment(tmp_path))
    try:
        said, deadline = "", time.monotonic() + 60
        while "Stale file handle" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capfd.readouterr().err
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert "no automatic backup: [Errno 116] Stale file handle: '/mnt/mlflow/backups'" in said


def test_a_store_that_no_backup_would_hold_is_told_of_at_once(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "MLFLOW_REGISTRY_STORE_URI": "sqlite:////mnt/registry.db"}
    with pytest.raises(Problem, match=r"MLFLOW_REGISTRY_STORE_URI, .* no backup would hold: leave it out"):
        keeper.start(env)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a server that makes a backup a day."""
    return {
        "MLFLOW_ARTIFACTS_DESTINATION": f"{folder}/artifacts",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        keeper.EVERY: "1d",
        keeper.VOLUMES: f'["storage:mlflow:{folder}:rw"]',
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1d", 86400), ("1d12h", 129600), ("90m", 5400), ("1w", 604800), ("", 0), ("daily", 0), ("1", 0)],
)
def test_durations(text: str, expected: int) -> None:
    assert keeper.seconds(text) == expected
