"""Fills MLflow's messages at random and writes them both ways; prints how many, and which differ, as JSON."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import random
import sys
from typing import Any

import mlflow.protos
from mlflow.utils.proto_json_utils import message_to_json

from in_job.serving import answers

Kind: Any = importlib.import_module("google.protobuf.descriptor").FieldDescriptor
factory: Any = importlib.import_module("google.protobuf.message_factory")
RANDOM = random.Random(int(sys.argv[1]))  # noqa: S311
TEXTS = ["", "é", "\U0001f600", '"\\', "\n\t\0", "</script>", "\u2028", "a" * 300]
DOUBLES = [0.0, -0.0, 1.0, 1e300, 5e-324, 0.1 + 0.2, 123456789.0, math.inf, -math.inf, math.nan]
WHOLE = [0, 1, 2**31 - 1]


def value(field: Any) -> Any:
    if field.type in (Kind.TYPE_STRING, Kind.TYPE_BYTES):
        text = RANDOM.choice(TEXTS)
        return text if field.type == Kind.TYPE_STRING else text.encode()
    if field.type in (Kind.TYPE_DOUBLE, Kind.TYPE_FLOAT):
        return RANDOM.choice(DOUBLES if field.type == Kind.TYPE_DOUBLE else DOUBLES[:3])
    if field.type == Kind.TYPE_BOOL:
        return RANDOM.random() < 0.5
    if field.type == Kind.TYPE_ENUM:
        return RANDOM.choice(field.enum_type.values).number
    longer = [2**53 + 1, 2**63 - 1] if "64" in str(field.cpp_type) or field.type == Kind.TYPE_INT64 else []
    signed = [-1] if field.type in (Kind.TYPE_INT32, Kind.TYPE_INT64) else []
    return RANDOM.choice(WHOLE + longer + signed)


def fill(message: Any, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if RANDOM.random() < 0.2 or depth > 5:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue  # which is MLflow's own to write
        if field.is_repeated:
            for _ in range(RANDOM.randrange(3)):
                if field.type == Kind.TYPE_MESSAGE:
                    fill(getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).append(value(field))
        elif field.type == Kind.TYPE_MESSAGE:
            part = getattr(message, field.name)
            part.SetInParent()
            if not field.message_type.full_name.startswith("google."):
                fill(part, depth + 1)
        else:
            setattr(message, field.name, value(field))


def kinds(holder: Any) -> Any:
    for kind in holder:
        yield kind
        yield from kinds(kind.nested_types)


writers, tried, left, different = answers.Writers(), 0, 0, []
for found in pkgutil.iter_modules(mlflow.protos.__path__):
    if found.name.endswith("_pb2"):
        module = importlib.import_module(f"mlflow.protos.{found.name}")
        for kind in kinds(module.DESCRIPTOR.message_types_by_name.values()):
            try:
                write = writers.of(kind)
            except answers.Other:
                left += 1
                continue
            for _ in range(10):
                message = factory.GetMessageClass(kind)()
                fill(message)
                tried += 1
                if write(message, "\n") != message_to_json(message):
                    different.append([kind.full_name, write(message, "\n"), message_to_json(message)])
print(json.dumps({"tried": tried, "left": left, "different": different[:3]}))
