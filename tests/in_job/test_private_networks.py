"""A database in a private network, which jobs do not reach, is told from one that is not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from in_job import database_server
from in_job.words import Problem


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("8.8.8.8", False),
        ("postgres--1f2e.platform-jobs", False),
        ("no.such.host.invalid", False),
    ],
)
def test_what_is_private(monkeypatch: pytest.MonkeyPatch, host: str, private: bool) -> None:
    monkeypatch.setenv("NEURO_JOB_INTERNAL_HOSTNAME", "job-1.platform-jobs")
    assert database_server.is_private(host) == private


@pytest.mark.parametrize(
    ("host", "error", "hint"),
    [
        ("10.1.2.3", OSError("connection timeout expired"), True),
        ("10.1.2.3", OSError("connection refused"), False),
        ("8.8.8.8", OSError("timed out"), False),
        ("10.1.2.3", None, False),  # as where the password is wrong
    ],
)
def test_one_that_times_out(
    monkeypatch: pytest.MonkeyPatch, host: str, error: OSError | None, hint: bool
) -> None:
    def wait(*_: object) -> Any:
        raise Problem("not within 1 s") from error

    alchemy = SimpleNamespace(
        create_engine=lambda *_, **__: None, exc=SimpleNamespace(ArgumentError=TypeError)
    )
    monkeypatch.setitem(sys.modules, "sqlalchemy", alchemy)
    monkeypatch.setattr(database_server, "wait", wait)
    with pytest.raises(Problem) as caught:
        database_server.reach(f"postgresql+psycopg://me@{host}/db", 1)
    assert ("jobs reach no private network" in str(caught.value)) == hint
