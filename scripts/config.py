"""mlflow-config: every setting, its value and where that came from; secrets are not shown."""

from __future__ import annotations

import json
import os
from typing import Any

from common import console
from common.console import Failure, Problem, complain
from settings.layers import Setting, load


def _rows(settings: dict[str, Setting]) -> list[list[str]]:
    rows = []
    for setting in settings.values():
        under = setting.overrides
        over = (
            f"{under.shown or '(empty)'} ({under.source})" if under and under.value != setting.value else ""
        )
        rows.append([setting.name, setting.shown or "(empty)", setting.source, over])
    return rows


def _plain(setting: Setting) -> dict[str, Any]:
    under = setting.overrides
    return {"value": setting.shown, "source": setting.source, "overrides": _plain(under) if under else None}


def table(settings: dict[str, Setting]) -> str:
    """Return the settings as aligned columns: setting, value, source, what it overrides."""
    rows = [["SETTING", "VALUE", "SOURCE", "INSTEAD OF"], *_rows(settings)]
    widths = [min(max(len(row[i]) for row in rows), 44) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    """Run the target."""
    settings = load("config")
    wanted = os.environ.get("MLFLOW_FORMAT", "")
    if wanted not in ("", "json"):
        raise Failure(Problem(f"MLFLOW_FORMAT is {wanted!r}", "write json, or leave it out"))
    if wanted:
        print(json.dumps({s.name: _plain(s) for s in settings.all.values()}, indent=2))
    else:
        print(table(settings.all))
    complain(settings.problems)


if __name__ == "__main__":
    console.run(main)
