"""What a deployment says: lines in its log, and the JSON of `GET /deployment`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from in_job.words import redact

PATH = "/deployment"


def say(text: str) -> None:
    """Print one redacted line on stderr."""
    print("mlflow-deploy:", redact(text), file=sys.stderr, flush=True)


class State:
    """What is known of a deployment, in a file that all its processes read and only the first one writes."""

    def __init__(self, folder: Path, uri: str, follow: bool) -> None:
        self.path = folder / "deployment.json"
        self.values: dict[str, Any] = {
            "model": "",
            "version": None,
            "uri": uri,
            "model_id": None,
            "flavors": [],
            "state": "starting",
            "step": "starting",
            "example": None,
            "signature": None,
            "since": int(time.time()),
            "follow": follow,
            "problem": "",
        }
        self.set()

    def known(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what of a process's words belongs to it."""
        return {name: value for name, value in told.items() if name in self.values}

    def set(self, **values: Any) -> None:
        """Change some of it. `since`, in seconds, is when `state` became what it is."""
        if values.get("state", self.values["state"]) != self.values["state"]:
            self.values["since"] = int(time.time())
        self.values.update(values)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.values), "utf-8")
        os.replace(new, self.path)
