"""mlflow-help: the targets, and the variables with their current values."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

from common import console
from common.console import complain
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


def show(first: str, text: str) -> None:
    """Print a line of a table; on a terminal what does not fit goes on below its own column."""
    width = max(shutil.get_terminal_size().columns, 60) if sys.stdout.isatty() else 0
    line = f"  {first}{text}"
    if 0 < width < len(line):
        line = textwrap.fill(line, width, subsequent_indent=" " * (len(first) + 2), break_on_hyphens=False)
    print(line)


def main() -> None:
    """Run the target; arguments are further makefiles to show."""
    settings = load("help")
    print(f"MLflow server toolkit {version_of(TOOLKIT_DIR)} in {TOOLKIT_DIR}\n\nTargets")
    for makefile in [TOOLKIT_DIR / "mlflow.mk", *map(Path, sys.argv[1:])]:
        for name, text in targets(makefile):
            show(f"make {name:18} ", text)
    print("\nVariables, typed to make, in the environment or in mlflow.yaml (as port: 7000)")
    for setting in settings.all.values():
        show(f"MLFLOW_{setting.name.upper():22} ", f"{setting.shown or '(empty)'}  [{setting.source}]")
    print("\nPages")
    show("", pages())
    complain(problem for problem in settings.problems if problem.source == MAKE)


if __name__ == "__main__":
    console.run(main)
