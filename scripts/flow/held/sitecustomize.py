"""Has `neuro-flow run` import at once, and wait twice: for its words, and for leave to submit.

On PYTHONPATH for that call alone. So the job is evaluated once, side by side with what else there is to do,
and checked before anything starts. `HeldRun` of `flow/neuro_flow.py` is the other side: they exchange files
in the folder MLFLOW_HELD. `apolo run` runs in this process, which has imported all that it takes by then.

neuro-flow also would note every job of the flow with the platform, for its own pages, and fetch the `gh:`
action of each for that, over SSH: without a key at GitHub no server would start beside them. Here our job
alone is noted; the next run of one of them notes them all.

Source: `LiveRunner.run` of apolo_flow 24.12.1. A loop there is the only use of `job_ids`, and `run_subproc`
is what it submits by; evaluating a flow has imported its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

HELD = Path(os.environ["MLFLOW_HELD"])


def _abandoned() -> bool:
    """Tell whether the other side has ended, or has given this up."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(os.environ["MLFLOW_HELD_BY"]), 0)
        return not HELD.is_dir()
    return True


async def _submit(_apolo: str, *words: str) -> None:
    """Hand over what is to be submitted, and do that when there is leave."""
    import apolo_cli.main

    if words[0] != "run":  # a job runs already
        raise SystemExit(1)
    (HELD / "part").write_text(json.dumps(words), "utf-8")
    (HELD / "part").rename(HELD / "job")
    while not (HELD / "go").exists():
        if _abandoned():
            raise SystemExit(1)
        await asyncio.sleep(0.01)
    logging.getLogger().handlers.clear()  # neuro-flow's: `apolo` makes its own
    await asyncio.to_thread(apolo_cli.main.main, list(words))  # which has an event loop of its own


def _hold() -> None:
    """Import, and go on when the words are there."""
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):  # they were for this file alone
        os.environ.pop(name, None)
    sys.dont_write_bytecode = False  # in somebody's repository; what it imports may be
    gc.disable()
    from apolo_flow import context, utils

    importlib.import_module("apolo_flow.cli")
    gc.freeze()  # nothing of that is ever garbage
    gc.enable()
    job = os.environ["MLFLOW_HELD_JOB"]
    context.RunningLiveFlow.job_ids = property(lambda _: [job])  # type: ignore[assignment]
    utils.run_subproc = _submit  # type: ignore[assignment]
    while not (HELD / "words").exists():
        if _abandoned():
            os._exit(1)
        time.sleep(0.01)
    sys.argv += json.loads((HELD / "words").read_text("utf-8"))


try:
    _hold()
except BaseException:  # else it would go on, and submit what nobody has checked
    traceback.print_exc()
    os._exit(1)
