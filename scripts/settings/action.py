"""Reading `action.yaml` and substituting the user's overrides into it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ACTION, DEPLOY = "action.yaml", "deploy.yaml"
"""The two actions: the server, and a model that is served."""
CODE = ("code", "code_more")
"""The inputs that are no settings: they carry the server's program."""
PROGRAM, PROGRAM_MORE = "MLFLOW_ACTION_CODE", "MLFLOW_ACTION_CODE_MORE"
"""The variables in which a program travels into a job."""
RENDERED, RENDERED_DEPLOY = Path(".mlflow/action.yaml"), Path(".mlflow/deploy.yaml")
"""The copies that live.yaml calls as `ws:.mlflow/action.yaml` and so on, relative to the workspace."""

_EXPRESSION = re.compile(r"""\$\{\{(?:"[^"]*"|'[^']*'|(?!\}\}).)*\}\}""", re.DOTALL)
_INPUT = re.compile(r"""("[^"]*"|'[^']*')|\binputs\.([A-Za-z_][A-Za-z_0-9]*)""")


@dataclass(frozen=True)
class Input:
    """An input of the action: `default` is None where the caller has to give a value."""

    name: str
    description: str
    default: str | None
    line: int


def compose(text: str) -> yaml.Node | None:
    """Return the YAML node tree, which knows lines and keeps every scalar as it was written.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    node: yaml.Node | None = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return node


def entries(node: yaml.Node | None) -> dict[str, tuple[yaml.ScalarNode, yaml.Node]]:
    """Return a mapping node's entries by key, with the nodes of key and value; empty for anything else."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def find(node: yaml.Node | None, *path: str) -> yaml.Node | None:
    """Return the node at a path of keys, or None."""
    for key in path:
        node = entries(node).get(key, (None, None))[1]
    return node


def scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield every scalar below a node of YAML."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.CollectionNode):
        for item in node.value:
            for child in item if isinstance(item, tuple) else (item,):
                yield from scalars(child)


def read_inputs(text: str) -> dict[str, Input]:
    """Return the inputs of an action by name, in the order of the file, without that of the program."""
    found = {}
    for name, (key, value) in entries(find(compose(text), "inputs")).items():
        if name in CODE:
            continue
        description, default = find(value, "descr"), find(value, "default")
        found[name] = Input(
            name,
            description.value if description else "",
            default.value if default else None,
            key.start_mark.line + 1,
        )
    return found


def literal(text: str) -> str:
    r"""Return text as a string literal that neuro-flow's expressions and YAML read alike.

    Whatever could mean something to either is written as `\xNN`, `\uNNNN` or `\UNNNNNNNN`: neuro-flow takes
    Python's escapes, YAML's double quotes have the same ones.
    """
    pieces = []
    for char in text:
        code = ord(char)
        if char.isascii() and (char.isalnum() or char in "-_./:=+@,"):
            pieces.append(char)
        elif code < 0x100:
            pieces.append(f"\\x{code:02x}")
        else:
            pieces.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(pieces) + '"'


def render(text: str, overrides: dict[str, str]) -> str:
    """Return the action's text with each overridden input replaced by its value.

    Every `inputs.NAME` in an expression becomes the literal, so that the override wins over the caller's
    `args`; the default becomes the value too, for readers and for callers that give none. All else stays
    as it is, to the byte.

    Raises:
        KeyError: an override is not an input of the action.
    """
    root = compose(text)
    edits: list[tuple[int, int, str]] = []

    def in_expression(match: re.Match[str]) -> str:
        if match[2] in overrides:
            return literal(overrides[match[2]])
        return match[0]

    for scalar in scalars(find(root, "job")):
        if "${{" in scalar.value:
            start, end = scalar.start_mark.index, scalar.end_mark.index
            new = _EXPRESSION.sub(lambda whole: _INPUT.sub(in_expression, whole[0]), text[start:end])
            edits.append((start, end, new))
    for name, value in overrides.items():
        node = entries(find(root, "inputs"))[name][1]
        # A default is never an expression, so text that looks like one cannot be written there.
        default = '""' if re.search(r"\$\{\{|\$\[\[", value) else literal(value)
        present = find(node, "default")
        if present:
            edits.append((present.start_mark.index, present.end_mark.index, default))
        else:
            start = node.start_mark
            edits.append((start.index, start.index, f"default: {default}\n{' ' * start.column}"))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def write_all(texts: dict[Path, tuple[str, dict[str, str]]]) -> None:
    """Write rendered actions: to each path a text, with what is to be replaced in it."""
    for path, (text, overrides) in texts.items():
        write_rendered(text, overrides, path)


def write_rendered(text: str, overrides: dict[str, str], path: Path = RENDERED) -> Path:
    """Write a rendered action and return its path.

    The file is for its owner only, and a reader or a crash never sees half of it.
    """
    replace_rendered(render(text, overrides).encode(), path)
    return path


def replace_rendered(data: bytes, path: Path = RENDERED) -> None:
    """Put a rendered action in the place of the one that is there."""
    path.parent.mkdir(exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".action.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
