"""Variables as people write them: which target takes each, what a misspelt one means, what is yes and no."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

from common.console import Failure, Problem

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "")
"""What is read as a truth value, in any letter case; action.yaml has the same words."""

STORE = ("up", "restart", "backup", "restore", "upgrade", "gc")
"""The targets that read or change the store, or start a server on it."""

OF_TARGETS: dict[str, tuple[str, ...]] = {
    "BY": ("extend",),
    "DIR": ("install",),
    "FOLLOW": ("deploy",),
    "FROM": ("restore", "update"),
    "INTO": ("install",),
    "MODEL": ("deploy", "undeploy"),
    "OLDER_THAN": ("gc",),
    "TAKE_OVER": ("install",),
    "TO": ("backup",),
    "MLFLOW_BACKUP_ARTIFACTS": ("backup",),
    "MLFLOW_FOLLOW": ("logs",),
    "MLFLOW_FORCE": STORE,
    "MLFLOW_FORMAT": ("config",),
}
"""Which target takes a variable that is no setting; the others refuse it."""

OF_ALL = {"MLFLOW_CALLED_IN", "MLFLOW_DRY_RUN", "MLFLOW_GOALS", "MLFLOW_SETUP_LOCK"}
"""Variables of ours that no target refuses."""

OWN = {name.removeprefix("MLFLOW_"): name for name in (*OF_TARGETS, "MLFLOW_DRY_RUN")}
"""The names that are typed for targets, by what they are without MLFLOW_."""

ALIASES = {"http_port": "port", "default_artifact_root": "artifacts_destination"}
"""Names that settings had in an older action, or in examples that were published for it."""

MAKE = "make command line"


def truth(text: str) -> bool | None:
    """Return the truth value that a word stands for, None where it is no such word."""
    return True if text.lower() in TRUE else False if text.lower() in FALSE else None


def yes(variable: str, *, default: bool = False) -> bool:
    """Return the truth value of a variable of a target; an empty one is not set.

    Raises:
        Failure: it is neither yes nor no.
    """
    text = os.environ.get(variable, "")
    found = truth(text) if text else default
    if found is None:
        where = MAKE if variable in command_line() else f"environment {variable}"
        raise Failure(Problem(f"{variable} is {text!r}", "write yes or no", where))
    return found


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


def near(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return the setting that a name which is none may mean, an empty string where none is like it."""
    plain = re.sub(r"[-. ]", "_", name.lower()).removeprefix("mlflow_")
    if plain in known:
        return plain
    if ALIASES.get(plain) in known:
        return ALIASES[plain]
    words = [k for k in known if k in plain.split("_")]
    return next(iter(words or difflib.get_close_matches(plain, known, 1, cutoff)), "")


def misspelt(known: Collection[str]) -> Iterator[Problem]:
    """Yield each variable that looks like one of ours and is none.

    The environment has MLflow's own variables, too, and the command line those of the user's Makefile.
    """
    written = command_line()
    for variable in sorted(written.keys() | os.environ.keys()):
        name = variable.removeprefix("MLFLOW_")
        ours = variable.startswith("MLFLOW_")
        if variable in OF_TARGETS or variable in OF_ALL or (ours and name.lower() in known):
            continue
        if variable in written and variable.upper().startswith("MLFLOW_"):
            setting = near(variable, known)
            own = "" if setting == name.lower().removeprefix("mlflow_") else _near_own(variable, 0.8)
            yield _not_ours(variable, own or _as_setting(setting), MAKE)
        elif variable in written and variable in (name.lower(), name.upper()):
            if name.lower() in known:
                yield _as_typed(_not_ours(variable, _as_setting(name.lower()), MAKE))
            elif (meant := _near_own(variable, 1.0)) and not _goals_of_others():
                yield _as_typed(_not_ours(variable, meant, MAKE))
        elif ours:
            close = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.8)
            meant = _as_setting("port" if name == "HTTP_PORT" else "".join(close))
            if meant := meant or _near_own(variable, 0.8):
                yield replace(_not_ours(variable, meant, "environment"), warning=True)


def _near_own(variable: str, cutoff: float) -> str:
    """Return the variable of targets that a name may mean, an empty string where none is like it."""
    plain = {name.replace("_", ""): own for name, own in OWN.items()}
    typed = variable.upper().removeprefix("MLFLOW_").replace("_", "")
    return plain.get("".join(difflib.get_close_matches(typed, plain, 1, cutoff)), "")


def _as_setting(name: str) -> str:
    return name and f"MLFLOW_{name.upper()}"


def _not_ours(variable: str, meant: str, where: str) -> Problem:
    fix = f"did you mean {meant}?" if meant else "`make mlflow-help` has the names"
    return Problem(f"{variable} is not a setting", fix, where)


def _goals_of_others() -> list[str]:
    """Return the goals of this make that are not ours, for which a variable may be meant."""
    return [goal for goal in os.environ.get("MLFLOW_GOALS", "").split() if not goal.startswith("mlflow-")]


def stray(target: str) -> Iterator[Problem]:
    """Yield each variable of the command line that this target would ignore, and another one takes."""
    goals = os.environ.get("MLFLOW_GOALS", "").split()
    for variable in sorted(command_line().keys() & OF_TARGETS.keys()):
        takers = [f"mlflow-{taker}" for taker in OF_TARGETS[variable]]
        if f"mlflow-{target}" in takers or {*takers} & {*goals}:
            continue
        if _goals_of_others() and not variable.startswith("MLFLOW_"):  # it is meant for them
            continue
        twin = variable.removeprefix("MLFLOW_") if variable.startswith("MLFLOW_") else f"MLFLOW_{variable}"
        fix = f"leave it out: it is for {' and '.join(takers)}"
        if target in OF_TARGETS.get(twin, ()):
            fix = f"did you mean {twin}?"
        yield _as_typed(Problem(f"mlflow-{target} does not take {variable}", fix, MAKE))


def _as_typed(problem: Problem) -> Problem:
    """Return a problem as a warning where the variable was handed on by a make that called this one."""
    return replace(problem, warning=os.environ.get("MAKELEVEL", "1") != "1")
