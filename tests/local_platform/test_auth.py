"""Only bearers of this folder's token get in."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from jose import jwt

from local_platform.auth import Auth
from local_platform.names import ApiError
from local_platform.state import State
from tests.local_platform.harness import HOME, Platform, http


def _forged(platform: Platform, **changes: object) -> str:
    claims = {"identity": "local", "use": "api", "exp": int(time.time()) + 60, **changes}
    return str(jwt.encode(claims, "another key", algorithm="HS256"))


def _unsigned(platform: Platform) -> str:
    _, payload, _ = platform.login.token.split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{header}.{payload}."


def _changed(platform: Platform) -> str:
    header, payload, signature = platform.login.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    data = base64.urlsafe_b64encode(json.dumps({**claims, "exp": 2**40}).encode()).decode().rstrip("=")
    return f"{header}.{data}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(lambda _: "", id="absent"),
        pytest.param(lambda _: "x", id="no JWT"),
        pytest.param(_forged, id="another key"),
        pytest.param(_unsigned, id="algorithm none"),
        pytest.param(_changed, id="changed claims"),
    ],
)
@pytest.mark.parametrize(
    "path", ["config", "jobs", "storage/local/mlflow/x?op=OPEN", "secrets", "no/such/path"]
)
def test_a_request_without_the_token_gets_401(shared: Platform, token: object, path: str) -> None:
    answer = shared.api("GET", path, token=token(shared))  # type: ignore[operator]
    assert answer.status == 401
    assert set(answer.json) == {"error"}


def test_websockets_need_the_token_as_well(shared: Platform) -> None:
    job = shared.run("true")

    async def connect(what: str) -> int:
        async with aiohttp.ClientSession() as session:
            try:
                await session.ws_connect(f"{shared.login.url}/monitoring/{job}/{what}")
            except aiohttp.WSServerHandshakeError as error:
                return error.status
        return 0

    assert [asyncio.run(connect(what)) for what in ("log_ws", "attach")] == [401, 401]


def test_ping_tells_strangers_nothing(shared: Platform) -> None:
    root = shared.login.url.removesuffix("/api/v1")
    assert http("GET", root + "/ping").json == {}
    assert http("GET", root + "/ping", headers={"Authorization": f"Bearer {_forged(shared)}"}).json == {}


def test_tokens_hold_for_one_use_one_folder_and_a_time(tmp_path: Path) -> None:
    states = [State(tmp_path / name) for name in ("one", "two")]
    for state in states:
        state.create()
    one, two = (Auth(state) for state in states)
    assert one.verify(one.token, "api")["identity"] == "local"
    assert Auth(states[0]).token == one.token
    for auth, token, use in (
        (two, one.token, "api"),
        (one, one.token, "ingress:1"),
        (one, one.issue("ingress:1", 60), "api"),
        (one, one.issue("api", -60), "api"),
    ):
        with pytest.raises(ApiError):
            auth.verify(token, use)


def test_a_copied_folder_gets_another_token(tmp_path: Path) -> None:
    import shutil

    state = State(tmp_path / "one")
    state.create()
    original = Auth(state)
    shutil.copytree(state.root, tmp_path / "two")
    copy = Auth(State(tmp_path / "two"))
    with pytest.raises(ApiError):
        original.verify(copy.token, "api")
    with pytest.raises(ApiError):
        copy.verify(original.token, "api")


def open_bits(path: Path) -> int:
    """Return what others may do with a file; nothing with one that went while the folders were walked."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o077
    except FileNotFoundError:
        return 0


def test_files_are_the_users_alone(new: Callable[[], Platform]) -> None:
    platform = new()
    platform.ended("sh", "-c", "echo x > $HOME/y")
    platform.api("POST", "secrets", {"key": "mode", "value": "eA==", **HOME})
    open_to_others = [
        path
        for path in [platform.state, *platform.state.rglob("*")]
        if not path.is_symlink()
        and path.name != "images.yaml"  # written by the test
        and not path.is_relative_to(platform.state / "home")
        and "root"
        not in path.relative_to(platform.state).parts[2:-1]  # a job's own, in a folder of the user's alone
        and open_bits(path)
    ]
    assert open_to_others == []
