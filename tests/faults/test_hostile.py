"""Hostility at one server, a job of the local platform: by the platform's proxy, and directly."""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.in_job.harness import API, ARTIFACTS

from .conftest import MakeFault
from .harness import Address, hostile_tokens
from .served import MIB, Served, require_whole

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("served")]
WAYS_OUT = [
    *(
        "",
        "/",
        "//",
        "./",
        "../",
        "..//",
        "x/../../",
        "..;/",
        "%2e%2e/",
        ".%2e/",
        "%252e%252e/",
        "%25252e%25252e/",
    ),
    *("..%2f", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "..%255c", "%5c..%5c", "..\\", "x\\..\\..\\"),
    *("%2f", "%252f", "%c0%ae%c0%ae/", "%c0%ae%c0%ae%c0%af", "%uff0e%uff0e/", "%00/../", "..%00/", "%0a../"),
    *(
        "/mnt/mlflow/",
        "%2fmnt%2fmlflow%2f",
        "file:/mnt/mlflow/",
        "file:///mnt/mlflow/",
        "file:%2f%2f%2fmnt/mlflow/",
    ),
    *("C:/", "~/", "link/", "link/%2e/", "/proc/self/cwd/../../mnt/mlflow/"),
]
"""What is put before the name of a file that is beside the folder of artifacts; `link` is a link to there."""
SECRET = b"the volume's own"


def test_nothing_but_artifacts_is_an_artifact(served: Served, fault: MakeFault) -> None:
    volume = served.volume
    (volume / "backups").mkdir()
    (volume / "backups/mlflow-x.db").write_bytes(SECRET)
    (volume / "artifacts/link").symlink_to(volume)
    run = served.ask("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    body = {"name": "elsewhere", "artifact_location": "file:///mnt/mlflow"}
    status, answer = served.call("POST", f"{API}/experiments/create", body)
    assert (status, b"is no place for artifacts" in answer) == (400, True)
    elsewhere = "77"  # from before that was refused
    columns = "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
    served.store.write(f"{columns} VALUES (77, 'elsewhere', 'file:///mnt/mlflow', 'active')")
    outside = served.ask("POST", "/runs/create", {"experiment_id": elsewhere})["run"]["info"]["run_id"]
    names = ["mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "backups/mlflow-x.db", ".mlflow.db.keys"]
    marks = [".mlflow.db.unfinished", "../.mlflow.db.unfinished"]  # which would keep the next server out
    kept = {name: (volume / name).stat().st_ino for name in names}
    entries = sorted(path.name for path in volume.iterdir())
    ajax, two = "/ajax-api/2.0/mlflow", "/api/2.0/mlflow-artifacts"
    with fault("path traversal, and the database and backups as artifacts") as row:
        ways = WAYS_OUT if row.full else ["", "../", "%2e%2e/", "..%2f", *row.random.sample(WAYS_OUT, 3)]
        for address, headers in ((served.proxy, served.authorization), (served.direct, {})):
            for path in (
                way + name
                for name in row.pick([*names[::3], names[-1], marks[0]], [*names, *marks])
                for way in ways
            ):
                requests: list[tuple[str, str, object]] = [
                    ("GET", f"{ARTIFACTS}/{path}", None),
                    ("PUT", f"{ARTIFACTS}/{path}", b"evil"),
                    ("GET", f"/ajax-api/2.0/mlflow-artifacts/artifacts/{path}", None),
                    ("GET", f"{two}/artifacts?path={path}", None),
                    ("GET", f"{two}/presigned/{path}", None),
                    ("POST", f"{two}/mpu/create/{path}", {"path": path, "num_parts": 1}),
                    ("POST", f"{two}/mpu/complete/{path}", {"path": path, "upload_id": "1", "parts": []}),
                    *(
                        ("GET", f"/get-artifact?run_uuid={which}&path={path}", None)
                        for which in (run, outside)
                    ),
                    ("GET", f"{API}/artifacts/list?run_id={outside}&path={path}", None),
                    ("POST", f"{ajax}/upload-artifact?run_uuid={outside}&path={path}", b"evil"),
                    ("DELETE", f"{ARTIFACTS}/{path}", None),
                ]
                for method, target, data in requests:
                    row.tried += 1
                    status, answer = served.call(method, target, data, address, **headers)
                    assert status != 0
                    assert b"SQLite format" not in answer, (method, target)
                    assert SECRET not in answer, (method, target)
                    assert b"WEBHOOK_SECRET" not in answer, (method, target)
                assert {name: (volume / name).stat().st_ino for name in names} == kept, path
        assert (volume / "backups/mlflow-x.db").read_bytes() == SECRET
        assert {path.name for path in volume.iterdir()} - {outside} == set(entries)  # docs/limits.md#limits
        assert served.store.damage() == []
        assert served.ask("GET", f"/runs/get?run_id={run}")["run"]
        row.ended = "nothing read, replaced or deleted"


def test_foreign_names_and_origins(served: Served, fault: MakeFault) -> None:
    search, body = f"{API}/runs/search", {"experiment_ids": ["0"]}
    with fault("foreign Host and Origin") as row:
        for name in (
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xlocalhost",
            "evil",
            "",
        ):
            for host in (name, f"{name}:5000", f"{name}:{served.proxy[1]}"):
                row.tried += 2
                assert served.call("POST", search, body, Host=host)[0] in (400, 404)
                assert served.call("POST", search, body, served.direct, Host=host)[0] in (400, 403)
        for origin in (
            "https://evil.example",
            f"http://127.0.0.1.evil.example:{served.proxy[1]}",
            "null",
            "http://",
        ):
            row.tried += 2
            assert served.call("POST", search, body, Origin=origin)[0] == 403
            assert served.call("POST", search, body, served.direct, Origin=origin)[0] == 403
        own = f"http://127.0.0.1:{served.proxy[1]}"
        assert served.call("POST", search, body, Origin=own)[0] == 200
        row.ended = "refused"


def test_nobody_gets_in_without_the_token(served: Served, tmp_path: Path, fault: MakeFault) -> None:
    with fault("no token, wrong tokens, another user's token") as row:
        for name, value in hostile_tokens(served.platform, tmp_path).items():
            for headers in (
                {"Authorization": value},
                {"Cookie": f"local_platform_{served.proxy[1]}={value[7:]}"},
            ):
                for method, path in (
                    ("GET", "/"),
                    ("POST", f"{API}/runs/search"),
                    ("PUT", f"{ARTIFACTS}/evil"),
                ):
                    row.tried += 1
                    status, answer = served.call(method, path, b"{}", served.proxy, **headers)
                    assert status == 401, name
                    assert served.platform.login.token.encode() not in answer
        assert not (served.volume / "artifacts/evil").exists()
        row.ended = "refused"


def raw(address: Address, text: bytes) -> bytes:
    """Send bytes as they are, and return the beginning of the answer, empty where there is none."""
    with closing(socket.create_connection(address, timeout=60)) as connection, suppress(OSError):
        connection.sendall(text)
        return connection.recv(65536)
    return b""


def test_oversized_and_malformed_requests(served: Served, fault: MakeFault) -> None:
    bearer = served.authorization["Authorization"].encode()
    get, post = b"GET /version HTTP/1.1\r\n", f"POST {API}/runs/search HTTP/1.1\r\n".encode()
    long = b"a" * 4 * MIB
    with fault("oversized and malformed headers") as row, served.memory() as memory:
        for address in (served.proxy, served.direct):
            head = f"Host: {address[0]}:{address[1]}\r\nAuthorization: ".encode() + bearer + b"\r\n"
            for text in (
                get + head + b"X: " + long + b"\r\n\r\n",
                get + head + b"X: y\r\n" * 500_000 + b"\r\n",
                b"GET /" + long + b" HTTP/1.1\r\n" + head + b"\r\n",
                long,
                bytes(range(256)) * 100,
                post + head + b"Content-Length: -1\r\n\r\n{}",
                post + head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
                post + head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffff\r\n{}",
                post + head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                get + head + b"Host: evil.example\r\n\r\n",
                get + b"\r\n",
            ):
                row.tried += 1
                answer = raw(address, text)
                assert not answer or 400 <= int(answer.split()[1]) < 500, (address, text[:200])
        assert served.call("GET", "/version")[0] == 200
        row.ended = f"refused, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 100 * MIB

    with fault("oversized bodies") as row, served.memory() as memory:
        for _ in row.tries(full=1):
            size = row.pick(32, 128) * MIB
            body = b'{"experiment_ids": ["0"], "filter": "' + b"x" * size + b'"}'
            status, _ = served.call("POST", f"{API}/runs/search", body)
            assert status >= 400
            for target in (f"POST {API}/runs/search", f"PUT {ARTIFACTS}/0/declared"):
                start = f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**50}\r\n\r\n{{"
                with closing(socket.create_connection(served.direct)) as declared:
                    declared.sendall(start.encode())
                    assert served.call("GET", f"{API}/experiments/search?max_results=1")[0] == 200
                    if target.startswith("POST"):
                        row.tried += 1
                        assert declared.recv(65536).startswith(b"HTTP/1.1 413 ")
            assert not list((served.volume / "artifacts").rglob("declared"))
        row.ended = f"refused, memory +{memory.growth // MIB} MiB for {size // MIB} MiB"
    assert memory.growth < 12 * size


def chunks(size: int) -> bytes:
    """A chunked body, in pieces of a MiB."""
    return (b"%x\r\n%s\r\n" % (MIB, bytes(MIB))) * (size // MIB) + b"0\r\n\r\n"


def sent(address: Address, head: str, body: bytes) -> bytes:
    """Send a request for as long as it is read, and return all of the answer."""
    start = f"{head}\r\nHost: localhost:{address[1]}\r\nConnection: close\r\n"
    start += "X-MLflow-Experiment-Id: 0\r\nContent-Type: application/x-protobuf\r\n"  # as traces have them
    found = b""
    with closing(socket.create_connection(address, timeout=120)) as connection:
        with suppress(ConnectionError):
            connection.sendall(start.encode() + body)
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                found += data
    return found


def test_larger_bodies_are_refused_unless_they_are_artifacts(served: Served, fault: MakeFault) -> None:
    over, chunked = 101 * MIB, b"Transfer-Encoding: chunked\r\n\r\n"
    with fault("bodies over the limit: declared, chunked, traces, uploads") as row, served.memory() as memory:
        for path in (
            f"{API}/runs/search",
            f"{API}/nothing",
            "/v1/traces",
            "/ajax-api/2.0/mlflow/graphql",
            "/",
        ):
            for body in (f"Content-Length: {over}\r\n\r\n".encode() + bytes(over), chunked + chunks(over)):
                row.tried += 1
                answer = sent(served.direct, f"POST {path} HTTP/1.1", body)
                assert answer.startswith(b"HTTP/1.1 413 "), (path, answer[:200])
                assert b"MLFLOW_ACTION_MAX_BODY" in answer
        assert served.call("GET", f"{API}/experiments/search?max_results=1")[0] == 200
        for number, body in enumerate(
            (f"Content-Length: {over}\r\n\r\n".encode() + bytes(over), chunked + chunks(over))
        ):
            row.tried += 1
            answer = sent(served.direct, f"PUT {ARTIFACTS}/0/over{number} HTTP/1.1", body)
            assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
            assert (served.volume / f"artifacts/0/over{number}").stat().st_size == over
            assert served.call("DELETE", f"{ARTIFACTS}/0/over{number}")[0] == 200
        row.ended = f"413, artifacts are kept, memory +{memory.growth // MIB} MiB"
    assert memory.growth < 3 * over


def test_places_outside_of_the_artifacts(served: Served, fault: MakeFault) -> None:
    outside = served.volume / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = served.volume / "artifacts/0/links"
    folder.mkdir(parents=True)
    (folder / "out").symlink_to(outside)
    with fault("artifact_location elsewhere in the job, and DELETE through a link") as row:
        for number, place in enumerate(
            ("/etc", "file:///mnt/mlflow/outside", "../outside", "FILE:/tmp", "/proc/1")
        ):
            for address, headers in ((served.proxy, served.authorization), (served.direct, {})):
                row.tried += 1
                body = {"name": f"place {number}", "artifact_location": place}
                status, answer = served.call("POST", f"{API}/experiments/create", body, address, **headers)
                assert (status, b"is no place for artifacts" in answer) == (400, True), place
        for way in ("out/kept", "out", "out/", "x/../out/kept", "out/%2e/kept"):
            row.tried += 1
            assert served.call("DELETE", f"{ARTIFACTS}/0/links/{way}")[0] >= 400, way
            assert (outside / "kept").read_text() == "kept", way
        row.ended = "refused"
    (folder / "out").unlink()


def test_after_all_that_the_store_is_whole(served: Served, fault: MakeFault) -> None:
    require_whole(served, fault, "hostility")
