"""mlflow-config: every setting, its value and where that came from; secrets are not shown."""

from __future__ import annotations

import json
import os
from typing import Any

from common import console
from common.console import Failure, Problem, complain, row, width
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


def show(settings: dict[str, Setting]) -> None:
    """Print the settings in columns: setting, value, source, what it overrides.

    On a terminal that is too narrow for them all but the setting share one column.
    """
    rows = [["SETTING", "VALUE", "SOURCE", "INSTEAD OF"], *_rows(settings)]
    widths = [min(max(len(cells[i]) for cells in rows), 44) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(cells, widths, strict=False)), cells[3]]).rstrip()
        for cells in rows
    ]
    if not width() or max(map(len, lines)) <= width():
        print("\n".join(lines))
        return
    for name, value, source, over in rows[1:]:
        row(f"{name:{widths[0]}}  ", f"{value}  [{source}]" + (f"  instead of {over}" if over else ""))


def main() -> None:
    """Run the target."""
    settings = load("config")
    wanted = os.environ.get("MLFLOW_FORMAT", "")
    if wanted not in ("", "json"):
        raise Failure(Problem(f"MLFLOW_FORMAT is {wanted!r}", "write json, or leave it out"))
    if wanted:
        print(json.dumps({s.name: _plain(s) for s in settings.all.values()}, indent=2))
    else:
        show(settings.all)
    complain(settings.problems)


if __name__ == "__main__":
    console.run(main)
