"""Back up, restore, upgrade or clean up the store of an MLflow server, in a job of its own.

The job has the image, the volumes and the environment of the server's, so that it sees the same store.
MLFLOW_STORE_TASK says what to do, in JSON. The result is a file among the backups, whose name the task has:
a log is for people, and the platform's lags behind the end of a job.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from in_job import durable
from in_job.backup import back_up
from in_job.backup_file import part_of
from in_job.clean_up import clean_up
from in_job.in_use import alone_with
from in_job.look import look
from in_job.recovery import is_interrupted, recover
from in_job.restore import restore
from in_job.store import Store
from in_job.upgrade import undo, upgrade
from in_job.words import explain, redact, say

RESULT = ".mlflow-result-"  # begins the name of every result
LINE = "mlflow-store-result: "
"""Begins the line of the log that is the result where nothing may be changed."""
ERROR = "error: "
"""Begins the line of the log that is the reason of a failure, which whoever waits reads in the result."""
KEPT = 24 * 3600  # seconds; whoever waited for an older result has gone

TASKS: dict[str, Callable[[Store, Path, dict[str, Any]], dict[str, Any]]] = {
    "backup": back_up,
    "restore": restore,
    "upgrade": upgrade,
    "undo": undo,
    "gc": clean_up,
    "look": look,
}
PASSING = (
    "locked|no space|is full|quota|denied|read-?only|not within|written to during|while it was read|"
    "what else writes|ended by signal|killed|connection"
)
"""What a reason says that goes away by itself, or when somebody has done what it names."""
CHANGING = ("restore", "upgrade", "undo")
"""Those that no server may be beside; a clean-up removes what is deleted under a server as well."""


def hand_over(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Keep the result where whoever gave the task reads and removes it; it is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{RESULT}*"):
        if time.time() - old.stat().st_mtime > KEPT:
            old.unlink()
    part = folder / f"{name}.part"
    try:
        durable.write(json.dumps(result), part)
        durable.replace(part, folder / name)
    finally:
        with suppress(OSError):
            part.unlink()


def do(task: dict[str, Any]) -> dict[str, Any]:
    """Do a task, alone where it changes the store, and return its result."""
    store, folder = Store(dict(os.environ)), Path(task["backups"])
    if task.get("dry_run"):  # changes nothing, not even what a job that was killed has left
        return TASKS[task["do"]](store, folder, task)
    with ExitStack() as stack:
        stack.enter_context(store.alone())
        if (task["do"] in CHANGING and not task.get("check")) or is_interrupted(store):
            stack.enter_context(alone_with(store.uri))
        part_of(store, folder).unlink(missing_ok=True)  # a job that was killed has left it
        return recover(store, folder, task) or TASKS[task["do"]](store, folder, task)


def told(error: Exception) -> str:
    """Return why a task has failed, and that the same again helps where the reason is one that goes away."""
    text = explain(error)
    passing = isinstance(error, OSError) or re.search(PASSING, text, re.I)
    return f"{text}; run the same again when that is over" if passing and "again" not in text else text


def main() -> int:
    """Do the task; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    task = json.loads(os.environ["MLFLOW_STORE_TASK"])
    try:
        result = do(task)
    except Exception as error:
        result = {"error": redact(told(error))}
    if task.get("dry_run"):  # which leaves no file, and can be done again
        print(LINE + json.dumps(result), flush=True)
        return 1 if "error" in result else 0
    try:
        hand_over(Path(task["backups"]), task["result"], result)
    except OSError as error:  # as where the volume is full, which the task has failed of; the log has to do
        result.setdefault("error", f"the result cannot be kept: {explain(error)}")
    say(f"{ERROR}{result['error']}" if "error" in result else "done")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
