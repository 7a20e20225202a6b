"""Sends the same requests to MLflow's app and to the road before it; prints the answers that differ, as JSON.

Arguments: the database, a static prefix or "", and which of the app's routes are asked: 4 for every fourth.
Both apps are served by uvicorn, in this process, on one store.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import sys
import threading
import time
from typing import Any

database, prefix, every = sys.argv[1:]
os.environ.update(
    {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*,own.example,*.own.example",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://own.example,https://*.own.example",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
)
if prefix:
    os.environ["_MLFLOW_STATIC_PREFIX"] = prefix

import uvicorn  # noqa: E402, I001 - MLflow checks host names only where it finds a web server imported
import mlflow.server.fastapi_app as module  # noqa: E402

from in_job.serving import road  # noqa: E402

taken: list[str] = []
plain, flask = module.app, module.flask_app
road.take_road(["mlflow.server.fastapi_app:app"], 4)
assert module.app is not plain
begin = module.app._begin


def note(scope: dict[str, Any], body: bytes) -> Any:
    taken.append(scope["path"])
    return begin(scope, body)


module.app._begin = note


def serve(app: object) -> int:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])


ports = [serve(plain), serve(module.app)]


def ask(port: int, request: bytes) -> list[object]:
    """Return an answer: status line, headers, body; times and what is made up for each are left out."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request.replace(b"PORT", str(port).encode()))
        found = b""
        try:
            while data := connection.recv(65536):
                found += data
        except TimeoutError:
            raise SystemExit(f"no answer to {request[:200]!r} but {found[:200]!r}") from None
    head, _, body = found.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    head = head.replace(str(port).encode(), b"PORT")
    lines = head.decode("latin-1").split("\r\n")
    lines = [line for line in lines if not line.startswith(("date:", "x-mlflow-gateway-duration"))]
    text = re.sub(r"[0-9a-f]{32}|\b1[0-9]{12}\b|\b[a-z]+-[a-z]+-[0-9]+\b", "…", body.decode("latin-1"))
    text = text.replace(str(port), "PORT")
    text = re.sub('"experiment_id": "[12]"', '"experiment_id": "…"', text)  # each road makes one
    if "…" in text:  # a made-up name may be longer or shorter
        lines = [re.sub("(?<=content-length: ).*", "…", line) for line in lines]
    return [lines[0], sorted(lines[1:]), text]


def request(method: str, path: str, body: bytes | None = None, /, **headers: Any) -> bytes:
    """Return a request as it goes over the wire; a header that is None is left out."""
    lines: dict[str, Any] = {
        "Host": "127.0.0.1:PORT",
        "Connection": "close",
        "Content-Type": "application/json",
    }
    if body is not None:
        lines["Content-Length"] = str(len(body))
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def chunked(path: str, body: bytes) -> bytes:
    start = request("POST", path, None, Transfer_Encoding="chunked")
    return start + b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (3, body[:3], len(body) - 3, body[3:])


def requests() -> list[bytes]:
    """Return the requests: to each of the app's routes by right and wrong methods, then what clients send."""
    found = []
    api, ajax = f"{prefix}/api/2.0/mlflow", f"{prefix}/ajax-api/2.0/mlflow"
    for rule in sorted(flask.url_map.iter_rules(), key=str)[:: int(every)]:
        path = re.sub("<[^>]*>", "1", str(rule))
        if (
            "/mlflow/" in path and "supported" not in path and "telemetry" not in path
        ):  # they ask the internet
            methods = sorted(rule.methods - {"HEAD", "OPTIONS"})
            found += [request(method, path, None if method == "GET" else b"{}") for method in methods]
            found.append(request({"GET": "DELETE", "POST": "GET"}.get(methods[0], "POST"), path, b""))
    search, create = f"{api}/runs/search", f"{api}/experiments/create"
    body = b'{"experiment_ids": ["0"], "max_results": 2}'
    for path in (search, f"{ajax}/experiments/search?max_results=1", f"{api}/nothing"):
        for method in (
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "TRACE",
            "PROPFIND",
            "get",
        ):
            found.append(request(method, path))
            for origin in ("https://own.example", "https://evil.example", "null"):
                found.append(request(method, path, body, Origin=origin))
            asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "x-y"}
            found.append(request(method, path, Origin="https://own.example", **asked))
            found.append(request(method, path, Origin="https://evil.example", **asked))
            found.append(request(method, path, body, Host="evil.example"))
    for host in ("own.example", "a.own.example", "own.example:1", "xown.example", "", "[::1]", "évil", None):
        found.append(request("GET", f"{api}/experiments/search?max_results=1", Host=host))
    for bad in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"experiment_ids": 5}',
        b'{"a": NaN}',
        b"{}" * 9,
    ):
        found += [request("POST", path, bad) for path in (search, create, f"{api}/runs/log-batch")]
        found += [request("POST", search, bad, Content_Type="text/plain"), chunked(search, b"   " + bad)]
    for more in (
        {"Accept_Encoding": "gzip, br"},
        {"Content_Encoding": "gzip"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Expect": "100-continue"},
        {"X_MLFLOW_WORKSPACE": "default"},
        {"X_MLFLOW_WORKSPACE": ""},
        {"X_Forwarded_For": "1.2.3.4", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example"},
        {"Cookie": "a=b; c"},
        {"Authorization": "Basic Zm9vOmJhcg=="},
        {"User_Agent": "mlflow-python-client/3.17.2"},
        {"Range": "bytes=0-3"},
        {"If_None_Match": "*"},
        {"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec_WebSocket_Key": "x"},
        {"Content_Length": "3"},
        {"X": "é"},
    ):
        found.append(request("POST", search, body, **more))
    found.append(request("POST", search, gzip.compress(body), Content_Encoding="gzip"))
    found.append(request("POST", search, body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    for odd in (
        *(
            "/",
            "//",
            "/%2e%2e/x",
            "/runs//search",
            "/runs/search/",
            "/runs/search%20",
            "/runs/%73earch",
            "/%00",
        ),
        *("/é", "/runs/get?run_id=%ff&run_id=1", "/runs/get?", "/runs/get?run_id=" + "x" * 3000, "/graphql"),
        *("/traces/search", "/assistant", "/runs/search#x", "/../mlflow/runs/search", "/server-info"),
        *("/experiments/get?experiment_id=0", "/get-trace-artifact?request_id=1"),
        "/metrics/get-history-bulk-interval?run_ids=x&metric_key=y&max_results=5",
    ):
        for start in (api, f"{prefix}/ajax-api/3.0/mlflow"):
            found += [request("GET", start + odd), request("POST", start + odd, body)]
    for outside in (
        "/",
        "/health",
        "/version",
        "/get-artifact",
        "/static-files/x",
        "/gateway/x",
        "/graphql",
        "/v1/traces",
    ):
        found += [request("GET", prefix + outside), request("POST", prefix + outside, b"{}")]
        found.append(request("GET", prefix + outside, Host="evil.example"))
    return found


def life_of_a_run() -> list[bytes]:
    """Return what a client sends that changes the store; each road has names of its own, with its port."""
    api, found = f"{prefix}/api/2.0/mlflow", []
    for path, body in (
        ("experiments/create", {"name": "both-PORT", "tags": [{"key": "a", "value": "é"}]}),
        ("experiments/create", {"name": "both-PORT"}),
        ("runs/create", {"experiment_id": "0", "start_time": 1, "run_name": "a run", "user_id": "me"}),
        ("runs/create", {"experiment_id": "99"}),
        (
            "runs/search",
            {"experiment_ids": ["0"], "max_results": 1, "order_by": ["attributes.start_time DESC"]},
        ),
        ("runs/log-metric", {"run_id": "0" * 32, "key": "loss", "value": 1, "timestamp": 1}),
        (
            "runs/log-batch",
            {"run_id": "0" * 32, "metrics": [{"key": "a", "value": 1, "timestamp": 1, "step": 0}]},
        ),
        ("registered-models/create", {"name": "model-PORT"}),
        ("registered-models/create", {"name": "model-PORT"}),
        ("model-versions/create", {"name": "model-PORT", "source": "mlflow-artifacts:/0/x"}),
    ):
        found.append(request("POST", f"{api}/{path}", json.dumps(body).encode().replace(b"PORT", b"%PORT%")))
    return [raw.replace(b"%PORT%", b"PORT.") for raw in found]


different, good = [], 0
table = requests() + life_of_a_run()
for raw in table:
    one, other = ask(ports[0], raw), ask(ports[1], raw)
    good += " 200 " in str(one[0])
    if one != other:
        different.append([raw[:300].decode("latin-1"), one, other])
print(json.dumps({"asked": len(table), "taken": len(taken), "good": good, "different": different}))
