"""What the benchmark makes of its samples, and how it takes an answer apart."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

import cells
import figures
import load
import models
import report

ROOT = Path(__file__).parents[2]


def results(*samples: dict[str, Any]) -> figures.Results:
    machine = {"processors": 2, "model": "x", "memory_gb": 8, "system": "s", "python": "3", "postgresql": []}
    versions = {"toolkit": "3.17.2", "older": "3.1.4"}
    about = {"rounds": 3, "runs": 10, "seconds": 1, "minutes": 2.0}
    return {"version": "1.1.0", "machine": machine, "versions": versions, **about, "samples": list(samples)}


def start(contender: str, *values: float) -> dict[str, Any]:
    of = {"contender": contender, "existing": True, "store": "SQLite"}
    return {"metric": "start", **of, "values": list(values)}


@pytest.mark.parametrize(
    ("toolkit", "plain", "measured", "met"),
    [
        pytest.param([1, 2, 30], [10, 10, 10], "0.20 (0.10 to 3.00)", True, id="the-median-decides"),
        pytest.param([6.1], [10], "0.61", False, id="missed"),
        pytest.param([6], [10], "0.60", True, id="just-met"),
    ],
)
def test_a_target_is_judged_by_the_ratio_of_each_round(
    toolkit: list[float], plain: list[float], measured: str, met: bool
) -> None:
    [row] = report.targets(results(start("toolkit", *toolkit), start("plain", *plain)))
    assert row == ("start, existing store, SQLite, against plain", "≤ 0.6", measured, met)


def test_throughput_is_the_median_of_operations_and_loads() -> None:
    samples = [
        {"metric": "throughput", "contender": contender, "store": "SQLite", "operation": "log-batch",
         "clients": clients, "slow": True, "values": [value]}
        for contender, factor in (("toolkit", 1), ("plain", 2))
        for clients, value in ((1, 30.0 * factor), (16, 10.0), (64, 40.0 / factor))
    ]  # fmt: skip
    assert sorted(report.throughput_ratios(results(*samples), slow=True)) == [0.5, 1.0, 2.0]
    assert report.throughput_ratios(results(*samples), slow=False) == []


def test_every_cell_is_judged_against_the_older_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"store": "SQLite", "operation": "log-batch", "slow": False}
    samples = [
        {**of, "metric": metric, "contender": contender, "clients": clients, "values": [value]}
        for clients, metric, toolkit in (
            (1, "throughput", 2), (1, "p99", 0.5), (16, "throughput", 3), (16, "p99", 1.5),
        )
        for contender, value in (("toolkit", toolkit), ("older", 1))
    ]  # fmt: skip
    monkeypatch.setitem(cells.REASONS, "log-batch, SQLite", "the disk")
    page = report.page(results(start("toolkit", 1), *samples))
    assert "| throughput against 3.1.4, in every cell | ≥ 1.0 | 2 of 2 cells | met |" in page
    assert "| p99 against 3.1.4, in every cell | ≤ 1.0 | 1 of 2 cells | **missed** |" in page
    assert "| throughput against 3.1.4, median cell | ≥ 1.3 | 2.50 (2.00 to 3.00) | met |" in page
    assert "| SQLite | log-batch | 1 | 2.00 | 0.50 | met |" in page
    assert "| SQLite | log-batch | 16 | 3.00 | 1.50 | **missed** |" in page
    assert "- log-batch, SQLite: the disk\n" in page
    older = {**results(start("toolkit", 1), *samples), "version": "1.0.0"}  # before it was looked into
    assert "the disk" not in report.page(older)


def test_served_models_have_their_section_and_their_targets() -> None:
    page = report.page(results(start("toolkit", 1)))
    assert "Models" not in page, "an earlier run has not measured them"
    samples: list[dict[str, Any]] = [
        {"metric": "deploy", "state": "cached", "values": [9.0, 5.0, 6.0]},
        {"metric": "deploy submitted", "state": "cached", "values": [2.0, 1.0, 3.0]},
    ]
    for contender, own in (("toolkit", 1.0), ("plain", 2.0)):
        of = {"contender": contender}
        samples += [
            {**of, "metric": "serve start", "values": [4 * own, 5 * own, 6 * own]},
            {**of, "metric": "serve memory", "loaded": False, "values": [100 * own]},
            *(
                {**of, "metric": metric, "clients": clients, "values": [value]}
                for clients in (1, 16)
                for metric, value in (("serve predictions", 300 / own), ("serve p99", 0.02 * own))
            ),
            {**of, "metric": "serve errors", "clients": 16, "values": [own - 1]},
        ]
    page = report.page(results(start("toolkit", 1), *samples))
    assert "| a model's first answer by `mlflow-deploy`, cached, against plain | ≤ 1.2 | 0.50" in page
    assert "| a model's first answer by the job alone, cached, against plain | ≤ 1.2 | 0.50" in page
    assert "| predictions with 1 client, against plain | ≥ 1.0 | 2.00 | met |" in page
    assert "| predictions with 16 clients, against plain | ≥ 1.0 | 2.00 | met |" in page
    assert "| the environment cached on the volume | 6.0 (5.0 to 9.0) | 2.0 (1.0 to 3.0) |" in page
    assert (
        f"| {models.SERVED['toolkit']} | 5.0 (4.0 to 6.0) | 100 | - | 300<br>20 | 300<br>20 | none |" in page
    )
    assert f"| {models.SERVED['plain']} | 10.0 (8.0 to 12.0) | 200 | - | 150<br>40 | 150<br>40 | 1 |" in page
    assert models.SERVED["plain 2"] not in page
    assert models.REST in page


def test_people_read_how_long_they_wait() -> None:
    of = {"metric": "p50", "contender": "toolkit", "store": "SQLite", "operation": "log-metric"}
    sample = {**of, "clients": 1, "slow": False, "values": [0.004]}
    page = report.page(results(start("toolkit", 1), sample))
    assert "| your training loop logs a metric | 4 ms | - | - | - |" in page


def test_errors_of_the_toolkit_miss_their_target() -> None:
    steady = {"metric": "steady errors", "contender": "toolkit", "store": "SQLite", "values": [3]}
    assert report.targets(results(steady)) == [("errors with 64 clients, SQLite", "0", "3", False)]


def test_the_page_says_what_is_missed() -> None:
    page = report.page(results(start("toolkit", 9), start("plain", 10)))
    assert "| start, existing store, SQLite, against plain | ≤ 0.6 | 0.90 | **missed** |" in page


def test_the_readme_has_every_figure_of_its_account() -> None:
    account = report.sizing(figures.load(ROOT / "bench/results.json"))
    assert "PostgreSQL" in account
    assert not re.search(r"(?<!\w)-(?!\w)(?!-)", re.sub(r"\|[-|]+\|", "", account)), account


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = results(start("toolkit", 1.5), start("plain", 2))
    (tmp_path / "results.json").write_text(figures.dumps(written), encoding="utf-8")
    assert figures.load(tmp_path / "results.json") == written


def test_percentile() -> None:
    found = [float(value) for value in range(1, 101)]
    assert (figures.percentile(found, 50), figures.percentile(found, 99)) == (51, 100)
    assert figures.percentile([7.0], 99) == 7


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (200, "QueuePool", ""),
        (400, '{"message": "QueuePool limit of size 5 …"}', "400 connection pool exhausted"),
        (503, "database is locked", "503 database locked"),
        (500, "<html><title>500</title> <p>Oops</p></html>", "500 500 Oops"),
    ],
)
def test_kinds_of_errors(status: int, text: str, kind: str) -> None:
    assert load.kind_of(status, text) == kind


@pytest.mark.parametrize("operation", ["log-batch", "predict"])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_load_reads_what_servers_send(chunked: bool, closes: bool, operation: str) -> None:
    requests: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.decode().split("\r\n") if line.startswith("Content-Length"))
            await reader.readexactly(int(length.split()[1]))
            requests.append(head.decode().split()[1])
            body = b'{"run": {"info": {"run_id": "r"}}}'
            size = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
            closing = b"Connection: close\r\n" if closes else b""
            writer.write(b"HTTP/1.1 200 OK\r\n" + closing + size + b"\r\n\r\n" + sent)
            if closes:
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    job = {"operation": operation, "clients": 2, "seconds": 0.1, "warm_up": 0.0, "body": models.BODY}
    found = await load.measure({**job, "port": server.sockets[0].getsockname()[1]})
    server.close()
    path = "/invocations" if operation == "predict" else "/api/2.0/mlflow/runs/log-batch"
    if operation == "log-batch":
        assert requests[:2] == ["/api/2.0/mlflow/runs/create"] * 2
    assert requests.count(path) >= len(found["latencies"]) > 0
    assert found["errors"] == {}
    assert found["ok"] > 0


def test_an_answer_that_is_none_is_counted_as_an_error() -> None:
    with pytest.raises(ConnectionError):
        asyncio.run(
            load.measure({"port": 1, "operation": "log-batch", "clients": 1, "seconds": 0, "warm_up": 0})
        )
