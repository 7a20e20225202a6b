"""All settings in one typed record: what each is, and which layer said so.

A setting is an input of `action.yaml`, one of `deploy.yaml` with `deploy_` before its name, or one of the
toolkit's own three. The layers, the later wins: default, `args` in live.yaml (inputs only; neuro-flow
evaluates them), `mlflow.yaml`, environment, make command line.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from common.console import Failure, Problem, parse_duration
from settings.action import ACTION, DEPLOY, RENDERED, RENDERED_DEPLOY, Input, find, read_inputs
from settings.file import SETTINGS_FILE, merge_fault, pairs, read_settings, read_yaml
from settings.live import CALL, MODEL_CALL, flow_dir, live_file, model_job, server_job, server_jobs
from settings.variables import command_line, misspelt, near, stray

TOOLKIT_DIR = Path(__file__).parents[1]

TOOLKIT = {
    "platform": Input(
        "platform", "`neuro`: your own login. `local`: the platform embedded in this toolkit.", "neuro", 0
    ),
    "flow_cli": Input("flow_cli", "Another `neuro-flow` command than the toolkit's own.", "", 0),
    "timeout": Input("timeout", "How long to wait for the server or its end: `10m`, `90s`, `90`.", "10m", 0),
}
"""The settings that are not inputs of the action."""

OF_MODELS = ("deploy", "deployments", "undeploy")
"""The targets for models that are served."""
MENDING = ("update", "uninstall")
"""The targets that are for a copy of the toolkit, of which something may be missing."""
OF_A_MODEL = ("model", "tracking_uri", "follow")
"""The inputs of deploy.yaml that are no settings: they differ with each model that is deployed."""
OF_DEPLOYMENTS = "deploy_"
"""What the names of the others begin with here."""

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
    deploy: dict[str, Setting]
    """The settings of models that are served, their names with `deploy_`."""
    deploy_text: str
    """Empty where deploy.yaml is missing."""
    deploy_job: str
    """The id in live.yaml of the job that serves models."""
    problems: list[Problem] = field(default_factory=list)
    target: str = ""
    """The target that they were read for, such as `up`."""

    @property
    def all(self) -> dict[str, Setting]:
        """Inputs and the toolkit's own, in the order to show them in."""
        return {**self.inputs, **self.deploy, **self.toolkit}

    @property
    def overrides(self) -> dict[str, str]:
        """The inputs that a layer above live.yaml sets: what rendering has to write into the action."""
        return {s.name: s.value for s in self.inputs.values() if s.layer in (FILE, ENVIRONMENT, MAKE)}

    @property
    def deploy_overrides(self) -> dict[str, str]:
        """The same for deploy.yaml, with the names that its inputs have there."""
        over = [s for s in self.deploy.values() if s.layer in (FILE, ENVIRONMENT, MAKE)]
        return {s.name.removeprefix(OF_DEPLOYMENTS): s.value for s in over}

    def texts(self, model: dict[str, str] | None = None) -> dict[Path, tuple[str, dict[str, str]]]:
        """Return what is rendered: by its path each action's text, and what is to be replaced in it.

        `model` has further inputs of deploy.yaml.
        """
        deploy = {**self.deploy_overrides, **(model or {})}
        return {
            **({RENDERED_DEPLOY: (self.deploy_text, deploy)} if self.deploy_text else {}),
            RENDERED: (self.action_text, self.overrides),
        }

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
        text = self.toolkit["timeout"].value
        return int(text) if text.isdecimal() else parse_duration(text)

    def make(self, target: str) -> str:
        """Return the command that a user types for a target, with the platform if make was told it."""
        platform = self.toolkit["platform"]
        return f"make {target}" + (f" MLFLOW_PLATFORM={platform.value}" if platform.layer == MAKE else "")

    @property
    def typed(self) -> bool:
        """Whether settings of the server were given on make's command line, and so for this once."""
        return any(setting.layer == MAKE for setting in self.inputs.values())

    def eval_line(self) -> str:
        """Return the line for a shell that points a client at the server.

        It reads our makefile alone: the user's own may print something of its own.
        """
        makefile = shlex.quote(os.path.relpath(TOOLKIT_DIR / "mlflow.mk"))
        return f'eval "$({self.make(f"-s -f {makefile} mlflow-env")})"'


SECRET = r"passw|passphrase|pass\b|pwd|secret|token|connection_string"  # noqa: S105 - no secret itself
"""What names a secret, in any letter case, as in `PGPASSWORD` or Azure's `…_CONNECTION_STRING`."""
_VALUE = r"""(\s*:\s*)(?!["']?secret:)(?:(")(?:\\.|[^"\\])*"?|(')[^']*'?|[^\s"'{}\[\],]+)"""


def redact(value: str) -> str:
    """Return a value without what is secret in it: passwords in URIs, and members of objects that name one.

    The objects need not be JSON: one in single quotes, or in none, is shown where the mistake is named.
    """
    value = re.sub(r"(\A[\w+.-]+://[^/\s:@]*):.*@", r"\1:***@", value)  # a password may have blanks
    value = re.sub(r"(\w://[^/\s:@]*):\S*@", r"\1:***@", value)
    value = re.sub(rf"(?i)([?&][^=&\s]*(?:{SECRET}|\bsig)[^=&\s]*=)[^&\s\"']+", r"\1***", value)
    name = rf"[\w.-]*(?:{SECRET}|key)[\w.-]*"
    names = [rf"[\"']{name}[\"']"] + [rf"(?<=[{{,\s]){name}"] * value.lstrip().startswith("{")
    return re.sub(rf"(?i)({'|'.join(names)}){_VALUE}", r"\1\2\3\4***\3\4", value)


def _live_args(
    root: yaml.Node | None, call: str, path: Path | None, inputs: dict[str, Input], problems: list[Problem]
) -> dict[str, Setting]:
    """Return what the `args` of the job that calls a rendered action say, by the names of its inputs."""
    job = server_job(root) if call == CALL else model_job(root)
    args = find(root, "jobs", job, "args")
    found, members = {}, []
    if isinstance(args, yaml.MappingNode):
        try:
            members = [*pairs(args)]
        except (ValueError, RecursionError) as error:
            at = f"{path}:{args.start_mark.line + 1}"
            problems.append(Problem(f"args of {job}: {merge_fault(error)}", "correct the file", at))
    for key, node, _ in members:
        name, source = str(key.value), f"{path}:{key.start_mark.line + 1}"
        if name in inputs:
            if isinstance(node, yaml.ScalarNode):
                found[name] = Setting(name, node.value, LIVE, source)
        elif inputs and job in server_jobs(root, call):  # else its args are another action's
            meant = near(name, inputs)
            fix = f"did you mean {meant}?" if meant else f"the inputs are {', '.join(inputs)}"
            problems.append(Problem(f"{name} is no input of the action", fix, source))
    return found


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
    problems += misspelt(known)
    return found


def find_action(name: str) -> tuple[Path, str]:
    """Return the path of one of the actions, and how it is named to the user.

    Raises:
        Failure: it is missing.
    """
    path = next((p for p in (TOOLKIT_DIR / name, TOOLKIT_DIR.parent / name) if p.exists()), None)
    if path is None:
        fix = "copy it from the toolkit, or `make mlflow-update FROM=../toolkit` where it was installed"
        home = TOOLKIT_DIR.parent if TOOLKIT_DIR.name == "scripts" else TOOLKIT_DIR
        raise Failure(Problem(f"{name} is missing", fix, str(home / name)))
    below = path.absolute().is_relative_to(Path.cwd())
    return path, str(path.absolute().relative_to(Path.cwd()) if below else name)


def _read_action(name: str, *, needed: bool) -> tuple[str, str]:
    """Return the text of one of the actions, and how it is named; an empty text for one that is missing.

    Raises:
        Failure: it is missing, and needed.
    """
    try:
        path, shown = find_action(name)
    except Failure:
        if needed:
            raise
        return "", name
    return path.read_text(encoding="utf-8"), shown


def deploy_settings(text: str) -> dict[str, Input]:
    """Return the settings that the text of deploy.yaml has, by their names here."""
    found = {}
    for name, entry in read_inputs(text).items():
        if name not in OF_A_MODEL:
            found[OF_DEPLOYMENTS + name] = replace(entry, name=OF_DEPLOYMENTS + name)
    return found


def load(target: str = "") -> Settings:
    """Read every layer of the workspace that is the current folder.

    With the name of a target, such as `up`, a variable that this one would ignore is a problem as well.

    Without deploy.yaml all but the targets for models work: neither the mlflow-update of 1.0.0 nor the line
    to copy that its README had brings it. What mends a copy, or takes it away, does without action.yaml, too.

    Raises:
        Failure: there is no action.yaml, or no deploy.yaml where it is needed.
    """
    problems = [*stray(target)] if target else []
    action_text, shown = _read_action(ACTION, needed=target not in MENDING)
    deploy_text, deploy_shown = _read_action(DEPLOY, needed=target in OF_MODELS)
    inputs, deploy = read_inputs(action_text), deploy_settings(deploy_text)
    known = {**inputs, **deploy, **TOOLKIT}
    folder = flow_dir()
    live = live_file(folder)
    flow = read_yaml(live, problems) if live else None
    model_args = _live_args(flow, MODEL_CALL, live, read_inputs(deploy_text), problems)
    layers = [
        {
            **_live_args(flow, CALL, live, inputs, problems),
            **{n: replace(s, name=n) for k, s in model_args.items() if (n := OF_DEPLOYMENTS + k) in deploy},
        },
        {
            name: Setting(name, value, FILE, source)
            for name, (value, source) in read_settings(known, problems).items()
        },
        _read_environment(known, problems),
    ]
    merged: dict[str, Setting] = {}
    for name, entry in known.items():
        file = shown if name in inputs else deploy_shown
        source = "default" if name in TOOLKIT else f"{file}:{entry.line}"
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
        server_job(flow),
        {name: merged[name] for name in deploy},
        deploy_text,
        model_job(flow),
        problems,
        target,
    )
