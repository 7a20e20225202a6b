"""What the server answers to, and how many connections it keeps."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from in_job import environment, web_server

from .harness import JOB, LABELS


def allowed(name: str, env: dict[str, str], *, origin: bool = False) -> bool:
    """Tell what MLflow would: its matching is fnmatch on the raw header."""
    kind = "CORS_ALLOWED_ORIGINS" if origin else "ALLOWED_HOSTS"
    patterns = environment.names(env)[f"MLFLOW_SERVER_{kind}"].split(",")
    return any(fnmatch(name, pattern) if "*" in pattern else name == pattern for pattern in patterns)


PLATFORM = {**JOB, "MLFLOW_HOST": "0.0.0.0"}
LOOPBACK = {**JOB, "MLFLOW_HOST": "127.0.0.7"}


@pytest.mark.parametrize(
    "host",
    [
        "mlflow--abc.jobs.example.neu.ro",
        "job-1f2e.jobs.example.neu.ro:443",
        "mlflow--abc.platform-jobs",
        "mlflow--abc.platform-jobs:5000",
        "job-1f2e.platform-jobs:5000",
        "localhost:5000",
        "127.0.0.1",
    ],
)
def test_own_hosts_are_allowed(host: str) -> None:
    assert allowed(host, PLATFORM)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "evil.com/mlflow--abc.jobs.x",
        "evil.com:80#mlflow--abc.jobs.x",
        "xmlflow--abc.jobs.example.neu.ro",
        "mlflow--abc.example.neu.ro",
        "mlflow--abc.platform-jobs.evil.com",
        "mlflow--abcd.jobs.example.neu.ro",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "10.0.0.1:5000",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert not allowed(host, PLATFORM)
    assert not allowed(host, LOOPBACK)


def test_behind_loopback_only_names_below_localhost_are_the_jobs_own() -> None:
    assert allowed("mlflow--abc.jobs.local.localhost", LOOPBACK)
    assert allowed("127.0.0.7:5000", LOOPBACK)
    assert allowed("https://mlflow--abc.jobs.local.localhost", LOOPBACK, origin=True)
    assert not allowed("mlflow--abc.jobs.evil.com", LOOPBACK)
    assert not allowed("https://mlflow--abc.jobs.evil.com", LOOPBACK, origin=True)


def test_origins() -> None:
    assert allowed("https://mlflow--abc.jobs.example.neu.ro", PLATFORM, origin=True)
    assert allowed("http://mlflow--abc.platform-jobs:5000", PLATFORM, origin=True)
    for origin in (
        "https://evil.com",
        "https://evil.com/https://mlflow--abc.jobs.x",
        "http://mlflow--abc.jobs.example.neu.ro",
        "null",
    ):
        assert not allowed(origin, PLATFORM, origin=True)


def test_an_unnamed_job_has_one_name_and_a_process_outside_the_platform_none() -> None:
    unnamed = {"NEURO_JOB_INTERNAL_HOSTNAME": f"{LABELS[0]}.ns", "NEURO_JOB_INTERNAL_HOSTNAME_NAMED": ""}
    assert allowed(f"{LABELS[0]}.ns:5000", {**unnamed, "MLFLOW_HOST": "0.0.0.0"})
    assert not allowed(".jobs.x", {**unnamed, "MLFLOW_HOST": "0.0.0.0"})
    assert environment.names({"MLFLOW_HOST": "0.0.0.0"}) == {}


@pytest.mark.parametrize(("workers", "most"), [(1, 80), (2, 40), (4, 20), (16, 10)])
def test_connections_stay_below_what_postgresql_allows(workers: int, most: int) -> None:
    pool = environment.store_defaults("postgresql+psycopg://u@h/d", workers)
    size = int(pool["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"])
    assert size + int(pool["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"]) == most
    assert size == min(most // 2, 2 * web_server.THREADS)  # a batch takes two at once
