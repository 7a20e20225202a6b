"""Words and exit codes."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from common import console
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "seconds"), [("10d", 864000), ("1d2h3m", 93780), ("90s", 90), ("1w", 604800), ("0m", 0)]
)
def test_durations(text: str, seconds: int) -> None:
    assert console.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "forever", "1h2d", "-1d", "1.5h", "1d ", "d"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        console.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (93780, "1d2h"), (864000, "10d"), (-5, "0s"), (3660, "1h1m")],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert console.format_duration(seconds) == text


def _fail() -> None:
    raise console.Failure(console.Problem("port is 'x'", "use a number", "mlflow.yaml:3"), code=2)


def _crash() -> None:
    raise ZeroDivisionError("no")


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (_fail, 2, "mlflow: error: mlflow.yaml:3: port is 'x'; use a number\n"),
        (_interrupt, 130, "mlflow: interrupted\n"),
    ],
)
def test_exit_codes(
    command: Callable[[], int | None], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        console.run(command)
    assert (caught.value.code or 0) == code
    assert capsys.readouterr() == ("", said)


def test_a_bug_is_one_line_and_a_log(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        console.run(_crash)
    assert caught.value.code == 3
    log = workspace / console.BUG_LOG
    assert capsys.readouterr().err == (
        f"mlflow: error: this is a bug: ZeroDivisionError: no; please report it with {log}\n"
    )
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_short_waits_are_not_worth_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    with console.waiting_for("the server") as waiting:
        waiting.tick()
        waiting.started -= 5
        waiting.tick("pending")
        waiting.tick("pending")
    assert capsys.readouterr().err == "mlflow: waiting for the server (5 s): pending\n"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_changing_line_fits_the_terminal(width: int) -> None:
    code = (
        "import os, sys; from common import console; console.Waiting._next = 0\n"
        "waiting = console.Waiting('x' * 100); waiting._next = 0; waiting.tick('y' * 100)\n"
    )
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    subprocess.run(
        [sys.executable, "-c", code],
        stderr=child,
        env={**env, "PYTHONPATH": str(ROOT / "scripts")},
        check=True,
    )
    os.close(child)
    line = os.read(parent, 1000).decode().removeprefix("\r\x1b[K")
    os.close(parent)
    assert len(line) == width - 1 or width > len(line) > 150


def test_what_stdout_says_comes_before_what_stderr_says_of_it() -> None:
    code = "from common.console import say; print('a'); say('b'); print('c')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        text=True,
        check=True,
    )
    assert run.stdout == "a\nmlflow: b\nc\n"


SPEAKING = """
import subprocess, sys
from common import console
def main():
    for number in range(30):
        print("x" * 10_000, flush=number % 2)
        console.say("y" * 10_000)
        subprocess.run([sys.executable, "-c", "print(3)"], check=True)  # a child has the same reader
    open("done", "w").close()
    return 7
console.run(main)
"""


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("how", ["reader", "stream"])
def test_without_a_reader_all_is_done_in_silence(how: str, closed: tuple[int, ...], tmp_path: Path) -> None:
    reader, unread = os.pipe()
    os.close(reader)
    kept = {1: subprocess.PIPE, 2: subprocess.PIPE}
    shell = "exec " + " ".join(['"$@"', *(f"{number}>&-" for number in closed if how == "stream")])
    streams = kept | (dict.fromkeys(closed, unread) if how == "reader" else {})
    run = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", SPEAKING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=streams[1],
        stderr=streams[2],
        text=True,
        check=False,
    )
    os.close(unread)
    assert (run.returncode, (tmp_path / "done").exists()) == (7, True), run.stderr
    assert 1 in closed or len(run.stdout.replace("3\n", "")) == 30 * 10_001
    assert 2 in closed or len(run.stderr) == 30 * 10_009


def test_a_reader_that_has_gone_is_noticed() -> None:
    code = "from common import console\nwhile not console.is_unheard(): print('x', flush=True)\n"
    code = f"def main():\n{textwrap.indent(code, '  ')}from common import console; console.run(main)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
