"""Load on a tracking server, from a process of its own: reads a job as JSON, prints what came back as JSON.

The job: `port`, `operation`, `clients`, `seconds` to measure, `warm_up` seconds before, and for `predict`, of
a model's server, the `body`. Each client has one connection and sends its next request when the last one is
answered; what a server closes is made anew.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import Any

API = "/api/2.0/mlflow"
LIMIT = 60.0
"""Seconds that a request may take."""


def body_of(operation: str, run: str, number: int) -> tuple[str, dict[str, Any]]:
    """Return the path and body of a client's request `number`."""
    now = int(time.time() * 1000)
    if operation == "log-batch":
        metrics = [{"key": f"m{i}", "value": i / 7, "timestamp": now, "step": number} for i in range(10)]
        return f"{API}/runs/log-batch", {"run_id": run, "metrics": metrics}
    if operation == "log-metric":
        return f"{API}/runs/log-metric", {
            "run_id": run,
            "key": "loss",
            "value": 0.5,
            "timestamp": now,
            "step": number,
        }
    if operation == "create-run":
        return f"{API}/runs/create", {"experiment_id": "0", "start_time": now, "run_name": f"run-{number}"}
    if operation == "search-runs":
        order = ["attributes.start_time DESC"]
        return f"{API}/runs/search", {"experiment_ids": ["1"], "max_results": 100, "order_by": order}
    raise ValueError(f"no operation {operation}")


def kind_of(status: int, text: str) -> str:
    """Return the kind of error that an answer is, as few words, "" for none."""
    if status == 200:
        return ""
    for sign, kind in (
        ("QueuePool", "connection pool exhausted"),
        ("database is locked", "database locked"),
        ("too many clients", "database connections exhausted"),
        ("remaining connection slots", "database connections exhausted"),
    ):
        if sign in text:
            return f"{status} {kind}"
    return f"{status} {' '.join(re.sub('<[^>]*>', ' ', text).split())[:60]}"


class Client:
    """A connection that is made when it is needed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: object) -> tuple[int, str]:
        """Send a request, again where the server has closed the connection; return status and text."""
        fresh = self.streams is None
        try:
            return await self._post(path, body)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            if fresh:
                raise
            return await self._post(path, body)

    async def _post(self, path: str, body: object) -> tuple[int, str]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        reader, writer = self.streams
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        text = b""
        if "content-length" in headers:
            text = await reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), text.decode("utf-8", "replace")

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


async def new_run(client: Client) -> str:
    """Create a run and return its id."""
    status, text = await client.post(f"{API}/runs/create", {"experiment_id": "0", "start_time": 1})
    if status != 200:
        raise RuntimeError(f"no run could be made: {status} {text[:300]}")
    return str(json.loads(text)["run"]["info"]["run_id"])


async def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run the load and return `ok` (answers per second), `latencies` (s) and `errors` (kind: number)."""
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    clients = [Client(job["port"]) for _ in range(job["clients"])]
    predicting = job["operation"] == "predict"
    runs = [""] * len(clients) if predicting else [await new_run(client) for client in clients]
    begin = time.monotonic() + job["warm_up"]
    end = begin + job["seconds"]
    last = begin

    async def work(client: Client, run: str) -> None:
        nonlocal last
        number = 0
        while (sent := time.monotonic()) < end:
            path, body = (
                ("/invocations", job["body"]) if predicting else body_of(job["operation"], run, number)
            )
            try:
                kind = kind_of(*await asyncio.wait_for(client.post(path, body), LIMIT))
            except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                client.close()
                kind = f"no answer: {type(error).__name__}"
                await asyncio.sleep(0.05)
            now = time.monotonic()
            if kind:
                errors[kind] += 1
            elif now >= begin:
                latencies.append(now - sent)
                last = now
            number += 1

    await asyncio.gather(*(work(client, run) for client, run in zip(clients, runs, strict=True)))
    for client in clients:
        client.close()
    return {
        "ok": len(latencies) / (last - begin) if latencies else 0.0,
        "latencies": latencies,
        "errors": dict(errors),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.load(sys.stdin)))))
