"""The storage service on plain files."""

from __future__ import annotations

import json

import pytest

from tests.local_platform.harness import Platform, http

ROOT = "storage/local/mlflow"


def test_a_file_is_written_in_pieces_and_read_in_ranges(shared: Platform) -> None:
    assert shared.api("PUT", f"{ROOT}/pieces/a?op=MKDIRS").status == 201
    file = f"{ROOT}/pieces/a/%C3%A9%20file"
    assert shared.api("PUT", f"{file}?op=CREATE", b"hello ").status == 201
    headers = {"Authorization": f"Bearer {shared.login.token}"}
    url = f"{shared.login.url}/{file}"
    answer = http("PATCH", f"{url}?op=WRITE", b"world", {**headers, "Content-Range": "bytes 6-10/*"})
    assert answer.status == 200
    assert (shared.state / "storage/pieces/a/é file").read_bytes() == b"hello world"
    assert shared.api("GET", f"{file}?op=OPEN").body == b"hello world"
    part = http("GET", f"{url}?op=OPEN", None, {**headers, "Range": "bytes=6-"})
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, b"world", "bytes 6-10/11")
    part = http("GET", f"{url}?op=OPEN", None, {**headers, "Range": "bytes=2-3"})
    assert (part.status, part.body) == (206, b"ll")
    assert http("GET", f"{url}?op=OPEN", None, {**headers, "Range": "bytes=11-"}).status == 416
    status = shared.api("GET", f"{file}?op=GETFILESTATUS").json["FileStatus"]
    assert (status["path"], status["type"], status["length"]) == ("/local/mlflow/pieces/a/é file", "FILE", 11)
    lines = shared.api("GET", f"{ROOT}/pieces/a?op=LISTSTATUS").body.splitlines()
    assert [json.loads(line)["FileStatus"]["path"] for line in lines] == ["é file"]


def test_files_are_renamed_and_deleted(shared: Platform) -> None:
    storage = shared.state / "storage"
    (storage / "old").mkdir()
    (storage / "old/x").write_text("x")
    assert shared.api("POST", f"{ROOT}/old?op=RENAME&destination=/local/mlflow/new%25").status == 204
    assert (storage / "new%/x").read_text() == "x"
    answer = shared.api("DELETE", f"{ROOT}/new%25?op=DELETE&recursive=false")
    assert (answer.status, answer.json["errno"]) == (400, "EISDIR")
    assert shared.api("DELETE", f"{ROOT}/new%25?op=DELETE").status == 204
    assert shared.api("DELETE", f"{ROOT}/new%25?op=DELETE").status == 404
    assert shared.api("DELETE", f"{ROOT}?op=DELETE").status == 400
    assert storage.is_dir()


@pytest.mark.parametrize(
    "path",
    [
        "storage/local/mlflow/../../../token",
        "storage/local/mlflow/%2e%2e/%2e%2e/token",
        "storage/local/mlflow/x%2F..%2F..%2F..%2Ftoken",
        "storage/local/mlflow/./x",
        "storage/local/third/x",
        "storage/third/mlflow/x",
        "storage/local",
        "storage/local/mlflow/%00",
    ],
)
@pytest.mark.parametrize(
    "operation", [("GET", "OPEN"), ("PUT", "CREATE"), ("PUT", "MKDIRS"), ("DELETE", "DELETE")]
)
def test_nothing_is_reached_outside_of_the_project(
    shared: Platform, path: str, operation: tuple[str, str]
) -> None:
    method, name = operation
    before = shared.login.token
    # http.client sends the path as it is, which other clients tidy first.
    answer = shared.api(method, f"{path}?op={name}", b"x" if method == "PUT" else None)
    assert answer.status in (400, 403)
    assert shared.login.token == before
    destination = path.removeprefix("storage")
    assert shared.api("POST", f"{ROOT}/a?op=RENAME&destination={destination}").status in (400, 403)


def test_a_link_that_leads_out_is_refused(shared: Platform) -> None:
    (shared.state / "storage/out").symlink_to(shared.state)
    assert shared.api("GET", f"{ROOT}/out/token?op=OPEN").status == 403
    assert shared.api("PUT", f"{ROOT}/out/x?op=CREATE", b"x").status == 403
    assert shared.api("DELETE", f"{ROOT}/out?op=DELETE").status == 204
    assert (shared.state / "token").exists()


def test_errors_say_what_and_why(shared: Platform) -> None:
    answer = shared.api("GET", f"{ROOT}/none?op=OPEN")
    assert (answer.status, answer.json["errno"]) == (404, "ENOENT")
    assert "none" in answer.json["error"]
    assert "CONCAT" in shared.api("POST", f"{ROOT}/none?op=CONCAT").json["error"]
    assert shared.api("PATCH", f"{ROOT}/none?op=WRITE", b"x").status == 400
