"""JSON of MLflow's answers, written straight from their messages.

MLflow makes an object of a message, a second one to mark its numbers, merges both, and writes that with
indentation, for which Python has no C code: a list of 100 runs takes a third of its time there. The text is
the same to the byte; a message with anything but plain fields is left to MLflow.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any

from in_job.words import say

Writer = Callable[[Any, str], str]
"""Makes text of a value, at an indentation that begins with a new line."""


class Other(Exception):
    """A field is none of the plain ones."""


def number(value: float, _indent: str) -> str:
    """Write a double."""
    if math.isfinite(value):
        return float.__repr__(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def sequence(write: Writer) -> Writer:
    """Return what writes a list, which is not empty."""

    def written(values: Any, indent: str) -> str:
        deeper = indent + "  "
        return f"[{deeper}" + f",{deeper}".join([write(value, deeper) for value in values]) + f"{indent}]"

    return written


class Writers:
    """What writes messages, by their kinds: each is taken apart once."""

    def __init__(self) -> None:
        kinds: Any = importlib.import_module("google.protobuf.descriptor").FieldDescriptor
        whole = ("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64", "FIXED32", "FIXED64")
        self._scalars: dict[int, Writer] = {
            kinds.TYPE_STRING: lambda value, _indent: encode_basestring_ascii(value),
            kinds.TYPE_BOOL: lambda value, _indent: "true" if value else "false",
            kinds.TYPE_DOUBLE: number,
            **{getattr(kinds, f"TYPE_{name}"): lambda value, _indent: int.__repr__(value) for name in whole},
        }
        self._message, self._enum = kinds.TYPE_MESSAGE, kinds.TYPE_ENUM
        self._known: dict[str, Writer | None] = {}

    def of(self, kind: Any) -> Writer:
        """Return what writes messages of a kind; Other where it has other fields, in whatever depth."""
        name = kind.full_name
        if name not in self._known:
            self._known[name] = None
            self._known[name] = self._made(kind)
        writer = self._known[name]
        if writer is None:  # or it holds itself
            raise Other(name)
        return writer

    def _made(self, kind: Any) -> Writer:
        if kind.full_name.startswith("google.") or kind.is_extendable or kind.GetOptions().map_entry:
            raise Other(kind.full_name)
        fields = {field.number: (f'"{field.name}": ', self._field(field)) for field in kind.fields}

        def write(message: Any, indent: str) -> str:
            found = message.ListFields()
            if not found:
                return "{}"
            deeper, parts = indent + "  ", []
            for field, value in found:
                name, writer = fields[field.number]
                parts.append(name + writer(value, deeper))
            return f"{{{deeper}" + f",{deeper}".join(parts) + f"{indent}}}"

        return write

    def _field(self, field: Any) -> Writer:
        if field.type == self._message:
            writer = self.of(field.message_type)
        elif field.type == self._enum:
            writer = self._names(field.enum_type)
        elif field.type in self._scalars:
            writer = self._scalars[field.type]
        else:
            raise Other(field.full_name)
        return sequence(writer) if field.is_repeated else writer

    def _names(self, kind: Any) -> Writer:
        if any(value.has_options for value in kind.values) or kind.full_name.startswith("google."):
            raise Other(kind.full_name)
        names = {value.number: f'"{value.name}"' for value in kind.values}
        return lambda value, _indent: names[value]


def write_faster() -> None:
    """Let MLflow's handlers answer by this, where it writes what MLflow writes."""
    try:
        handlers: Any = importlib.import_module("mlflow.server.handlers")
        slow, writers = handlers.message_to_json, Writers()

        def message_to_json(message: Any, **options: Any) -> str:
            try:
                if not options:
                    return writers.of(message.DESCRIPTOR)(message, "\n")
            except (Other, KeyError):  # a number that the kind has no name for
                pass
            return str(slow(message, **options))

        sample = handlers.SearchRuns.Response()
        run = sample.runs.add()
        run.info.run_id, run.info.status, run.info.start_time = '"é', 3, 2**53 + 1
        run.data.metrics.add(key="a", value=1 / 3, step=-1)
        run.data.metrics.add(key="b", value=math.nan)
        run.data.tags.add()
        if message_to_json(sample) != slow(sample):
            raise ValueError("other text")
        handlers.message_to_json = message_to_json
    except Exception as error:
        say(f"answers are written by MLflow itself, which is not as it is known: {error!r}")
