"""All settings in one typed record: what each is, and which layer said so.

A setting is an input of `action.yaml` or one of the toolkit's own three. The layers, the later wins: default,
`args` in live.yaml (inputs only; neuro-flow evaluates them), `mlflow.yaml`, environment, make command line.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from envsubst import envsubst  # type: ignore[import-untyped,unused-ignore]

from common.console import Failure, Problem, parse_duration
from settings.action import ACTION, Input, compose, entries, find, read_inputs
from settings.live import flow_dir, live_file, server_job

SETTINGS_FILE = Path("mlflow.yaml")
TOOLKIT_DIR = Path(__file__).parents[1]

TOOLKIT = {
    "platform": Input(
        "platform", "`neuro`: your own login. `local`: the platform embedded in this toolkit.", "neuro", 0
    ),
    "flow_cli": Input("flow_cli", "Another `neuro-flow` command than the toolkit's own.", "", 0),
    "timeout": Input("timeout", "How long to wait for the server or its end: `10m`, `90s`.", "10m", 0),
}
"""The settings that are not inputs of the action."""

OF_TARGETS = {
    "MLFLOW_BACKUP_ARTIFACTS",
    "MLFLOW_CALLED_IN",
    "MLFLOW_DRY_RUN",
    "MLFLOW_FOLLOW",
    "MLFLOW_FORCE",
    "MLFLOW_FORMAT",
    "MLFLOW_SETUP_LOCK",
}
"""Variables of ours that are no settings."""

DEFAULT, LIVE, FILE, ENVIRONMENT, MAKE = "default", "live.yaml", "mlflow.yaml", "environment", "make"


@dataclass(frozen=True)
class Setting:
    """A value and where it came from; `overrides` is what the next lower layer had said."""

    name: str
    value: str
    layer: str
    source: str
    overrides: Setting | None = None

    @property
    def shown(self) -> str:
        """The value without what is secret in it."""
        return redact(self.value)


@dataclass(frozen=True)
class Settings:
    """Every setting; `problems` are mistakes found while reading the layers."""

    inputs: dict[str, Setting]
    toolkit: dict[str, Setting]
    action_text: str
    flow_dir: Path
    job: str
    """The id in live.yaml of the server's job."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def all(self) -> dict[str, Setting]:
        """Inputs and the toolkit's own, in the order to show them in."""
        return {**self.inputs, **self.toolkit}

    @property
    def overrides(self) -> dict[str, str]:
        """The inputs that a layer above live.yaml sets: what rendering has to write into the action."""
        return {s.name: s.value for s in self.inputs.values() if s.layer in (FILE, ENVIRONMENT, MAKE)}

    @property
    def platform(self) -> str:
        """`neuro` or `local`."""
        return self.toolkit["platform"].value

    @property
    def flow_cli(self) -> str:
        """The user's own neuro-flow command, or an empty string for the toolkit's."""
        return self.toolkit["flow_cli"].value

    @property
    def timeout(self) -> int:
        """The limit of every wait, in seconds."""
        return parse_duration(self.toolkit["timeout"].value)

    def make(self, target: str) -> str:
        """Return the command that a user types for a target, with the platform if make was told it."""
        platform = self.toolkit["platform"]
        return f"make {target}" + (f" MLFLOW_PLATFORM={platform.value}" if platform.layer == MAKE else "")


def redact(value: str) -> str:
    """Return a value with passwords in URIs, and members of JSON objects that name a secret, replaced."""
    value = re.sub(r"(\w://[^/\s:@]*):\S*@", r"\1:***@", value)
    return re.sub(r'(?i)("[^"]*(?:password|secret|token|key)[^"]*": *")(?!secret:)[^"]+"', r'\1***"', value)


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

    pattern = r"\$\{\{.*?\}\}|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}$\\]*))?\}|[^}\s]*\}?)"
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def _read_yaml(path: Path, problems: list[Problem]) -> yaml.Node | None:
    try:
        return compose(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        problems.append(Problem(f"not UTF-8 at byte {error.start}", "save the file as UTF-8", str(path)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.append(Problem(f"not YAML: {error.problem}", "correct the line", f"{path}:{line}"))
    except yaml.YAMLError as error:
        problems.append(Problem(f"not YAML: {error}".replace("\n", " "), "correct the file", str(path)))
    return None


def _plain(node: yaml.Node) -> object:
    """Return a node as JSON's types, every scalar as it was written."""
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(key)): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return substitute(node.value)


def _read_settings_file(known: dict[str, Input], problems: list[Problem]) -> dict[str, Setting]:
    if not SETTINGS_FILE.exists():
        return {}
    root = _read_yaml(SETTINGS_FILE, problems)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        problems.append(
            Problem("not a list of settings", "write one `name: value` a line", f"{SETTINGS_FILE}:1")
        )
        return {}
    found: dict[str, Setting] = {}
    for key, node in root.value:
        name, source = str(key.value), f"{SETTINGS_FILE}:{key.start_mark.line + 1}"
        if name not in known:
            near = [k for k in known if k in name.split("_")] or difflib.get_close_matches(name, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}"
            problems.append(Problem(f"{name} is not a setting", fix, source))
            continue
        if name in found:
            problems.append(
                Problem(f"{name} is set twice", f"{found[name].source} has it too; keep one", source)
            )
            continue
        native = isinstance(node, yaml.CollectionNode)
        if native and name not in ("volumes", "envs"):
            problems.append(Problem(f"{name} is not a single value", "write it as one value", source))
            continue
        try:
            value = _plain(node)
        except ValueError as error:
            line = node.start_mark.line + 1
            fix = "set it, or write ${NAME:-default}"
            problems.append(Problem(f"{name}: {error}", fix, f"{SETTINGS_FILE}:{line}"))
            continue
        text = json.dumps(value, ensure_ascii=False) if native else str(value)
        found[name] = Setting(name, text, FILE, source)
    return found


def _live_args(root: yaml.Node | None, job: str, path: Path | None) -> dict[str, Setting]:
    args = entries(find(root, "jobs", job, "args"))
    return {
        name: Setting(name, node.value, LIVE, f"{path}:{key.start_mark.line + 1}")
        for name, (key, node) in args.items()
        if isinstance(node, yaml.ScalarNode)
    }


def command_line() -> dict[str, str]:
    """Return the variables of make's command line as the user wrote them.

    make hands them on in MAKEFLAGS after ` -- `: blanks and backslashes with a backslash, each `$` doubled.
    """
    flags = os.environ.get("MAKEFLAGS", "")
    _, marker, words = (" " + flags).partition(" -- ")
    if not marker:
        return {}
    split = re.findall(r"(?:[^ \\]|\\.)+", words, re.DOTALL)
    typed = (re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL).replace("$$", "$") for word in split)
    pairs = (word.partition("=") for word in typed)
    return {name.rstrip(":"): value for name, _, value in pairs}


def _is_utf8(text: str) -> bool:
    """Tell whether text from the environment was UTF-8: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _read_environment(known: dict[str, Input], problems: list[Problem]) -> dict[str, Setting]:
    written = command_line()
    found: dict[str, Setting] = {}
    for name in known:
        variable = f"MLFLOW_{name.upper()}"
        value = os.environ.get(variable, "")
        if variable in written:
            if written[variable].replace("$$", "$") != value:
                problems.append(
                    Problem(
                        f"{variable}: make changes the $ in this value",
                        f"write $$ for each $, or set {name} in {SETTINGS_FILE} or the environment",
                        "make command line",
                    )
                )
            found[name] = Setting(name, value, MAKE, "make command line")
        elif value:
            found[name] = Setting(name, value, ENVIRONMENT, f"environment {variable}")
        if not _is_utf8(value):
            problems.append(Problem("not UTF-8", "set it to UTF-8 text", f"environment {variable}"))
    for variable in sorted(written.keys() | os.environ.keys()):
        name = variable.removeprefix("MLFLOW_").lower()
        if not variable.startswith("MLFLOW_") or name in known or variable in OF_TARGETS:
            continue
        near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
        if variable in written or near:  # the environment has MLflow's own variables, too
            near = near or [k for k in known if k in name.split("_")]
            fix = f"did you mean MLFLOW_{near[0].upper()}?" if near else "`make mlflow-help` has the names"
            source = "make command line" if variable in written else "environment"
            warning = variable not in written
            problems.append(Problem(f"{variable} is not a setting", fix, source, warning))
    return found


def yes(variable: str) -> bool:
    """Return the truth value of a variable of a target.

    Raises:
        Failure: it is neither yes nor no.
    """
    value = os.environ.get(variable, "").lower()
    if value not in ("yes", "true", "1", "no", "false", "0", ""):
        raise Failure(
            Problem(f"{variable} is {value!r}", "write yes or no", "make command line or environment")
        )
    return value in ("yes", "true", "1")


def load() -> Settings:
    """Read every layer of the workspace that is the current folder.

    Raises:
        Failure: there is no action.yaml to take the settings' names from.
    """
    problems: list[Problem] = []
    action_file = next((p for p in (TOOLKIT_DIR / ACTION, TOOLKIT_DIR.parent / ACTION) if p.exists()), None)
    if action_file is None:
        raise Failure(
            Problem(f"{ACTION} is missing", "restore it from the toolkit", str(TOOLKIT_DIR.parent / ACTION))
        )
    action_text = action_file.read_text(encoding="utf-8")
    inputs = read_inputs(action_text)
    known = {**inputs, **TOOLKIT}
    folder = flow_dir()
    live = live_file(folder)
    flow = _read_yaml(live, problems) if live else None
    job = server_job(flow)
    layers = [
        _live_args(flow, job, live),
        _read_settings_file(known, problems),
        _read_environment(known, problems),
    ]
    merged: dict[str, Setting] = {}
    for name, entry in known.items():
        source = f"{ACTION}:{entry.line}" if name in inputs else "default"
        setting = Setting(name, entry.default or "", DEFAULT, source)
        for layer in layers:
            if name in layer:
                above = layer[name]
                setting = Setting(name, above.value, above.layer, above.source, overrides=setting)
        merged[name] = setting
    return Settings(
        {name: merged[name] for name in inputs},
        {name: merged[name] for name in TOOLKIT},
        action_text,
        folder,
        job,
        problems,
    )
