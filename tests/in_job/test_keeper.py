"""Automatic backups take a tenth of a processor at most, and hold nobody up; by a clock of the test's own."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from in_job import keeper, sqlite


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1d", 86400), ("1d12h", 129600), ("90m", 5400), ("1w", 604800), ("", 0), ("daily", 0), ("1", 0)],
)
def test_durations(text: str, expected: int) -> None:
    assert keeper.seconds(text) == expected
