"""Several slashes where a path begins mean one, for what checks the settings and for what runs in the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from in_job import location
from settings import values

PLACES = [  # as written, as meant
    ("sqlite:////m/a.db", "sqlite:////m/a.db"),
    ("sqlite://///m/a.db", "sqlite:////m/a.db"),
    ("sqlite://////m//b/a.db", "sqlite:////m//b/a.db"),
    ("SQLite+pysqlite://///m/a.db", "SQLite+pysqlite:////m/a.db"),
    ("sqlite:///file://m/a.db?vfs=unix-dotfile&uri=true", "sqlite:///file:/m/a.db?vfs=unix-dotfile&uri=true"),
    ("sqlite:///a.db", "sqlite:///a.db"),
    ("sqlite://", "sqlite://"),
    ("/m", "/m"),
    ("//m", "/m"),
    ("///m/a", "/m/a"),
    ("file:///m", "file:///m"),
    ("file:////m", "file:///m"),
    ("s3://bucket//a", "s3://bucket//a"),
    ("postgresql://me@h//d", "postgresql://me@h//d"),
    ("secret:a", "secret:a"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "meant"), PLACES)
def test_leading_slashes(written: str, meant: str) -> None:
    assert values.one_slash(written) == meant
    assert location.one_slash(written) == meant
    assert values.sqlite_path(written) == values.sqlite_path(meant)


@pytest.mark.parametrize(
    ("uri", "destination", "found"),
    [
        ("sqlite://///m/a.db", "//m/artifacts", ("sqlite:////m/a.db", "/m/artifacts")),
        ("//m/runs", "file:////m/artifacts", ("/m/runs", "/m/artifacts")),
    ],
)
def test_in_the_job(uri: str, destination: str, found: tuple[str, str]) -> None:
    env = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_ARTIFACTS_DESTINATION": destination}
    assert location.locate(env) == found
    assert location.store_path(found[0]) == Path(found[0].removeprefix("sqlite:///"))


def test_together() -> None:
    found = list(
        values.together(
            {
                "mode": "server",
                "volumes": '["storage:a://m:rw"]',
                "envs": "{}",
                "backend_store_uri": "sqlite://///m/a.db",
                "artifacts_destination": "//m/artifacts",
            }
        )
    )
    assert found == []
