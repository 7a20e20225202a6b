"""Fixtures for every test: no test sees the user's own settings, login or make flags."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]

# Compiled modules are kept, by the tests and by what they start, whatever the user's shell says: else
# every test process and every MLflow server compiles again all that it imports, for seconds each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says more about the machine than about the toolkit.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Let what the tests start and interrupt be interrupted: a `make test &` in a script ignores ^C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The quick tests write, synchronise and remove thousands of small files: in memory, where there is
    # enough of it. Not the slow ones: /dev/shm is each job's own.
    memory, quick = Path("/dev/shm"), config.getoption("markexpr") == "not e2e"
    if quick and "TMPDIR" not in os.environ and memory.is_dir() and shutil.disk_usage(memory).free > 2**32:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)
    # A local platform that a test has started itself lasts until the test stops it, however long it is idle.
    os.environ["LOCAL_PLATFORM_IDLE"] = "3600"


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "APOLO_", "NEURO_", "MAKE")) or name in ("MFLAGS", "BY"):
            monkeypatch.delenv(name)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a blank in its name, with the example flow, as the current folder."""
    folder = tmp_path / "my project"
    (folder / ".neuro").mkdir(parents=True)
    for name in ("live.yaml", "project.yml"):
        (folder / ".neuro" / name).write_bytes((ROOT / ".neuro" / name).read_bytes())
    monkeypatch.chdir(folder)
    return folder
