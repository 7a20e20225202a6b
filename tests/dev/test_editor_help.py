"""The schema and the example of mlflow.yaml, as they are in the repository."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from settings import layers
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "mlflow.schema.json").read_text(encoding="utf-8"))
EXAMPLE = (ROOT / "mlflow.example.yaml").read_text(encoding="utf-8")


def test_the_example_has_every_setting_with_its_default(workspace: Path) -> None:
    defaults = {name: s.value for name, s in layers.load().all.items() if s.layer == layers.DEFAULT}
    (workspace / "mlflow.yaml").write_text(re.sub(r"(?m)^#(\w+:)", r"\1", EXAMPLE))
    found = layers.load()
    assert not found.problems
    assert all(setting.layer == layers.FILE for setting in found.all.values())
    assert {name: found.all[name].value for name in defaults} == defaults
    jsonschema.validate(yaml.safe_load((workspace / "mlflow.yaml").read_text()), SCHEMA)


def test_the_example_as_it_is_sets_nothing(workspace: Path) -> None:
    (workspace / "mlflow.yaml").write_text(EXAMPLE)
    found = layers.load()
    assert not found.problems
    assert not found.overrides


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"mode": "UI", "http_auth": "Yes", "port": 7000, "restart": "always"},
        {"mode": "${MODE:-ui}", "port": "${PORT}", "http_auth": "true"},
        {"volumes": ["storage:a:/a:rw"], "envs": {"A": "b", "B": 1}},
        {"volumes": "[]", "envs": "{}", "http_auth": 1, "x-anchors": {"a": 1}},
    ],
)
def test_the_schema_takes(good: dict[str, Any]) -> None:
    jsonschema.validate(good, SCHEMA)


@pytest.mark.parametrize(
    "bad",
    [
        {"http_port": 1},
        {"mode": "servers"},
        {"port": 70000},
        {"port": "abc"},
        {"http_auth": "maybe"},
        {"volumes": [1]},
        {"envs": ["A=b"]},
        {"restart": "sometimes"},
        [],
    ],
)
def test_the_schema_refuses(bad: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, SCHEMA)
