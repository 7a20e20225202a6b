"""Who gets in: what the settings say of it, alone and together."""

from __future__ import annotations

import json

import pytest

from settings import access, values

BASIC = "--workers 1 --app-name basic-auth"
SECRET = {"MLFLOW_AUTH_ADMIN_PASSWORD": "secret:mlflow-admin"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", ""),
        ("--app-name", ""),
        ("--workers 1", ""),
        ("--app-name basic-auth", "basic-auth"),
        ("--app-name=basic-auth --workers 1", "basic-auth"),
        ("--app-name other '--app-name=basic-auth'", "basic-auth"),
        ("--app-names basic-auth", ""),
        ("--app-name 'open", ""),
    ],
)
def test_option(words: str, value: str) -> None:
    assert values.option(words, "--app-name") == value
    assert access.has_users(words) == (value == "basic-auth")


@pytest.mark.parametrize(
    ("words", "env", "prefix"),
    [
        ("", {}, ""),
        ("--static-prefix /a/b", {}, "/a/b"),
        ("--static-prefix=/a", {"MLFLOW_STATIC_PREFIX": "/b"}, "/a"),
        ("--workers 1", {"MLFLOW_STATIC_PREFIX": "/b/"}, "/b"),
    ],
)
def test_static_prefix(words: str, env: dict[str, str], prefix: str) -> None:
    assert access.static_prefix(words, env) == prefix


@pytest.mark.parametrize(
    ("extra", "envs", "store", "http_auth", "name", "what", "warning"),
    [
        (BASIC, {}, "secret:db", "False", "extra_params", "no password for its first user", False),
        (
            BASIC,
            {"MLFLOW_AUTH_ADMIN_PASSWORD": ""},
            "",
            "",
            "extra_params",
            "no password for its first user",
            False,
        ),
        (BASIC, {"MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "", "False", "envs", "is too short", False),
        (BASIC, SECRET, "/mnt/mlflow/runs", "False", "backend_store_uri", "is a file store", False),
        (BASIC, SECRET, "", "True", "http_auth", "no client outside of the cluster gets in", True),
        ("", SECRET, "", "False", "envs", "nobody is asked for a password", True),
        (BASIC, SECRET, "", "False", "", "", False),
        (BASIC, {"MLFLOW_AUTH_CONFIG_PATH": "/run/auth.ini"}, "", "False", "", "", False),
        ("", {}, "", "True", "", "", False),
    ],
)
def test_findings(
    extra: str, envs: dict[str, str], store: str, http_auth: str, name: str, what: str, warning: bool
) -> None:
    given = {"extra_params": extra, "envs": json.dumps(envs), "backend_store_uri": store}
    found = list(access.findings({**given, "http_auth": http_auth}))
    assert [(finding.name, finding.warning) for finding in found] == ([(name, warning)] if name else [])
    assert all(what in finding.what for finding in found)
    assert "short" not in " ".join(finding.what.replace("too short", "") for finding in found)
