"""What the toolkit says and how it ends: results on stdout, everything else on stderr, fixed exit codes."""

from __future__ import annotations

import contextlib
import gc
import html
import io
import os
import re
import select
import shutil
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MISTAKE, UNREACHABLE, BUG, INTERRUPTED = 1, 2, 3, 130
"""Exit codes: the user's input or the platform's state; no platform or no login; a bug; ^C."""

BUG_LOG = Path(".mlflow/bug.log")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (or, with `warning`, risky), said so that the reader knows what to do next."""

    what: str
    fix: str
    source: str = ""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.what}; {self.fix}"


class Failure(Exception):
    """Ends the command: `problems` are said, one line each, and `code` is its exit code."""

    def __init__(self, *problems: Problem | str, code: int = MISTAKE) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.code = code


UNCHANGED = "nothing has been changed: MLFLOW_DRY_RUN"
_PAGE = re.compile(r"<(?:!doctype\s+html|html)\b.*?(?:</html\s*>|\Z)", re.IGNORECASE | re.DOTALL)


def one_line(text: str) -> str:
    """Return text as one line, of an HTML page in it the title: ingresses answer with such pages."""

    def title(page: re.Match[str]) -> str:
        found = re.search(r"<title[^>]*>(.*?)</title", page[0], re.IGNORECASE | re.DOTALL)
        return html.unescape(found[1]) if found else "an HTML page"

    return " ".join(_PAGE.sub(title, text).split())


def colourful() -> bool:
    """Tell whether stderr is a terminal that wants colours and changing lines."""
    return sys.stderr.isatty() and not ({"NO_COLOR", "CI"} & os.environ.keys())


def columns() -> int:
    """Return the width of the terminal that stderr is, 80 where that is not known."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def width() -> int:
    """Return the width of the terminal that stdout is, 0 where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def row(first: str, text: str) -> None:
    """Print a row of a table; on a terminal what does not fit goes on below its own column."""
    most = width() and max(width(), 60)
    line = f"{first}{text}"
    if 0 < most < len(line):
        line = textwrap.fill(line, most, subsequent_indent=" " * len(first), break_on_hyphens=False)
    print(line)


def say(text: str) -> None:
    """Print a line of progress on stderr, after what stdout has to say before it."""
    with contextlib.suppress(OSError, ValueError):  # a reader that has gone is told by the next print
        sys.stdout.flush()
    print(f"mlflow: {text}", file=sys.stderr, flush=True)


def complain(problems: Iterable[Problem | str]) -> None:
    """Print each problem as one line on stderr."""
    for problem in problems:
        kind = "warning" if isinstance(problem, Problem) and problem.warning else "error"
        if colourful():
            kind = f"\033[{'33' if kind == 'warning' else '31'}m{kind}\033[0m"
        say(f"{kind}: {problem}")


class Waiting:
    """Says what is waited for and for how long: a changing line on a terminal, else a line now and then."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self._next = 2.0  # seconds; shorter waits are not worth a word

    def tick(self, detail: str = "") -> float:
        """Call often; returns the seconds waited so far."""
        waited = time.monotonic() - self.started
        if waited >= self._next:
            text = f"waiting for {self.what} ({waited:.0f} s){': ' + detail if detail else ''}"
            if sys.stderr.isatty():
                text = text[: columns() - len("mlflow: ") - 1]  # a line that wraps could not be changed
            if colourful():
                print(f"\r\033[Kmlflow: {text}", end="", file=sys.stderr, flush=True)
                self._next = waited + 0.5
            else:
                say(text)
                self._next = waited * 2
        return waited

    def done(self) -> None:
        """Take the changing line off the terminal again."""
        if colourful():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[Waiting]:
    """Yield a `Waiting` that leaves no changing line behind."""
    waiting = Waiting(what)
    try:
        yield waiting
    finally:
        waiting.done()


_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> int:
    """Return the seconds in `1d2h3m`-like text; neuro-flow takes the same for a life span, but no weeks.

    Raises:
        ValueError: the text is not of that form.
    """
    match = re.fullmatch(r"(?=.)" + "".join(rf"(?:(\d+){unit})?" for unit in _UNITS), text)
    if not match:
        raise ValueError(f"{text!r} is not a duration like 10d, 1d2h or 30m")
    return sum(int(number or 0) * size for number, size in zip(match.groups(), _UNITS.values(), strict=True))


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `9d23h` or `45s`."""
    parts, rest = [], max(0, int(seconds))
    for unit, size in _UNITS.items():
        if unit != "w" and rest >= size:
            parts.append(f"{rest // size}{unit}")
            rest %= size
    return "".join(parts[:2]) or "0s"


class _Unheard(io.FileIO):
    """stdout or stderr, whose reader may go away as `| head` does: what is written then is dropped."""

    gone = False
    """Whether that has happened."""

    def write(self, data: Any) -> int:
        """Write, or drop, all of it."""
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            self.gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for the processes started from now on, too
            os.close(nowhere)
            return len(data)


def _go_on_unheard() -> None:
    """Let a target do all of its work, whoever reads what it says: half an update would be worse."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed from the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif stream is getattr(sys, f"__{name}__"):  # else it is a test's
            raw = io.BufferedWriter(_Unheard(stream.fileno(), "w", closefd=False))
            lines = stream.line_buffering
            made = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=lines)
            setattr(sys, name, made)


def is_unheard() -> bool:
    """Tell whether the reader of stdout has gone, for what would otherwise go on for ever."""
    raw = getattr(sys.stdout.buffer, "raw", None)
    if isinstance(raw, _Unheard) and raw.gone:
        return True
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except OSError:  # a test's
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run a target's function and exit as the fixed codes say; whatever it raises becomes one line."""
    try:
        _go_on_unheard()
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # until here it is start.py's
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(command())
    except Failure as failure:
        complain(failure.problems)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        BUG_LOG.parent.mkdir(exist_ok=True)
        BUG_LOG.touch(0o600)
        with BUG_LOG.open("a") as log:
            log.write(f"{time.strftime('%F %T')} {sys.argv}\n{traceback.format_exc()}\n")
        complain(
            [f"this is a bug: {type(error).__name__}: {error}; please report it with {BUG_LOG.resolve()}"]
        )
        sys.exit(BUG)
    finally:
        gc.freeze()  # else Python's last act is to look for garbage in all that was imported: 0.2 s
