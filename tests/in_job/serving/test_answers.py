"""Answers that are written faster: the same text as MLflow's own, or MLflow's own."""

from __future__ import annotations

import json

import pytest

from ..harness import DATA
from ..places import Warm

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("seed", ["1", "2"])
def test_every_message_is_written_as_mlflow_writes_it(seed: str, warm: Warm) -> None:
    code = (DATA / "filled_messages.py").read_text("utf-8")
    found = json.loads(warm.python(code, seed).splitlines()[-1])
    assert found["different"] == []
    assert found["tried"] > 3000
    assert found["left"] < 200  # maps, times and free values, and what holds itself


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param("", "", id="known"),
        pytest.param("del handlers.message_to_json", "AttributeError(", id="newer"),
        pytest.param(
            "handlers.message_to_json = lambda message, **options: 'x'",
            "ValueError('other text')",
            id="other",
        ),
    ],
)
def test_it_is_used_only_where_mlflow_writes_so(change: str, reason: str, warm: Warm) -> None:
    code = f"""
import sys
import mlflow.server.handlers as handlers
from mlflow.protos import service_pb2
from in_job.serving import answers
before = handlers.message_to_json
{change}
answers.write_faster()
if {not reason}:
    assert handlers.message_to_json is not before
    for message in (service_pb2.SearchRuns.Response(), service_pb2.Trace()):  # the second has a map
        assert handlers.message_to_json(message) == before(message)
    info = service_pb2.RunInfo(run_id="x")
    assert handlers.message_to_json(info, pretty=False) == before(info, pretty=False)
"""
    said = warm.python(code).splitlines()
    lines = [line for line in said if line.startswith("mlflow-server: ")]
    assert len(lines) == bool(reason)
    assert all(reason in line for line in lines)
