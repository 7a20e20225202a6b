"""mlflow-render: write the rendered actions and print the path of the server's; needs no login."""

from __future__ import annotations

from common import console
from common.console import UNCHANGED, say
from settings import action, problems
from settings.layers import load
from settings.variables import yes


def main() -> None:
    """Run the target."""
    settings = load("render")
    problems.require(settings)
    if yes("MLFLOW_DRY_RUN"):
        for text, overrides in settings.texts().values():
            action.render(text, overrides)
        print(f"would write: {action.RENDERED}")
        say(UNCHANGED)
        return
    action.write_all(settings.texts())
    print(action.RENDERED)


if __name__ == "__main__":
    console.run(main)
