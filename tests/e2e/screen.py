"""A terminal of some width, and what is on it when a command has ended."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

MOVE = "\r\x1b[K"
"""What a changing line begins with."""


def on_terminal(
    command: list[str],
    width: int,
    cwd: Path,
    env: dict[str, str],
    *,
    typed: dict[str, str] | None = None,
    code: int = 0,
) -> tuple[str, list[str]]:
    """Run a command in a terminal; return all it wrote there, and the lines that are left at its end.

    When a key of `typed` has been written, in their order, its value is typed.
    """
    waiting = list((typed or {}).items())
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={"TERM": "xterm", **env},
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    ) as process:
        os.close(child)
        data = b""
        while piece := read(parent):
            data += piece
            if waiting and waiting[0][0].encode() in data:
                os.write(parent, waiting.pop(0)[1].encode())
        assert process.wait() == code, data.decode()
    os.close(parent)
    text = data.decode().replace("\r\n", "\n")
    lines = [line.rpartition(MOVE)[2] for line in text.rstrip("\n").split("\n")]
    return text, [re.sub(r"\x1b\[\d+m", "", line) for line in lines]


def read(terminal: int) -> bytes:
    """Return what a terminal has, nothing when nobody has it open any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says it by EIO
        return b""


def changing(text: str) -> list[str]:
    """Return each state of the changing lines."""
    return [line for line in re.findall(re.escape(MOVE) + r"([^\r\n]*)", text) if line]
