"""What somebody's makefiles have under our names, and what of that would get in the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common.console import Problem
from copying.installation import includes, is_toolkit
from copying.transaction import read
from settings.layers import TOOLKIT_DIR, load
from settings.variables import OF_ALL, OF_TARGETS

_ASSIGNED = r" *((?:(?:export|override|private)\s+)*)(?:define\s+(MLFLOW_\w+)|(MLFLOW_\w+)\s*[:?+!]*=)"


def read_all(root: Path, path: Path, folder: Path) -> dict[Path, str]:
    """Return a makefile and those that it includes by name, with their texts; a copy of ours is not read."""
    found: dict[Path, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop(0)
        data = read(root / path) if (root / path).is_file() else None
        if data is not None and path not in found:
            found[path] = data.decode("utf-8", "surrogateescape")
            names = [name for line in found[path].splitlines() for name in includes(root, line)]
            waiting += [name for name in names if not is_toolkit(root, name, folder)]
    return found


def taken_names(root: Path, folder: Path, makefiles: dict[Path, str]) -> Iterator[Problem]:
    """Yield what in makefiles has a name of ours: a target, a variable, or another copy of the toolkit."""
    ours = (TOOLKIT_DIR / "mlflow.mk").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^(mlflow-\w+):", ours))
    of_mk = set(re.findall(r"(?m)^(MLFLOW_\w+) *:?=", ours))
    exported = _exported("\n".join(makefiles.values()))
    for makefile, text in makefiles.items():
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{makefile}:{number}"
            if any(is_toolkit(root, name, folder) for name in includes(root, line)):
                fix = "take that line and its copy out; or update it the way it came"
                yield Problem("includes a copy of the toolkit already", fix, where)
            rule = re.match(r"([^\t#=:][^#=:]*)::?(?!=)", line)
            for name in sorted(targets & set(rule[1].split() if rule else [])):
                yield Problem(f"there is a target {name} already", "rename it", where)
            assigned = re.match(_ASSIGNED, line)
            name = (assigned[2] or assigned[3]) if assigned else ""
            if name in of_mk:
                yield Problem(f"there is a variable {name} already", "rename it", where)
            elif assigned and (kind := _kind(name)):
                yield _of_theirs(name, kind, "export" in assigned[1] or exported(name), where)


def _kind(name: str) -> str:
    """Return what a variable means to our targets, an empty string where it means nothing."""
    if name.removeprefix("MLFLOW_").lower() in load().all:
        return f"the setting {name.removeprefix('MLFLOW_').lower()}"
    return "a word for them" if name in OF_TARGETS or name in OF_ALL else ""


def _of_theirs(name: str, kind: str, exported: bool, where: str) -> Problem:
    if exported:
        fix = (
            "rename it, or export it only to what needs it (`TARGET: export NAME = value`); "
            "what is meant for the server belongs into mlflow.yaml"
        )
        return Problem(f"{name} is exported, and our targets take it for {kind}", fix, where)
    fix = "what is meant for the server belongs into mlflow.yaml"
    return Problem(f"{name} is not exported, so our targets do not see it", fix, where, warning=True)


def _exported(text: str) -> Callable[[str], bool]:
    """Return what tells whether makefiles hand a variable on to what their recipes run."""
    words = re.findall(r"(?m)^ *(un)?export\b[ \t]*([^#\n]*)", text)
    # `export` alone; or by a function, as of the names in an `.env`
    everything = bool(re.search(r"(?m)^ *(export[ \t]*(#.*|\$\(.*)?$|\.EXPORT_ALL_VARIABLES *:)", text))
    names = {name for un, said in words if not un and "=" not in said for name in said.split()}
    kept = {name for un, said in words if un for name in said.split()}
    return lambda name: name not in kept and (everything or name in names)
