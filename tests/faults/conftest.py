"""The faults. `--full` tries each as often as `make test-faults` does, and ends with a table of all."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_platform import client
from tests.in_job.conftest import (  # noqa: F401 - fixtures
    mount,
    no_locks,
    postgresql,
    ready_volume,
    refused,
    start,
    start_for_module,
    template,
    volume,
)
from tests.in_job.harness import needed
from tests.local_platform.conftest import new  # noqa: F401 - a fixture

from .served import Served


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="try each fault often, and print a table at the end")
    parser.addoption("--tries", type=int, default=20, help="so many tries of a fault at most; 20")
    parser.addoption("--seed", type=int, help="the seed of a table's row, to have its random timing again")


class Fault:
    """One fault: how often it was tried, what was lost, how it ended; a row of the table."""

    def __init__(self, title: str, full: bool, most: int, seed: int | None) -> None:
        self.title, self.full, self.most = title, full, most
        self.seed = random.randrange(10**6) if seed is None else seed  # noqa: S311
        self.random = random.Random(self.seed)  # noqa: S311
        self.tried = self.lost = 0
        self.ended = ""
        self._started = time.monotonic()

    def tries(self, full: int = 20, short: int = 1) -> Iterator[int]:
        """Count the tries while a loop makes them."""
        for number in range(min(full, self.most) if self.full else short):
            self.tried += 1
            yield number

    def pick(self, short: Any, full: Any) -> Any:
        """Return the size that this form of the fault has."""
        return full if self.full else short

    def row(self) -> list[str]:
        """Return the columns of the table."""
        seconds = f"{time.monotonic() - self._started:.0f} s"
        return [self.title, str(self.tried), str(self.lost), self.ended, seconds, str(self.seed)]


MakeFault = Callable[[str], contextlib.AbstractContextManager[Fault]]


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether faults are tried in their full form."""
    return bool(request.config.getoption("full", False))


@pytest.fixture
def fault(full: bool, request: pytest.FixtureRequest) -> MakeFault:
    """Opens a row of the table for as long as a fault is tried."""

    @contextlib.contextmanager
    def make(title: str) -> Iterator[Fault]:
        option = request.config.getoption
        one = Fault(title, full, option("tries", 20), option("seed", None))
        print(f"{title}: --seed {one.seed}")  # shown where the test fails
        try:
            yield one
        except BaseException as error:
            one.ended = f"FAILED: {' '.join(str(error).split())[:200] or type(error).__name__}"
            raise
        finally:
            request.node.user_properties.append(("fault", one.row()))

    return make


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("full", False):
        return
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [value for report in reports for name, value in report.user_properties if name == "fault"]
    rows = [["fault", "tries", "lost", "how it ended", "time", "seed"], *sorted(rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    terminalreporter.section("faults")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload: the time of day is off by the seconds in the file $CLOCK_OFFSET."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    gcc = needed("gcc", "apt-get install gcc libc6-dev")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests of a module."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    client.stop(made.platform.state)
