"""Runs one process of a job in its container: starts it, collects its output, stops it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired, run

from .output import Output

HELPER = [sys.executable, "-I", "-S", str(Path(__file__).with_name("container.py"))]
_UNSHARE = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


class StartError(Exception):
    """A job's process cannot be started: the reason, a description, and an exit code if there is one."""

    def __init__(self, reason: str, description: str, exit_code: int | None = None) -> None:
        super().__init__(description)
        self.reason = reason
        self.exit_code = exit_code


@dataclass(frozen=True)
class Mount:
    """A host path that is seen in the container as `target`."""

    source: str
    target: str
    read_only: bool


@dataclass
class Spec:
    """What container.py is told. `namespace` is false where paths are rewritten instead of mounted."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    scratch: str
    namespace: bool
    mounts: list[Mount] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    """Where others, and where only the job itself find it (loopback.py); none: it shares the machine's."""
    reachable: list[str] = field(default_factory=list)
    """Addresses in private networks that it may reach."""
    terminal: bool = False
    """Whether its input and output are a terminal, to which clients are attached."""


@cache
def namespace_command() -> tuple[str, ...] | None:
    """
    Return the command that gives a job mount and PID namespaces of its own, or None if there is no way to.

    Tries it, once: as root, and in a user namespace. LOCAL_PLATFORM_ISOLATION=rewrite forgoes it.
    """
    unshare = shutil.which("unshare")
    if os.environ.get("LOCAL_PLATFORM_ISOLATION") == "rewrite" or sys.platform != "linux" or not unshare:
        return None
    for user in ([], ["--user", "--map-root-user"]):
        command = (unshare, *user, *_UNSHARE)
        with contextlib.suppress(OSError, TimeoutExpired), tempfile.TemporaryDirectory() as scratch:
            spec = Spec(["/bin/true"], {}, "/", scratch, True, [Mount("/etc", "/etc/mounted-here", True)])
            words, data = [*command, *HELPER, "2"], _encode(spec)
            trial = run(words, input=data, stdout=DEVNULL, stderr=PIPE, timeout=10, check=False)
            if trial.stderr.startswith(b"started") and trial.returncode in (0, 137):
                return command
    return None


def _encode(spec: Spec) -> bytes:
    data = json.dumps(asdict(spec)).encode()
    return b"%010d" % len(data) + data


class Process:
    """A running process of a job."""

    def __init__(self, child: asyncio.subprocess.Process, output: Output) -> None:
        self._child = child
        self._readers = [
            asyncio.create_task(self._read(stream, number, output))
            for number, stream in ((1, child.stdout), (2, child.stderr))
            if stream is not None
        ]
        self.ended = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, spec: Spec, output: Output) -> "Process":
        """Start the command of `spec`; returns when it runs, or raises StartError."""
        prefix = (namespace_command() or ()) if spec.namespace else ()
        read, write = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *prefix,
                *HELPER,
                str(write),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=(write,),
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError as error:
            os.close(read)
            raise StartError("Error", f"cannot start {HELPER[0]}: {error.strerror}") from error
        finally:
            os.close(write)
        process = cls(child, output)
        process._control(_encode(spec))
        report = (await _read_pipe(read)).decode().strip()
        if report == "started":
            return process
        code = await process.ended
        number, _, text = report.partition(" ")
        raise StartError(
            "ContainerCannotRun",
            text or "the container ended before its command was started; see the job's log",
            int(number) if number.isdigit() else code,
        )

    async def stop(self, grace: float) -> None:
        """End the process: SIGTERM, after `grace` seconds SIGKILL; returns when all of it is gone."""
        for control, seconds in ((b"T", grace), (b"K", 2.0)):
            self._control(control)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), seconds)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        await self.ended

    def type(self, data: bytes) -> None:
        """Pass on what a client types; the process has to have a terminal."""
        self._control(b"W%010d" % len(data) + data)

    def resize(self, lines: int, columns: int) -> None:
        """Tell the process's terminal how large the client's is."""
        self._control(b"S%04d%04d" % (lines, columns))

    def _control(self, data: bytes) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it has just ended
            if self._child.stdin is not None:
                self._child.stdin.write(data)

    async def _wait(self) -> int:
        code = await self._child.wait()
        # What it left behind has been killed; anything that still holds its output is not waited for.
        _, late = await asyncio.wait(self._readers, timeout=2)
        for reader in late:
            reader.cancel()
        if self._child.stdin is not None:
            self._child.stdin.close()
        return 128 - code if code < 0 else code

    @staticmethod
    async def _read(stream: asyncio.StreamReader, number: int, output: Output) -> None:
        while data := await stream.read(65536):
            output.write(number, data)


async def _read_pipe(descriptor: int) -> bytes:
    """Read a pipe up to a line's end or its own."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await reader.readline()
    finally:
        transport.close()
