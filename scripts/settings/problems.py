"""Every mistake that shows without a platform, all at once."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from common.console import Failure, Problem, complain, say
from settings import access, action, values
from settings.layers import ENVIRONMENT, LIVE, Setting, Settings, load, redact
from settings.live import CALL, JOB, live_file, project_file, server_jobs
from settings.variables import MAKE


def problems(settings: Settings) -> list[Problem]:
    """Return every problem that shows without a platform."""
    found = [*settings.problems, *_flow_problems(settings)]
    found += [*_project_problems(settings), *_place_problems(settings)]
    plain = [setting for setting in settings.all.values() if not is_expression(setting)]
    wrong = [problem for setting in plain if (problem := value_problem(setting, setting.value))]
    if not wrong and not any(map(is_expression, settings.inputs.values())):
        found += relation_problems(settings, {name: s.value for name, s in settings.inputs.items()})
    return found + wrong


def is_expression(setting: Setting) -> bool:
    """Tell whether only neuro-flow can say what the value is."""
    return setting.layer == LIVE and "${{" in setting.value


def value_problem(setting: Setting, value: str) -> Problem | None:
    """Return what is wrong with a setting's value, by itself."""
    if "\0" in value:
        return Problem(f"{setting.name} holds a NUL", "no program can take that", setting.source)
    fix = values.CHECKS[setting.name](value) if setting.name in values.CHECKS else ""
    if fix and setting.layer != LIVE and "${{" in value:
        fix = "expressions work in the `args` of live.yaml only; here write a plain value"
    return Problem(f"{setting.name} is {redact(value)!r}", fix, setting.source) if fix else None


def relation_problems(settings: Settings, inputs: dict[str, str]) -> list[Problem]:
    """Return what is wrong with the inputs' values taken together."""
    return [
        Problem(finding.what, finding.fix, settings.inputs[finding.name].source, finding.warning)
        for finding in (*values.together(inputs), *access.findings(inputs))
    ]


def _flow_problems(settings: Settings) -> list[Problem]:
    live = live_file(settings.flow_dir)
    if live is None:
        fix = "run make in the folder that holds .neuro, or copy .neuro/live.yaml from the toolkit"
        if settings.flow_dir.name == ".apolo" and live_file(Path(".neuro")):
            fix = "neuro-flow reads .apolo where both exist: move live.yaml there, or remove .apolo"
        return [Problem("there is no live flow here", fix, f"{settings.flow_dir}/live.yaml")]
    try:
        root = action.compose(live.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return []  # said while the layers were read
    name = settings.job
    callers = server_jobs(root)
    job = action.find(root, "jobs", name)
    called = action.find(job, "action")
    at = called or job
    line = f"{live}:{at.start_mark.line + 1}" if at else str(live)
    if len(callers) > 1 and JOB not in callers:
        what = f"{' and '.join(callers)} call {CALL}: which of them is the server?"
        return [Problem(what, f"let one of them call it, or name the server's {JOB}", str(live))]
    if job is None:
        return [Problem(f"no job {name}", f"add one with `action: {CALL}` and `args:`", str(live))]
    if called is None or called.value not in (CALL, CALL.removesuffix(".yaml")):
        said = called.value if called else "none"
        return [Problem(f"the action of {name} is {said}", f"write `action: {CALL}`", line)]
    if action.find(job, "args") is None:
        fix = "write `args: {}` at least: without it neuro-flow leaves out the defaults"
        return [Problem(f"{name} has no args", fix, line)]
    return []


def _project_problems(settings: Settings) -> list[Problem]:
    """Return a problem for each name in project.yml that is not written out: jobs are found by them."""
    file = project_file(settings.flow_dir)
    try:
        root = action.compose(file.read_text(encoding="utf-8")) if file else None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(getattr(error, "problem", "") or error).split())
        return [Problem(f"it cannot be read: {said}", "correct the file", str(file))]
    nodes = [(key, node) for key in ("id", "project_name") if (node := action.find(root, key))]
    return [
        Problem(f"{key} is {node.value!r}", "write the name itself", f"{file}:{node.start_mark.line + 1}")
        for key, node in nodes
        if not isinstance(node, yaml.ScalarNode) or re.search(r"\$\{\{|\$\[\[", node.value)
    ]


def _place_problems(settings: Settings) -> list[Problem]:
    found = []
    if Path.home() == Path.cwd() and settings.platform == "neuro":
        fix = "work in a folder below it: the first login makes .apolo here, which hides .neuro"
        found.append(Problem("the workspace is your HOME", fix, str(Path.cwd())))
    if settings.flow_dir.name == ".apolo" and Path(".neuro").is_dir():
        fix = "keep one of the two"
        found.append(Problem("neuro-flow reads .apolo and leaves .neuro aside", fix, ".apolo", warning=True))
    return found


def require(settings: Settings) -> None:
    """Say every problem, and stop when one is an error.

    Raises:
        Failure: at least one problem is not just a warning.
    """
    stop_at_errors(problems(settings))


def begin(target: str) -> Settings:
    """Return the settings of a target that works on the store, and say which of them the shell decided.

    Raises:
        Failure: at least one problem is not just a warning.
    """
    settings = load(target)
    require(settings)
    chance = [s for s in settings.inputs.values() if s.layer == ENVIRONMENT]
    if chance:
        say("from the environment: " + ", ".join(f"MLFLOW_{s.name.upper()}={s.shown}" for s in chance))
    return settings


def typed(target: str) -> Settings:
    """Return the settings of a target that needs none to be right: only what was typed for it has to be ours.

    Raises:
        Failure: make's command line has a variable that is not, such as a misspelt one.
    """
    settings = load(target)
    stop_at_errors([problem for problem in settings.problems if problem.source == MAKE])
    return settings


def stop_at_errors(found: list[Problem]) -> None:
    """Say the problems.

    Raises:
        Failure: at least one is not just a warning.
    """
    if any(not problem.warning for problem in found):
        raise Failure(*found)
    complain(found)
