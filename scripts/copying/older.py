"""Taking over a flow's job that calls an older action for an MLflow server: only what it calls changes.

What the older action took, and did, by release (gh:neuro-actions/mlflow, then gh:apolo-actions/mlflow):
1.11 to 1.25 took `default_artifact_root`, a path that clients wrote to themselves, and ran MLflow 1. Since
2.1.1 it is `artifacts_destination`, and the server hands artifacts on; 3.1.4 ran MLflow 3.1. All of them
opened a browser at the start. `http_auth` was the text `False` by default, later the empty text, and
neuro-flow took any text but the empty one for true.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common.console import Failure, Problem, say
from copying.installation import word
from settings.action import Input, read_inputs
from settings.file import pairs
from settings.live import CALL, ActionJob, action_jobs
from settings.values import CHECKS
from settings.variables import near, truth

RENAMED = {"default_artifact_root": "artifacts_destination"}
"""Inputs that have another name now."""


@dataclass
class TakeOver:
    """What taking over a job does to the text of its flow, what is different then, and what is in the way."""

    job: ActionJob
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def apply(self, text: str) -> tuple[str, list[tuple[str, str]]]:
        """Return the text of the flow afterwards, and each changed line as it is then and as it was."""
        mark = "\ufeff" if text.startswith("\ufeff") else ""  # the parser does not count it
        new = text = text.removeprefix(mark)
        for start, end, piece in sorted(self.edits, reverse=True):
            new = new[:start] + piece + new[end:]
        lines = zip(new.split("\n"), text.split("\n"), strict=True)
        return mark + new, [
            (after.rstrip("\r"), before.rstrip("\r")) for after, before in lines if after != before
        ]


def older_jobs(root: yaml.Node | None, repository: Path) -> list[ActionJob]:
    """Return the jobs that call an older action for an MLflow server, or an older copy of this one."""
    return [job for job in action_jobs(root) if _is_older(job.action, repository)]


def _is_older(action: str, repository: Path) -> bool:
    if re.match(r"gh:[\w.-]+/mlflow@", action):
        return True
    if not action.startswith("ws:") or action.startswith(CALL.removesuffix(".yaml")):
        return False
    names = [action[3:] + end for end in ("", ".yml", ".yaml")]
    path = next((repository / name for name in names if (repository / name).is_file()), None)
    try:
        inputs = read_inputs(path.read_text(encoding="utf-8")) if path else {}
    except (UnicodeDecodeError, yaml.YAMLError):
        return False
    return "backend_store_uri" in inputs and bool({*RENAMED, *RENAMED.values()} & inputs.keys())


def take_over(job: ActionJob, text: str, inputs: dict[str, Input], path: Path) -> TakeOver:
    """Return what it takes to have a job call our action.

    Args:
        job: the job.
        text: the flow that it was read from.
        inputs: those of our action.
        path: the flow's path, for messages.
    """
    found = TakeOver(job)
    text = text.removeprefix("\ufeff")
    edit = found.edits.append
    line = job.call.start_mark.line + 1

    def trouble(what: str, fix: str, at: int) -> None:
        found.problems.append(Problem(what, fix, f"{path}:{at}"))

    if job.call.start_mark.index < job.key.start_mark.index:
        trouble(f"the action of {job.name} is an alias", "write it out", job.key.start_mark.line + 1)
    elif "\n" in text[job.call.start_mark.index : job.call.end_mark.index]:
        trouble(f"the action of {job.name} is broken over lines", "write it on one", line)
    else:
        edit((job.call.start_mark.index, job.call.end_mark.index, CALL))
    if not isinstance(job.args, yaml.MappingNode):
        trouble(f"{job.name} has no args", "write them as a mapping, or take it out", line)
        return found
    args = {str(key.value): (key, value) for key, value, _ in pairs(job.args)}
    for name, (key, value) in args.items():
        at, now = key.start_mark.line + 1, RENAMED.get(name, name)
        if now != name and now in args:
            trouble(f"{job.name} has {name} and {now}, which are one now", f"keep {now}", at)
        elif now != name and any(key is own for own, _ in job.args.value):
            edit((key.start_mark.index, key.end_mark.index, now))
        elif now not in inputs:
            meant = near(name, inputs)
            fix = f"did you mean {meant}?" if meant else f"the inputs are {', '.join(inputs)}"
            trouble(f"{name} is no input of the action", fix, at)
        elif now != name:
            trouble(f"{name} comes by a merge key", f"write {now} into the args of {job.name}", at)
        plain = isinstance(value, yaml.ScalarNode) and "${{" not in value.value and "$[[" not in value.value
        fix = CHECKS[now](value.value) if plain and now in CHECKS else ""
        if fix:
            trouble(f"{name} is {value.value!r}", fix, at)
    found.notes += _notes(job, {name: value for name, (_, value) in args.items()})
    return found


def _notes(job: ActionJob, args: dict[str, yaml.Node]) -> Iterator[str]:
    """Yield what is different with our action."""
    yield f"stays: the job's name, {job.name}, its volumes, and its other arguments"
    yield "MLflow: the first start upgrades the store, for good; SQLite is copied first, to backups beside it"
    if "default_artifact_root" in args:
        yield "artifacts: those there stay where they are; of new experiments they go through the server, so"
        yield "    that jobs need the volume only for experiments that are there already"
    if "browse" not in args:
        yield "browse: no browser is opened at the start any more; browse: True opens one"
    http_auth = args.get("http_auth")
    said = http_auth.value if isinstance(http_auth, yaml.ScalarNode) else None
    if said is None and job.action.startswith("gh:neuro-actions/"):
        yield "http_auth: is off by default; releases whose default was the text False let only users of the"
        yield "    platform in all the same: http_auth: True does that"
    elif said and truth(said) is False:
        yield f"http_auth: {said} means off now; before, any text but an empty one was on: which do you want?"


def stays(older: TakeOver) -> str:
    """Return what becomes of a job that is not taken over, and of its runs."""
    return f"job {older.job.name} goes on calling {older.job.action}, and its runs stay on its volume"


def agreed(older: TakeOver) -> bool:
    """Tell whether the user wants a job to be taken over; asks where somebody can answer.

    Raises:
        Failure: nobody has said so.
    """
    said = word("TAKE_OVER")
    if not said and sys.stdin.isatty() and sys.stderr.isatty():
        print(f"mlflow: take over the job {older.job.name}? yes or no: ", end="", file=sys.stderr, flush=True)
        said = sys.stdin.readline().strip() or "no"
    if said == older.job.name or (said and truth(said)):
        return True
    if said and truth(said) is False:
        say(f"nothing has been changed: {stays(older)}")
        return False
    fix = "TAKE_OVER=yes does it, TAKE_OVER=no leaves it" if not said else "write yes or no"
    what = f"{stays(older)} until it is taken over" if not said else f"TAKE_OVER is {said!r}"
    raise Failure(Problem("nothing has been changed", f"{what}; {fix}", older.job.name))


def put_back(text: str, replaced: list[tuple[str, str]]) -> str | None:
    """Return the text of a flow with the lines of a take-over as they were, None where they were edited."""
    lines = text.split("\n")
    for after, before in replaced:
        found = [number for number, line in enumerate(lines) if line.rstrip("\r") == after]
        if len(found) != 1:
            return None
        lines[found[0]] = before + lines[found[0]][len(after) :]
    return "\n".join(lines)
