"""mlflow-help: the targets, and the variables with their current values."""

from __future__ import annotations

import re
from pathlib import Path

import console
from settings import TOOLKIT_DIR, load

TARGET = re.compile(r"^([a-z-]+):.*?## (.*)$", re.MULTILINE)


def targets(makefile: Path) -> list[tuple[str, str]]:
    """Return a makefile's targets with their help texts."""
    return TARGET.findall(makefile.read_text(encoding="utf-8")) if makefile.exists() else []


def main() -> None:
    """Run the target."""
    print("Targets")
    for name, text in [*targets(TOOLKIT_DIR / "mlflow.mk"), *targets(TOOLKIT_DIR.parent / "Makefile")]:
        print(f"  make {name:18} {text}")
    print("\nVariables, on the make command line, in the environment or in mlflow.yaml (as port: 7000)")
    for setting in load().all.values():
        print(f"  MLFLOW_{setting.name.upper():22} {setting.shown or '(empty)'}  [{setting.source}]")


if __name__ == "__main__":
    console.run(main)
