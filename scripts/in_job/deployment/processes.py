"""Processes of a deployment: forked, told apart, and heard through pipes of JSON lines."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from in_job.words import Problem, explain

END = (signal.SIGTERM, signal.SIGINT)


class Child:
    """A forked process that runs `work(tell)`, where `tell(name=value, …)` reaches this one as a dictionary.

    It tells `problem` where `work` has raised something, and ends with exit code 1.
    """

    def __init__(self, work: Callable[[Callable[..., None]], Any], leads: bool = False) -> None:
        reader, writer = os.pipe()
        self._text = b""
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            self._run(work, writer, leads)
        if leads:
            with suppress(OSError):
                os.setpgid(self.pid, 0)  # in both processes: neither waits for the other
        os.close(writer)
        self.reader = reader

    def _run(self, work: Callable[[Callable[..., None]], Any], writer: int, leads: bool) -> None:
        code = 1
        try:
            if leads:
                os.setpgid(0, 0)
            for number in END:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END)

            def tell(**values: Any) -> None:
                data = json.dumps(values).encode() + b"\n"
                with suppress(OSError):  # nobody listens any more
                    while data:
                        data = data[os.write(writer, data) :]

            try:
                work(tell)
                code = 0
            except Exception as error:
                if not isinstance(error, Problem):
                    traceback.print_exc()
                tell(problem=explain(error))
        finally:
            os._exit(code)

    def hear(self) -> list[dict[str, Any]] | None:
        """Wait for something that it tells, and return all that is there; None when it says no more."""
        data = os.read(self.reader, 65536)
        if not data:
            return None
        *lines, self._text = (self._text + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def told(self) -> Iterator[dict[str, Any]]:
        """Yield what it tells until it ends, at last a `problem` where it has told none and failed."""
        heard, problem = self.hear(), False
        while heard is not None:
            yield from heard
            problem = problem or any("problem" in each for each in heard)
            heard = self.hear()
        reason = ended(os.waitpid(self.pid, 0)[1])
        if reason and not problem:
            yield {"problem": reason}


def ended(status: int) -> str:
    """Return how a process has ended, in words; "" where it is as it should."""
    if os.WIFSIGNALED(status):
        return f"it was ended by signal {os.WTERMSIG(status)} (9: out of memory?)"
    return f"it has ended with exit code {os.WEXITSTATUS(status)}" if status else ""
