"""mlflow-check: every mistake in the settings that can be found before a job starts, all at once."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

import yaml

import action
import console
from console import Failure, Problem, complain, parse_duration, say
from settings import JOB, LIVE, Setting, Settings, live_file, load


def _one_of(*allowed: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        return "" if value.lower() in allowed else f"use {' or '.join(v for v in allowed if v)}"

    return check


def _port(value: str) -> str:
    return (
        "" if re.fullmatch(r"\d{1,5}", value) and 0 < int(value) < 65536 else "use a number from 1 to 65535"
    )


def _duration(value: str) -> str:
    try:
        return "" if parse_duration(value) >= 60 else "use at least a minute: 1m"
    except ValueError:
        return "use a duration like 10d, 1d12h or 30m"


def _timeout(value: str) -> str:
    try:
        return "" if parse_duration(value) > 0 else "use a duration like 10m or 90s"
    except ValueError:
        return "use a duration like 10m or 90s"


def _job_name(value: str) -> str:
    fits = not value or (3 <= len(value) <= 40 and re.fullmatch(r"[a-z](-?[a-z0-9])*", value))
    return "" if fits else "use 3 to 40 lowercase letters, digits and single hyphens, a letter first"


def _json(kind: type, example: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            found = json.loads(value)
        except ValueError as error:
            return f"use JSON like {example} ({error})"
        items = found.values() if isinstance(found, dict) else found
        if not isinstance(found, kind) or not all(isinstance(item, str) for item in items):
            return f"use JSON text values like {example}"
        return ""

    return check


def _words(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        return f"close the quotes ({error})"
    return ""


def _given(value: str) -> str:
    return "" if value else "set it to a path on a mounted volume, or to s3://, gs:// or wasbs://"


CHECKS: dict[str, Callable[[str], str]] = {
    "mode": _one_of("server", "ui"),
    "artifacts_destination": _given,
    "volumes": _json(list, '["storage:mlflow:/mnt/mlflow:rw"]'),
    "envs": _json(dict, '{"NAME": "value"}'),
    "http_auth": _one_of("true", "false", ""),
    "life_span": _duration,
    "port": _port,
    "job_name": _job_name,
    "extra_params": _words,
    "restart": _one_of("never", "on-failure", "always"),
    "browse": _one_of("true", "false", ""),
    "platform": _one_of("neuro", "local"),
    "timeout": _timeout,
}
"""What a value has to be, by setting: each returns the fix, or an empty string where nothing is wrong."""


def problems(settings: Settings) -> list[Problem]:
    """Return every problem of the settings and of the flow."""
    found = list(settings.problems)
    for setting in settings.all.values():
        if "\0" in setting.value:
            found.append(Problem(f"{setting.name} holds a NUL", "no program can take that", setting.source))
        elif fix := _fix(setting):
            found.append(Problem(f"{setting.name} is {setting.shown!r}", fix, setting.source))
    return found + _flow_problems(settings)


def _fix(setting: Setting) -> str:
    if setting.name not in CHECKS or (setting.layer == LIVE and "${{" in setting.value):
        return ""  # only neuro-flow can say what an expression is
    return CHECKS[setting.name](setting.value)


def _flow_problems(settings: Settings) -> list[Problem]:
    live = live_file(settings.flow_dir)
    if live is None:
        fix = "run make in the folder that holds .neuro, or copy .neuro/live.yaml from the toolkit"
        return [Problem("there is no live flow here", fix, f"{settings.flow_dir}/live.yaml")]
    try:
        root = action.compose(live.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return []  # said while the layers were read
    job = action.find(root, "jobs", JOB)
    called = action.find(job, "action")
    at = called or job
    line = f"{live}:{at.start_mark.line + 1}" if at else str(live)
    expected = f"ws:{action.RENDERED}"
    if job is None:
        return [Problem(f"no job {JOB}", f"add one with `action: {expected}` and `args:`", str(live))]
    if called is None or called.value not in (expected, expected.removesuffix(".yaml")):
        said = called.value if called else "none"
        return [Problem(f"the action of {JOB} is {said}", f"write `action: {expected}`", line)]
    if action.find(job, "args") is None:
        fix = "write `args: {}` at least: without it neuro-flow leaves out the defaults"
        return [Problem(f"{JOB} has no args", fix, line)]
    return []


def require(settings: Settings) -> None:
    """Say every problem, and stop when one is an error.

    Raises:
        Failure: at least one problem is not just a warning.
    """
    found = problems(settings)
    if any(not problem.warning for problem in found):
        raise Failure(*found)
    complain(found)


def main() -> None:
    """Run the target."""
    require(load())
    say("no problem found")


if __name__ == "__main__":
    console.run(main)
