"""mlflow-render: write the rendered action and print its path; needs no login."""

from __future__ import annotations

from common import console
from settings import action, problems
from settings.layers import load


def main() -> None:
    """Run the target."""
    settings = load()
    problems.require(settings)
    print(action.write_rendered(settings.action_text, settings.overrides))


if __name__ == "__main__":
    console.run(main)
