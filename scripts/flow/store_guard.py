"""Keeping what a shell has set by chance from leading a target to another store than the server's.

`MLFLOW_BACKEND_STORE_URI` and `MLFLOW_ARTIFACTS_DESTINATION` are MLflow's own names, too: one that was
exported for another purpose would be taken for a setting. What was typed for the target, or is written in a
file of the workspace, is meant.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from common.console import Failure, Problem
from flow.drift import is_ours, mounts, of_job
from flow.references import volumes_of
from flow.workspace import Flow, Job
from settings.layers import ENVIRONMENT, redact
from settings.variables import yes

RECORD = Path(".mlflow/last-server.json")
"""Where the last server from here had its store, on each platform: checksums, and texts without secrets."""
NAMES = ("backend_store_uri", "artifacts_destination", "volumes")
OWN_FORCE = ("restore", "gc")
"""The targets whose MLFLOW_FORCE=yes replaces or removes what is in a store: it does not choose the store."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _read() -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(flow: Flow, job: Job) -> None:
    """Keep where a server that has been started has its store; one of an older action does not say."""
    if not is_ours(job):
        return
    started = of_job(job)
    places = {name: {"sha256": _digest(started[name]), "shown": redact(started[name])} for name in NAMES}
    new = RECORD.with_suffix(f".{os.getpid()}")  # two targets may have found the server at once
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({**_read(), flow.settings.platform: places}, file, indent=2)
    new.replace(RECORD)


async def _today(flow: Flow, name: str) -> str:
    """Return a setting's plain value in the words of a job."""
    value = flow.settings.inputs[name].value
    if name == "volumes":
        return json.dumps(mounts(await volumes_of(flow, json.loads(value))))
    env = flow.client.parse.envs([f"X={value}"])
    return env.env["X"] if "X" in env.env else str(env.secret_env["X"])


async def require_same_store(flow: Flow) -> None:
    """Let no value of the environment move the store; MLFLOW_FORCE=yes does, but not for `OWN_FORCE`.

    Raises:
        Failure: the running server, or the last one that was started from here, has another store.
    """
    settings = flow.settings
    chance = [name for name in NAMES if settings.inputs[name].layer == ENVIRONMENT]
    own = settings.target in OWN_FORCE
    if not chance or (yes("MLFLOW_FORCE") and not own):
        return
    who = "the running server" if flow.job else "the last server from here"
    if flow.job:
        then = {name: (_digest(value), redact(value)) for name, value in of_job(flow.job).items()}
    else:
        last = _read().get(settings.platform, {})
        then = {name: (said["sha256"], said["shown"]) for name, said in last.items()}
    found = []
    for name in chance:
        digest, shown = then.get(name, ("", ""))
        if digest and digest != _digest(await _today(flow, name)):
            what = f"{name} is {settings.inputs[name].shown!r}, and {who} has {shown!r}"
            fix = f"`unset MLFLOW_{name.upper()}` if it is meant for something else; "
            fix += "typed on the make command line it is taken" if own else "MLFLOW_FORCE=yes takes it"
            found.append(Problem(what, fix, settings.inputs[name].source))
    if found:
        raise Failure(*found)
