"""Hostile requests at the local platform's own API, a full disk under it, and a clock that jumps."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from local_platform import client
from tests.local_platform.harness import HOME, QUERY, Platform, eventually, http

from .conftest import MakeFault
from .harness import fill, hostile_tokens

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("platform")]
URI = "storage://local/local/mlflow"
STORAGE = "storage/local/mlflow"
ROUTES = [
    *(("GET", path) for path in ("config", "jobs", "jobs/x", "secrets", "disks", "disks/x", "flow/projects")),
    *(("GET", path) for path in ("flow/projects/by_name?name=x", "flow/live_jobs", "monitoring/capacity")),
    *(("GET", path) for path in ("monitoring/x/log_ws", "monitoring/x/attach", "none", "../ping", "")),
    *(("POST", path) for path in ("jobs?from_preset", "secrets", "disks", "flow/projects", "browser_link")),
    *(("DELETE", path) for path in ("jobs/x", "secrets/x", "disks/x", f"{STORAGE}/x?op=DELETE")),
    *(("PUT", path) for path in ("jobs/x/max_run_time_minutes", "flow/live_jobs/replace")),
    *(("GET", f"{STORAGE}/x?op={name}") for name in ("OPEN", "LISTSTATUS", "GETFILESTATUS")),
    *(("PUT", f"{STORAGE}/x?op={name}") for name in ("CREATE", "MKDIRS")),
    ("POST", f"{STORAGE}/x?op=RENAME&destination=/local/mlflow/y"),
]
SHELL = [
    "$({0})",
    "`{0}`",
    "; {0}",
    "| {0}",
    "&& {0}",
    "\n{0}\n",
    "> {0}",
    "' ; {0} '",
    '" ; {0} "',
    "!$ {0} *",
]
WAYS_OUT = [
    *("..", "../..", "volume/../..", "%2e%2e", "volume%2f..%2f..", "%2e%2e%2f..", ".", "volume/.", "%00"),
    *("folder", "file", "token", "folder/kept", "volume/folder", "volume/file", "volume/token", "loop"),
    *("a" * 300, "a/" * 3000 + "a"),
]
"""Storage paths that lead out, and such as cannot be; `folder`, `file`, `token` and `loop` are links."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    made = Platform(tmp_path_factory.mktemp("platform"))
    yield made
    client.stop(made.state)


def submit(platform: Platform, **fields: Any) -> Any:
    """Ask for a job; the answer."""
    request = {"image": "python:3", "preset_name": "cpu-small", "command": "true", **HOME, **fields}
    return platform.api("POST", "jobs?from_preset", request)


def ended(platform: Platform, answer: Any) -> Any:
    """Wait for the end of a job that was asked for, and return it."""
    assert answer.status == 202, answer.body
    job = platform.until(answer.json["id"], "failed", "succeeded")
    assert "mistake" not in str(job)
    return job


def test_nobody_gets_in_without_the_token(platform: Platform, tmp_path: Path, fault: MakeFault) -> None:
    with fault("API: no token, forged tokens, another user's token") as row:
        for name, value in hostile_tokens(platform, tmp_path).items():
            for method, path in ROUTES:
                row.tried += 1
                data = b"{}" if method in ("POST", "PUT") else None
                answer = http(method, f"{platform.login.url}/{path}", data, {"Authorization": value})
                assert answer.status == 401, (name, method, path)
                assert set(answer.json) == {"error"}
        row.ended = "refused"


def test_storage_and_volumes_lead_nowhere_else(platform: Platform, tmp_path: Path, fault: MakeFault) -> None:
    storage, kept = platform.state / "storage", tmp_path / "kept"
    (storage / "volume").mkdir()
    kept.write_text("precious")
    links = {"folder": tmp_path, "file": kept, "token": platform.state / "token", "loop": Path("loop")}
    for link, where in links.items():
        (storage / link).symlink_to(where)
        (storage / "volume" / link).symlink_to(where)
    reads = ["GET OPEN", "GET LISTSTATUS", "GET GETFILESTATUS", "GET GETDISKUSAGE"]
    writes = ["PUT CREATE", "PATCH WRITE", "PUT MKDIRS", "POST RENAME", "DELETE DELETE"]
    with fault("API: storage paths and volumes with .., %2e, links and signs") as row:
        for way in WAYS_OUT:
            for operation in reads + writes:
                method, name = operation.split()
                for path in (way, f"{way}/evil", f"{way}/kept"):
                    if name in ("DELETE", "RENAME") and path.rpartition("/")[2] in links:
                        continue  # of the link itself
                    row.tried += 1
                    query = f"?op={name}&destination=/local/mlflow/volume"
                    body = b"evil" if method.startswith("P") else None
                    answer = platform.api(method, f"{STORAGE}/{path}{query}", body)
                    sensible = (name, answer.status) == ("MKDIRS", 201) and path.startswith("a")
                    assert sensible or 400 <= answer.status < 500, (operation, path)
                    assert b"mistake" not in answer.body, (operation, path)
            row.tried += 1
            moved = platform.api(
                "POST", f"{STORAGE}/volume?op=RENAME&destination=/local/mlflow/{quote(way)}/x"
            )
            assert moved.status >= 400, way
            for prefix in (f"{URI}/", "storage://local/local/", "storage://local/", "/", "file:///"):
                row.tried += 1
                volume = {"src_storage_uri": prefix + way, "dst_path": "/mnt/x", "read_only": False}
                command = "sh -c 'echo evil > /mnt/x/evil; cat /mnt/x/kept /mnt/x'"
                answer = submit(platform, command=command, volumes=[volume])
                if answer.status == 202:
                    assert ended(platform, answer)["status"] == "failed"
                    assert "precious" not in platform.log(answer.json["id"])
                else:
                    assert answer.status in (400, 403)
        for target in ("/", "/mnt/../../etc", "../x", "x", "/mnt/\0", "//", ""):
            row.tried += 1
            volume = {"src_storage_uri": f"{URI}/volume", "dst_path": target, "read_only": False}
            assert submit(platform, volumes=[volume]).status == 400
        assert (list(tmp_path.iterdir()), kept.read_text()) == ([kept], "precious")
        assert platform.api("GET", "jobs").status == 200
        row.ended = "nothing outside read or written"


def test_nothing_is_read_by_a_shell(platform: Platform, tmp_path: Path, fault: MakeFault) -> None:
    evil = tmp_path / "evil"
    with fault("API: names, images, commands and folders with shell characters") as row:
        for sign in row.pick(row.random.sample(SHELL, 3), SHELL):
            text = sign.format(f"touch {evil}")
            row.tried += 8
            told = {"env": {"A": text}, "tags": [text], "description": text, "working_dir": f"/{text}"}
            job = platform.ended("printf", "%s|", text, **told)
            assert (job["status"], platform.log(job["id"])) == ("succeeded", f"{text}|")
            failed = ended(platform, submit(platform, image=text))
            assert failed["history"]["reason"] == "ErrImagePull"
            for fields in ({"name": text}, {"preset_name": text}):
                assert submit(platform, **fields).status == 400
            for path in (f"secrets/{quote(text)}", f"disks/{quote(text)}", f"jobs/{quote(text)}"):
                assert platform.api("DELETE", f"{path}?{QUERY}").status in (400, 404)
        for name in (
            "a",
            "A-B",
            "a--b",
            "-ab",
            "abc\n",
            "a/b",
            "../ab",
            "a" * 41,
            "a.b",
            "abc\0",
            "é-ab",
            "ab\t",
        ):
            row.tried += 1
            assert submit(platform, name=name).status == 400, name
        for image in ("../../bin", "/bin/sh", "*", "[", "x" * 100_000, "nope:3\nX"):
            row.tried += 1
            assert ended(platform, submit(platform, image=image))["history"]["reason"] == "ErrImagePull"
        for way in (f"/none/..{tmp_path}/evil", f"../../..{tmp_path}/evil", f"/{tmp_path}/evil/../evil"):
            row.tried += 1
            assert submit(platform, working_dir=way).status == 400
        assert not evil.exists()
        row.ended = "taken as text, or refused"


def test_requests_without_sense(platform: Platform, fault: MakeFault) -> None:
    with fault("API: requests that are huge, deep or make no sense") as row:
        job = platform.run("sleep", "60")
        minutes = {"additional_max_run_time_minutes": 10**400}
        requests: list[tuple[str, str, object]] = [
            ("POST", "jobs?from_preset", b"[" * 2_000_000),
            ("POST", "jobs?from_preset", b"x" * 2**24),
            ("POST", "jobs?from_preset", b"{" * 2**25),
            ("POST", "jobs?from_preset", b"\xff\xfe{}"),
            ("POST", "secrets", {"key": "k" * 300, "value": "eA==", **HOME}),
            ("POST", "secrets", {"key": "k", "value": "é", **HOME}),
            ("POST", "disks", {"storage": 1, "name": "../x", **HOME}),
            ("PUT", f"jobs/{job}/max_run_time_minutes", minutes),
            ("GET", f"jobs?since={'9' * 5000}", None),
            ("GET", f"jobs/{'x' * 5000}", None),
            ("GET", f"jobs/{'x' * 50_000}", None),
        ]
        for method, path, data in requests:
            row.tried += 1
            answer = platform.api(method, path, data)
            assert 400 <= answer.status < 500, (method, path[:100])
            assert b"mistake" not in answer.body, (method, path[:100])
        for fields in (
            {"max_run_time_minutes": 10**400},
            {"env": {"A": "\ud800"}},
            {"env": {"": "x"}},
            {"env": {"A": "x" * 2**20}},
            {"command": "\ud800"},
            {"image": "\ud800"},
            {"command": "x" * 2**20},
            {"command": "x" * 100_000},
            {"working_dir": "/" + "x" * 5000},
        ):
            row.tried += 1
            answer = submit(platform, **fields)
            assert answer.status == 400 or ended(platform, answer)["status"] == "failed"
        assert platform.job(job)["status"] == "running"
        platform.api("DELETE", f"jobs/{job}")
        row.ended = "refused"


def test_slow_clients_keep_nobody_waiting(platform: Platform, fault: MakeFault) -> None:
    parts = urlsplit(platform.login.url)
    with fault("API: slow clients") as row, ExitStack() as stack:
        for _ in row.tries(full=1):
            text = f"POST {parts.path}/secrets HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            text += f"Authorization: Bearer {platform.login.token}\r\nContent-Length: 99\r\n\r\n{{"
            for number in range(row.pick(100, 400)):
                slow = stack.enter_context(closing(socket.create_connection(("127.0.0.1", parts.port or 0))))
                slow.sendall(text.encode()[: None if number % 2 else 30])
            assert platform.ended("true")["status"] == "succeeded"
            assert platform.api("GET", f"secrets?{QUERY}").json == []
        row.ended = "others are served"


def test_a_full_disk_under_the_platform(mount: Callable[..., Path], fault: MakeFault) -> None:
    folder = mount("size=48m,mode=700")  # for all that the jobs print
    platform = Platform(folder)
    try:
        with fault("disk full under the local platform, while jobs run") as row:
            for _ in row.tries(full=10):
                # Far more than fits into a pipe that nobody reads.
                script = "echo first; while test -e $F; do sleep 0.05; done; seq 50000; echo last; exit 7"
                filler = folder / "filler"
                filler.touch()
                flag = platform.state / "storage/run/busy"
                flag.parent.mkdir(exist_ok=True)
                flag.touch()
                volume = {"src_storage_uri": f"{URI}/run", "dst_path": "/mnt/run", "read_only": True}
                busy = platform.run("sh", "-c", script, env={"F": "/mnt/run/busy"}, volumes=[volume])
                other = platform.run("sh", "-c", "while :; do seq 9999; sleep 0.1; done", name="other")
                eventually(lambda busy=busy: "first" in platform.log(busy))  # type: ignore[misc]
                eventually(lambda other=other: len(platform.log(other)) > 50_000)  # type: ignore[misc]
                fill(folder)
                requests: list[tuple[str, str, object]] = [
                    (
                        "POST",
                        "jobs?from_preset",
                        {"image": "python:3", "preset_name": "cpu-small", "name": "third", **HOME},
                    ),
                    ("POST", "secrets", {"key": "k", "value": "eA==", **HOME}),
                    ("POST", "disks", {"storage": 1, "name": "full", **HOME}),
                    ("PUT", f"{STORAGE}/x?op=CREATE", b"x" * 10_000),
                ]
                for method, path, data in requests:
                    answer = platform.api(method, path, data)
                    assert answer.status == 400
                    assert "No space left on device" in answer.json["error"]
                assert platform.job(other)["status"] == "running"
                filler.unlink()
                flag.unlink()
                assert platform.until(busy, "failed", "succeeded")["history"]["exit_code"] == 7
                assert platform.log(busy).endswith("last\n")
                assert platform.ended("true", name="third")["status"] == "succeeded"
                platform.api("DELETE", f"jobs/{other}")
                platform.until(other, "cancelled")
                platform.kill()
                platform.restart()
                assert platform.job(busy)["history"]["exit_code"] == 7
            row.ended = "refused in one line, jobs ran on"
    finally:
        client.stop(platform.state)


def test_a_jump_of_the_clock_ends_no_job(
    new: Callable[[], Platform],
    clock: Path,
    tmp_path: Path,
    fault: MakeFault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offset = tmp_path / "offset"
    monkeypatch.setattr(client, "_PASSED_ON", (*client._PASSED_ON, "LD_PRELOAD", "CLOCK_OFFSET"))
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(clock))
        patch.setenv("CLOCK_OFFSET", str(offset))
        patch.setenv("LOCAL_PLATFORM_MINUTE", "1")
        platform = new()
    with fault("the clock jumps under the local platform") as row:
        for days in row.pick((30, -30), (30, -30, 400, -15_000)):
            row.tried += 1
            long = platform.run("sleep", "600", max_run_time_minutes=600)
            short = platform.run("sleep", "600", max_run_time_minutes=1)
            quick = platform.run("true")
            for job in (long, short):
                platform.until(job, "running")
            offset.write_text(str(days * 86_400))
            minutes = {"additional_max_run_time_minutes": 1}
            assert platform.api("PUT", f"jobs/{long}/max_run_time_minutes", minutes).status == 204
            assert platform.until(short, "cancelled")["history"]["reason"] == "LifeSpanEnded"
            platform.until(quick, "succeeded")
            assert platform.job(long)["status"] == "running"
            platform.api("DELETE", f"jobs/{long}")
            platform.until(long, "cancelled")
            offset.write_text("0")
        row.ended = "jobs live as long as they may"
