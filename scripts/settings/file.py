"""Reading `mlflow.yaml`: plain values, references to the environment, YAML's anchors and merge keys."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml
from envsubst import envsubst  # type: ignore[import-untyped,unused-ignore]

from common.console import Problem
from settings.action import compose
from settings.variables import near

SETTINGS_FILE, OTHER_NAME = Path("mlflow.yaml"), Path("mlflow.yml")
"""The file of settings; and what it is taken for, since flows are read by either ending."""
JSON = ("volumes", "envs", "deploy_volumes", "deploy_envs")
"""The settings that may be written as a list or a mapping."""


def substitute(text: str) -> str:
    """Return text with `${NAME}` and `${NAME:-default}` taken from the environment.

    `${{ … }}` and every other `$` stay. envsubst sees one reference at a time, and only these two forms: it
    would expand `$NAME` as well, read `$1` from the command line, and take an unset name for an empty one.

    Raises:
        ValueError: a name is not set, or a reference is not of the two forms.
    """

    def replace(match: re.Match[str]) -> str:
        reference, name, default = match[0], match[1], match[2]
        if reference.startswith("${{"):
            return reference
        if not name:
            raise ValueError(f"{reference} is not ${{NAME}} or ${{NAME:-default}}")
        if default is None and name not in os.environ:
            raise ValueError(f"{reference}: {name} is not set in the environment")
        if default == "":
            return os.environ.get(name, "")
        return str(envsubst(reference))

    pattern = r"\$\{\{.*?\}\}|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}$\\]*))?\}|[^}\n]*\}?)"
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def read_yaml(path: Path, problems: list[Problem]) -> yaml.Node | None:
    """Return a file's YAML, None where it has none; what is wrong with it is added to the problems."""
    try:
        return compose(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem(f"it cannot be read: {error.strerror}", "make it a file of yours", str(path)))
    except UnicodeDecodeError as error:
        problems.append(Problem(f"not UTF-8 at byte {error.start}", "save the file as UTF-8", str(path)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.append(Problem(f"not YAML: {error.problem}", "correct the line", f"{path}:{line}"))
    except (yaml.YAMLError, RecursionError) as error:
        problems.append(Problem(f"not YAML: {error}".replace("\n", " "), "correct the file", str(path)))
    return None


def pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
    """Yield a mapping's keys and values, and whether they come by a merge key, `<<`; those come first.

    Raises:
        ValueError: what is merged is no mapping.
    """
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value == "<<" and not key.style:
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in reversed(sources):  # of several, the first one wins
                if not isinstance(source, yaml.MappingNode) or source is node:
                    raise ValueError("<< takes a mapping, such as *NAME of an anchor &NAME")
                for inner, what, _ in pairs(source):
                    yield inner, what, True
    for key, value in node.value:
        if not (isinstance(key, yaml.ScalarNode) and key.value == "<<" and not key.style):
            yield key, value, False


def merge_fault(error: ValueError | RecursionError) -> str:
    """Return what is wrong with a mapping of which `pairs` has raised an error."""
    return "an anchor holds itself" if isinstance(error, RecursionError) else str(error)


def _plain(node: yaml.Node) -> object:
    """Return a node as JSON's types, every scalar as it was written."""
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(key)): _plain(value) for key, value, _ in pairs(node)}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return substitute(node.value)


def read_settings(known: Collection[str], problems: list[Problem]) -> dict[str, tuple[str, str]]:
    """Return the settings of `mlflow.yaml`: the value of each, as text, and its file and line.

    A key that begins with `x-` is a place for anchors, as in Docker's compose files.
    """
    there = SETTINGS_FILE.is_symlink() or SETTINGS_FILE.exists()
    if OTHER_NAME.is_file() and not there:
        fix = f"rename it to {SETTINGS_FILE}"
        problems.append(Problem("nobody reads this file", fix, str(OTHER_NAME), warning=True))
    root = read_yaml(SETTINGS_FILE, problems) if there else None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        fix = "write one `name: value` a line"
        problems.append(Problem("not a list of settings", fix, f"{SETTINGS_FILE}:1"))
        return {}
    found: dict[str, tuple[str, str]] = {}
    merged: set[str] = set()
    try:
        for key, node, by_merge in pairs(root):
            name, source = str(key.value), f"{SETTINGS_FILE}:{key.start_mark.line + 1}"
            if name.startswith("x-"):
                continue
            if name in found and name not in merged and not by_merge:
                fix = f"{found[name][1]} has it too; keep one"
                problems.append(Problem(f"{name} is set twice", fix, source))
            elif (value := _value(known, name, node, source, problems)) is not None:
                found[name] = value, source
                merged = merged | {name} if by_merge else merged - {name}
    except (ValueError, RecursionError) as error:
        problems.append(Problem(merge_fault(error), "correct the file", str(SETTINGS_FILE)))
    return found


def _value(
    known: Collection[str], name: str, node: yaml.Node, source: str, problems: list[Problem]
) -> str | None:
    """Return a setting's value as text, None where there is a problem with it."""
    if name not in known:
        meant = near(name, known)
        fix = f"did you mean {meant}?" if meant else f"the settings are {', '.join(known)}"
        problems.append(Problem(f"{name} is not a setting", fix, source))
        return None
    native = isinstance(node, yaml.CollectionNode)
    if native and name not in JSON:
        problems.append(Problem(f"{name} is not a single value", "write it as one value", source))
        return None
    try:
        value = _plain(node)
    except ValueError as error:
        where = f"{SETTINGS_FILE}:{node.start_mark.line + 1}"
        problems.append(Problem(f"{name}: {error}", "set it, or write ${NAME:-default}", where))
        return None
    text = json.dumps(value, ensure_ascii=False) if native else str(value)
    if re.search(r"\$\{\{|\$\[\[", text):
        what = f"{name} has an expression, which is taken as it is written"
        problems.append(Problem(what, "expressions work in the `args` of live.yaml only", source, True))
    return text
