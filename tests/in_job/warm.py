"""Runs code in forks of one process that has imported modules: a task then starts in milliseconds.

Each line read is a request in JSON: `code`, `argv`, `env`, `out`. Each line written is the id of the process
that runs it, the leader of a process group of its own; when it has ended, its exit code is in the file
OUT.code.
"""

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any


def run(request: dict[str, Any]) -> None:
    """Become the process that was asked for."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # else it would read the requests
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = request["argv"]
    tempfile.tempdir = None
    os.chdir(os.environ["HOME"])
    exec(request["code"], {"__name__": "code"})  # noqa: S102


def supervise(request: dict[str, Any]) -> None:
    """Start it, say its id, wait for it, write its exit code down."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if not pid:
        os.setsid()
        code = 1
        try:
            run(request)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.write(3, f"{pid}\n".encode())
    status = os.waitpid(pid, 0)[1]
    part = Path(request["out"] + ".part")
    part.write_text(str(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))
    part.rename(request["out"] + ".code")
    os._exit(0)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # else each fork copies the memory in which collections mark what was imported
    os.dup2(1, 3)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(3, b"ready\n")
    for line in sys.stdin:
        if not os.fork():
            supervise(json.loads(line))
