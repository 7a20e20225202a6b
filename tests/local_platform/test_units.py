"""Rewriting of paths and addresses, image mappings, requests: what needs no platform."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from local_platform import images, network, rewriting
from local_platform.jobs import check
from local_platform.names import PROJECTS, ApiError, uri_path
from tests.local_platform.harness import HOME

MAPPING = {"/mnt/x": "/host/one", "/mnt/x/deep": "/host/two", "/data": "/host a/three"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("/mnt/x", "/host/one", id="the path alone"),
        pytest.param("/mnt/x/file", "/host/one/file", id="below it"),
        pytest.param("/mnt/x/deep/file", "/host/two/file", id="the longest wins"),
        pytest.param("/mnt/x-old /mnt/xy /mnt/x.db", "/mnt/x-old /mnt/xy /mnt/x.db", id="other names"),
        pytest.param("/a/mnt/x a/mnt/x", "/a/mnt/x a/mnt/x", id="inside another path"),
        pytest.param("sqlite:////mnt/x/m.db", "sqlite:////host/one/m.db", id="a database URI"),
        pytest.param("file:///data/y", "file:///host a/three/y", id="a file URI"),
        pytest.param("s3://bucket/data/y", "s3://bucket/data/y", id="a bucket's path"),
        pytest.param("--a=/data:/mnt/x,'/data'", "--a=/host a/three:/host/one,'/host a/three'", id="lists"),
        pytest.param('{"p": "/data"}', '{"p": "/host a/three"}', id="JSON"),
    ],
)
def test_container_paths_become_host_paths(text: str, wanted: str) -> None:
    assert rewriting.paths(text, MAPPING) == wanted
    assert rewriting.paths(text, {}) == text


def test_addresses_are_replaced_as_a_whole() -> None:
    moved = [("web--1.jobs:80", "127.0.0.1:4000")]
    text = "http://web--1.jobs:80/a web--1.jobs:8080 my-web--1.jobs:80 http://u:p@web--1.jobs:80"
    wanted = "http://127.0.0.1:4000/a web--1.jobs:8080 my-web--1.jobs:80 http://u:p@127.0.0.1:4000"
    assert rewriting.addresses(text, moved) == wanted


def test_images_are_found_and_the_users_go_first(tmp_path: Path) -> None:
    mlflow, own = tmp_path / "mlflow", tmp_path / "own"
    mlflow.mkdir()
    own.mkdir()
    custom = tmp_path / "images.yaml"
    assert images.find("ghcr.io/mlflow/mlflow:v3", custom, mlflow) == images.Image(mlflow)
    assert images.find("ghcr.io/neuro-inc/mlflow", custom, mlflow).entrypoint == ["mlflow"]
    custom.write_text("'python:*': {bin: own, entrypoint: 'a \"b c\"', env: {X: 1}}\n")
    assert images.find("python:3.12-slim", custom, mlflow) == images.Image(own, ["a", "b c"], {"X": "1"})
    with pytest.raises(images.ImageError, match=r"'nope:1'.*there are: ghcr.io/.*python:\*"):
        images.find("nope:1", custom, mlflow)
    with pytest.raises(images.ImageError, match="MLflow is not installed"):
        images.find("ghcr.io/mlflow/mlflow:v3", custom, tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected"),
        ("a: [", "cannot be read"),
        ("a: {}", "'a' needs `bin"),
        ("a: {bin: /bin, cmd: x}", "'cmd'"),
        ("a: {bin: /bin, env: x}", "env"),
        ('a: {bin: /bin, entrypoint: "\'"}', "entrypoint"),
        ("a: {bin: none}", "no folder"),
    ],
)
def test_mistakes_in_the_users_images_are_named(tmp_path: Path, text: str, message: str) -> None:
    custom = tmp_path / "images.yaml"
    custom.write_text(text)
    with pytest.raises(images.ImageError, match=message):
        images.find("a", custom, tmp_path) if "none" not in text else images.find(
            "a", _alias(custom), tmp_path
        )


def _alias(custom: Path) -> Path:
    custom.write_text(custom.read_text().replace("a:", "'a:*':", 1))
    return custom


def _volume(**changes: Any) -> dict[str, Any]:
    return {"src_storage_uri": "storage://local/local/mlflow/x", "dst_path": "/x", **changes}


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"image": ""}, 400, "image"),
        ({"image": 1}, 400, "image"),
        ({"name": "Bad_Name"}, 400, "Bad_Name"),
        ({"preset_name": "gpu-huge"}, 400, "cpu-small"),
        ({"command": "it's"}, 400, "command"),
        ({"env": {"A": 1}}, 400, "env"),
        ({"env": ["A"]}, 400, "env"),
        ({"env": {"A": "\0"}}, 400, "env"),
        ({"tags": ["x"] * 17}, 400, "tags"),
        ({"restart_policy": "often"}, 400, "on-failure"),
        ({"name": "job-mlflow"}, 400, "begins with job-"),
        ({"max_run_time_minutes": -1}, 400, "max_run_time_minutes"),
        ({"max_run_time_minutes": 0}, 400, "max_run_time_minutes"),
        ({"project_name": None}, 400, "'project_name': DataError"),
        ({"project_name": "third"}, 403, "none of your projects"),
        ({"http": {"port": 99999}}, 400, "http.port"),
        ({"tty": "yes"}, 400, "tty"),
        ({"resources": [1]}, 400, "resources"),
        ({"priority": "urgent"}, 400, "priority"),
        ({"volumes": [_volume(src_storage_uri="storage://local/local/mlflow/../x")]}, 400, "'..'"),
        ({"volumes": [_volume(src_storage_uri="storage://local/local/mlflow/%2e%2e/x")]}, 400, "'..'"),
        ({"volumes": [_volume(src_storage_uri="storage://other/local/mlflow/x")]}, 403, "cluster"),
        ({"volumes": [_volume(src_storage_uri="storage://local/local/third/x")]}, 403, "outside"),
        ({"volumes": [_volume(src_storage_uri="/etc")]}, 400, "storage URI"),
        ({"volumes": [_volume(dst_path="x")]}, 400, "dst_path"),
        ({"volumes": [_volume(dst_path="/a/../x")]}, 400, "dst_path"),
        ({"volumes": [_volume(dst_path="/")]}, 400, "dst_path"),
        ({"volumes": [_volume(), _volume(dst_path="/x/")]}, 400, "twice"),
        ({"volumes": [1]}, 400, "volumes"),
        ({"secret_env": {"A": "secret://local/local/mlflow"}}, 400, "no secret"),
        ({"secret_env": {"A": "secret://local/third/mlflow/x"}}, 403, "outside"),
        (
            {"disk_volumes": [{"src_disk_uri": "disk://local/local/mlflow/a/b", "dst_path": "/d"}]},
            400,
            "no disk",
        ),
    ],
)
def test_requests_for_jobs_are_checked(changes: dict[str, Any], status: int, message: str) -> None:
    request = {"image": "python", "preset_name": "cpu-small", **HOME, **changes}
    with pytest.raises(ApiError, match=message) as raised:
        check(request)
    assert raised.value.status == status


def test_uris_lead_into_the_project() -> None:
    assert uri_path("storage://local/second/mlflow/a%20b//c/", "storage") == (PROJECTS[2], ["a b", "c"])


def test_a_port_that_is_taken_is_not_used() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert network.usable_port("127.0.0.1", port) != port
        with network.listen("127.0.0.1", port) as other:
            assert other.getsockname()[1] != port
    assert network.usable_port("127.0.0.1", port) == port


def test_the_hosts_file_keeps_its_inode(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    network.write_hosts(hosts, {"127.64.0.1": ["a.jobs", "b.jobs"]})
    inode = hosts.stat().st_ino
    assert "127.64.0.1\ta.jobs b.jobs\n" in hosts.read_text()
    network.write_hosts(hosts, {})
    assert "a.jobs" not in hosts.read_text()
    assert hosts.stat().st_ino == inode
