"""mlflow-render: write the rendered action and print its path; needs no login."""

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
        action.render(settings.action_text, settings.overrides)
        print(f"would write: {action.RENDERED}")
        say(UNCHANGED)
        return
    print(action.write_rendered(settings.action_text, settings.overrides))


if __name__ == "__main__":
    console.run(main)
