"""mlflow-restart: stop the server, then start it with today's settings."""

from __future__ import annotations

import asyncio

import action
import check
import console
from down import down
from settings import load
from up import up


def main() -> None:
    """Run the target: nothing is stopped when the settings would not start."""
    settings = load()
    check.require(settings)
    action.write_rendered(settings.action_text, settings.overrides)
    asyncio.run(down(settings))
    asyncio.run(up(settings))


if __name__ == "__main__":
    console.run(main)
