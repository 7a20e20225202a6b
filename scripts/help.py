"""mlflow-help: the targets, and the variables with their current values."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from common import console
from common.console import complain, row
from copying.installation import installed, version_of, without_login
from settings.action import ACTION
from settings.layers import TOOLKIT_DIR, find_action, load
from settings.variables import MAKE

TARGET = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)


def targets(makefile: Path) -> list[tuple[str, str]]:
    """Return a makefile's targets with their help texts."""
    found = TARGET.findall(makefile.read_text(encoding="utf-8"))
    ours = f"{os.path.relpath(TOOLKIT_DIR)}/"
    return [(name, text.replace("$(MLFLOW_DIR)", ours).replace("$$", "$")) for name, text in found]


def pages() -> str:
    """Return where the documentation is: in a clone, or where the copy in somebody's repository came from."""
    record = installed(TOOLKIT_DIR)
    origin = without_login(record.origin) if record else ""
    clone = TOOLKIT_DIR.parent if (TOOLKIT_DIR.parent / "docs/arguments.md").is_file() else ""
    examples = f"examples of every argument are in the comments of {find_action(ACTION)[1]}"
    return f"README.md and docs/ of {origin or clone}; {examples}, too" if origin or clone else examples


def main() -> None:
    """Run the target; arguments are further makefiles to show."""
    settings = load("help")
    print(f"MLflow server toolkit {version_of(TOOLKIT_DIR)} in {TOOLKIT_DIR}\n\nTargets")
    for makefile in [TOOLKIT_DIR / "mlflow.mk", *map(Path, sys.argv[1:])]:
        for name, text in targets(makefile):
            row(f"  make {name:18} ", text)
    print("\nVariables, typed to make, in the environment or in mlflow.yaml (as port: 7000)")
    for setting in settings.all.values():
        row(f"  MLFLOW_{setting.name.upper():22} ", f"{setting.shown or '(empty)'}  [{setting.source}]")
    print("\nPages")
    row("  ", pages())
    complain(problem for problem in settings.problems if problem.source == MAKE)


if __name__ == "__main__":
    console.run(main)
