"""A program that dies, or meets a full disk, at a chosen one of its changes to the file system.

`python faults.py FAULT NUMBER PROGRAM [ARGUMENT ...]` runs PROGRAM (a script of the toolkit) with the fault
at its NUMBERth change, counted from 1 by Python's audit events. It prints nothing of its own, and the exit
code is the program's. A program that makes fewer changes just runs, and `FAULTS_COUNT`, if that is set to a
file, tells how many they were.

FAULT is `kill` (SIGKILL before the change), `fail` (this change fails with ENOSPC, later ones do not) or
`full` (from this change on everything that needs room fails: writing files, making folders).
"""

from __future__ import annotations

import atexit
import errno
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

ROOM = ("open", "os.mkdir")
CHANGES = (*ROOM, "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink")


def install(fault: str, number: int, root: Path, reached: Path | None = None) -> None:
    """Plan a fault for this process; only changes below `root` count. `reached` says if it came to that."""
    count = 0
    if "FAULTS_COUNT" in os.environ:
        atexit.register(lambda: Path(os.environ["FAULTS_COUNT"]).write_text(str(count)))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not args or isinstance(args[0], int) or "pycache" in str(args[0]):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if not Path(os.path.abspath(os.fsdecode(args[0]))).is_relative_to(root):  # noqa: PTH100
            return
        count += 1
        if reached and count == number:
            reached.write_text("reached")
        if fault == "kill" and count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        failing = fault == "fail" and count == number and event != "os.rmdir"
        if failing or (fault == "full" and count >= number and event in ROOM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])

    sys.addaudithook(hook)


if __name__ == "__main__":
    install(sys.argv[1], int(sys.argv[2]), Path(os.environ["FAULTS_BELOW"]))
    program = sys.argv[3]
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(program).parent)
    runpy.run_path(program, run_name="__main__")
