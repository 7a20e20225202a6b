"""Paths of older clients, below `preview`: the answers of the paths without it, with the same guards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..harness import StartServer

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("warm")]


@pytest.mark.parametrize(
    ("prefix", "env"),
    [("", {}), ("/a-b", {}), ("", {"MLFLOW_ENABLE_WORKSPACES": "true"})],
    ids=["direct", "prefix", "longer-road"],
)
def test_the_registry_below_preview_answers_as_without(
    start: StartServer, tmp_path: Path, prefix: str, env: dict[str, str]
) -> None:
    options = {"MLFLOW_ACTION_EXTRA_PARAMS": f"--static-prefix {prefix}"} if prefix else {}
    server = start(tmp_path / "volume", **options, **env).wait_until_up(404 if prefix else 200)
    assert any("longer road" in line for line in server.lines) == bool(env)
    for kind in ("api", "ajax-api"):
        below, plain = f"{prefix}/{kind}/2.0/preview/mlflow", f"{prefix}/{kind}/2.0/mlflow"
        status, made = server.call("POST", f"{below}/registered-models/create", {"name": kind})
        assert status == 200, made
        query = f"registered-models/get?name={kind}"
        found = server.call("GET", f"{below}/{query}")
        assert found == server.call("GET", f"{plain}/{query}")
        assert json.loads(found[1])["registered_model"]["name"] == kind
        assert server.call("GET", f"{below}/nothing")[0] == 404
        assert server.call("GET", f"{below}/{query}", None, {"Host": "evil.example.com"})[0] == 403
        crossed = {"Origin": "https://evil.example.com"}
        assert server.call("POST", f"{below}/registered-models/create", {}, crossed)[0] == 403


def test_a_password_is_asked_for_below_preview_too(start: StartServer, tmp_path: Path) -> None:
    env = {"MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-password"}
    server = start(tmp_path / "volume", MLFLOW_ACTION_EXTRA_PARAMS="--app-name basic-auth", **env)
    server.wait_until_up(401)
    for kind in ("api", "ajax-api"):
        assert server.call("GET", f"/{kind}/2.0/preview/mlflow/registered-models/search")[0] == 401
