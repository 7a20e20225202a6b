"""Waiting: for what is not there yet, and for work in a child."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from in_job.words import Problem, explain, say

FORKS = sys.platform == "linux"  # macOS ends a process that has imported MLflow and forks


def wait(attempt: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what `attempt` does once it raises no OSError; Problem after `seconds`."""
    deadline, told = time.monotonic() + seconds, False
    while True:
        try:
            return attempt()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Problem(f"{what}: not within {seconds:.0f} s ({error})") from error
            if not told:
                say(f"waiting up to {seconds:.0f} s for {what}")
            told = True
            time.sleep(0.5)


def in_child(work: Callable[..., None], *arguments: object) -> None:
    """Run `work` in a forked process, which leaves no trace in this one; Problem says why it has failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            work(*arguments)
            code = 0
        except Exception as error:
            os.write(writer, explain(error).encode(errors="replace")[:4000])
        finally:
            os._exit(code)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as said:
            reason = said.read().decode(errors="replace")
        status = os.waitpid(child, 0)[1]
    except SystemExit:
        os.kill(child, signal.SIGKILL)
        raise
    if os.WIFSIGNALED(status):
        raise Problem(f"preparing the database was ended by signal {os.WTERMSIG(status)} (9: out of memory?)")
    if status:
        raise Problem(reason)
