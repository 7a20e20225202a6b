"""Generated help for writing mlflow.yaml: a JSON schema for editors, an example with every setting."""

from __future__ import annotations

import json
from typing import Any

from settings import layers, values
from settings.action import Input
from settings.variables import FALSE, TRUE

SCHEMA = "mlflow.schema.json"


REFERENCE = r"\$\{"
"""Values with a reference to the environment are only known later."""


def _any_case(word: str) -> str:
    return "".join(f"[{char.upper()}{char}]" if char.isalpha() else char for char in word)


def _property(entry: Input) -> dict[str, Any]:
    found: dict[str, Any] = {"description": entry.description}
    if entry.default is not None:
        found["default"] = entry.default
    text = {"type": "string", "pattern": REFERENCE}
    choices = values.CHOICES.get(entry.name, ())
    if entry.name in values.TRUTH:
        choices = (*TRUE, *FALSE)
    if entry.name in ("mode", *values.TRUTH):
        pattern = "|".join(map(_any_case, choices))
        found["anyOf"] = [{"enum": list(choices)}, {"type": "string", "pattern": f"^({pattern})$"}, text]
        if entry.name in values.TRUTH:
            found["anyOf"] += [{"type": "boolean"}, {"enum": [0, 1]}]
    elif choices:
        found["anyOf"] = [{"enum": list(choices)}, text]
    elif entry.name in ("port", "deploy_port"):
        found["anyOf"] = [{"type": "integer", "minimum": 1, "maximum": 65535}, text]
    elif entry.name == "deploy_workers":
        found["anyOf"] = [{"type": "integer", "minimum": 1, "maximum": 99}, {"type": "string"}]
    elif entry.name in ("volumes", "deploy_volumes"):
        found["anyOf"] = [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]
    elif entry.name in ("envs", "deploy_envs"):
        scalar = {"type": ["string", "number", "boolean"]}
        found["anyOf"] = [{"type": "object", "additionalProperties": scalar}, {"type": "string"}]
    else:
        found["type"] = "string"
    return found


def schema(inputs: dict[str, Input]) -> str:
    """Return the JSON schema of mlflow.yaml."""
    return (
        json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "Settings of the MLflow server toolkit",
                "type": ["object", "null"],
                "additionalProperties": False,
                "patternProperties": {"^x-": {}},
                "properties": {
                    "<<": {},
                    **{n: _property(e) for n, e in {**inputs, **layers.TOOLKIT}.items()},
                },
            },
            indent=2,
        )
        + "\n"
    )


def example(inputs: dict[str, Input]) -> str:
    """Return mlflow.example.yaml: every setting with its default, as a comment to take out."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        "# Copy this to mlflow.yaml and take the # off what you set. ${NAME} and ${NAME:-default} stand for",
        "# environment variables; passwords belong into a platform secret: secret:NAME.",
    ]
    for entry in {**inputs, **layers.TOOLKIT}.values():
        default = "/mnt/mlflow/artifacts" if entry.default is None else entry.default
        shown = default if default and default[0] not in "[{" else json.dumps(default)
        lines += ["", f"# {entry.description}", f"#{entry.name}: {shown}"]
    return "\n".join(lines) + "\n"
