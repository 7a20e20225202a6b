"""mlflow-render: write the rendered action and print its path; needs no login."""

from __future__ import annotations

import action
import check
import console
from settings import load


def main() -> None:
    """Run the target."""
    settings = load()
    check.require(settings)
    print(action.write_rendered(settings.action_text, settings.overrides))


if __name__ == "__main__":
    console.run(main)
