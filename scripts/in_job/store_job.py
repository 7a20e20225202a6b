"""Back up, restore, upgrade or clean up the store of an MLflow server, in a job of its own.

The job has the image, the volumes and the environment of the server's, so that it sees the same store.
MLFLOW_STORE_TASK says what to do, in JSON; the last line printed is the result, after RESULT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from in_job.backup import back_up
from in_job.backup_file import part_of
from in_job.clean_up import clean_up
from in_job.look import look
from in_job.recovery import recover
from in_job.restore import restore
from in_job.store import Store
from in_job.upgrade import undo, upgrade
from in_job.words import explain, redact

RESULT = "mlflow-store-result: "


TASKS: dict[str, Callable[[Store, Path, dict[str, Any]], dict[str, Any]]] = {
    "backup": back_up,
    "restore": restore,
    "upgrade": upgrade,
    "undo": undo,
    "gc": clean_up,
    "look": look,
}


def main() -> int:
    """Do the task; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        task = json.loads(os.environ["MLFLOW_STORE_TASK"])
        store, folder = Store(dict(os.environ)), Path(task["backups"])
        do = TASKS[task["do"]]
        if task.get("dry_run"):  # changes nothing, not even what a job that was killed has left
            result = do(store, folder, task)
        else:
            with store.alone():
                part_of(store, folder).unlink(missing_ok=True)  # a job that was killed has left it
                result = recover(store, folder, task) or do(store, folder, task)
    except Exception as error:
        result = {"error": redact(explain(error))}
    except SystemExit as error:
        if error.code != 1:  # else a child has failed, and said why
            raise
        result = {"error": "it failed for the reason above"}
    print(RESULT + json.dumps(result), flush=True)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
