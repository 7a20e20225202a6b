"""Paths of older clients: of the registry below `preview`, which MLflow 3 answers no more."""

from __future__ import annotations

import importlib
from typing import Any

PREVIEW = "/preview/mlflow/"
STARTS = tuple(f"/{kind}/2.0{PREVIEW}" for kind in ("api", "ajax-api"))


class OlderPaths:
    """An app before all others, which see such a request as one for the path without `preview`.

    So what guards the one path guards the other. A path that MLflow itself has is left as it is.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        handlers: Any = importlib.import_module("mlflow.server.handlers")
        self._starts = tuple(handlers._add_static_prefix(start) for start in STARTS)
        rules = importlib.import_module("mlflow.server").app.url_map.iter_rules()
        self._own = {rule.rule for rule in rules if PREVIEW in rule.rule}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let the app answer a request."""
        path = scope.get("path", "")
        if path.startswith(self._starts) and path not in self._own:
            raw = scope.get("raw_path") or b""
            shorter = {"path": path.replace(PREVIEW, "/mlflow/", 1)}
            shorter["raw_path"] = raw.replace(PREVIEW.encode(), b"/mlflow/", 1)
            scope = {**scope, **shorter}
        await self.app(scope, receive, send)


def answer_older_paths(command: list[str]) -> None:
    """Put this before the app that a command names for uvicorn."""
    place, _, name = command[-1].partition(":")
    module = importlib.import_module(place)
    app = getattr(module, name)
    setattr(module, name, (lambda: OlderPaths(app())) if "--factory" in command else OlderPaths(app))
