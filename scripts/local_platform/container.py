"""
The first process of a job: mounts its volumes, starts its command, hands on signals, leaves nothing behind.

Runs as a script of its own (PID 1 of the job's PID namespace where there is one), with nothing but the
standard library. Standard input is the platform's control pipe: the specification in JSON after its length,
then single bytes. `T` and `I` send the command SIGTERM or SIGINT; `K`, or the end of the pipe (the platform
is gone, however it went), ends everything at once. One line on the descriptor that is the only argument tells
the outcome: `started`, or `CODE MESSAGE` when the command cannot be started.
"""
# Paths are plain text here: the folders are looked at through /proc, after a chroot, and in a forked child.
# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH114, PTH115, PTH116, PTH120, PTH208, PTH211

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

#: Linux only, as all mounting is.
O_PATH: int = getattr(os, "O_PATH", 0)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
#: Flags of a mount that one made in a user namespace may not drop: nosuid, nodev, noexec, (no|rel)atime.
_KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}


class StartError(Exception):
    """The command cannot be started; `code` is the exit code that Docker would give."""

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message)
        self.code = code


class Mounts:
    """Bind mounts of the job's own mount namespace. The host's file system is never written to."""

    def __init__(self, scratch: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._scratch = scratch
        self._volumes: list[str] = []  # targets; folders that are missing there are made inside the volume
        self._memory: set[int] = set()  # devices of the file systems in memory

    def apply(self, mounts: list[dict[str, Any]], cwd: str) -> None:
        """Mount all volumes (`{source, target, read_only}`), outer ones first; make the working directory."""
        ordered = sorted(mounts, key=lambda mount: str(mount["target"]).count("/"))
        # Opened before anything is covered: a target may hide another mount's source.
        sources = [os.open(mount["source"], O_PATH) for mount in ordered]
        for mount, source in zip(ordered, sources, strict=True):
            self._bind(source, mount["target"])
        self._make(cwd, True)
        for mount in ordered:
            if mount["read_only"]:
                self._read_only(mount["target"])
        for source in sources:
            os.close(source)

    def _mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        texts = [text.encode() for text in (source, target, kind)]
        if self._libc.mount(*texts, ctypes.c_ulong(flags), data.encode() or None) != 0:
            raise StartError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")

    def _bind(self, source: int, target: str) -> None:
        path = f"/proc/self/fd/{source}"
        self._make(target, os.path.isdir(path))
        self._mount(path, target, "", MS_BIND | MS_REC)
        self._volumes.append(target.rstrip("/") + "/")

    def _read_only(self, target: str) -> None:
        present = os.statvfs(target).f_flag
        kept = sum(flag for bit, flag in _KEPT.items() if present & bit)
        self._mount("", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)

    def _make(self, path: str, is_folder: bool) -> None:
        """Make sure that there is a folder, or file, at `path` without leaving anything on the host."""
        if os.path.exists(path):
            return
        ancestor = os.path.dirname(path)
        while not os.path.isdir(ancestor):
            ancestor = os.path.dirname(ancestor)
        in_volume = any((ancestor + "/").startswith(volume) for volume in self._volumes)
        if not in_volume and os.stat(ancestor).st_dev not in self._memory:
            self._mirror(ancestor)
        try:
            os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
            if not is_folder:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StartError(f"cannot make the mount point {path}: {error.strerror}") from error

    def _mirror(self, folder: str) -> None:
        """
        Cover a folder by one in memory that shows the same entries and can take more.

        Bind mounts of each entry, not an overlay: they work in any user namespace, and on top of an overlay.
        """
        entries = os.listdir(folder)
        original = os.open(folder, O_PATH)
        # Nothing can be mounted over the root itself: build another one, and move there.
        cover = self._scratch if folder == "/" else folder
        self._mount("tmpfs", cover, "tmpfs", 0, "mode=755")
        self._memory.add(os.stat(cover).st_dev)
        for entry in entries:
            source, target = f"/proc/self/fd/{original}/{entry}", f"{cover}/{entry}"
            if os.path.islink(source):
                os.symlink(os.readlink(source), target)
                continue
            if os.path.isdir(source):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
            self._mount(source, target, "", MS_BIND | MS_REC)
        os.close(original)
        if folder == "/":
            os.chroot(cover)
            os.chdir("/")


def _execute(spec: dict[str, Any], failed: int) -> NoReturn:
    """Become the job's command, in the child process; on failure write `CODE MESSAGE` to `failed`."""
    argv, env = spec["argv"], spec["env"]
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(spec["cwd"])
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - a list of words, no shell
    except FileNotFoundError:
        message = f"127 {argv[0]}: command not found"
    except OSError as error:
        message = f"126 {argv[0]}: {error.strerror}"
    os.write(failed, message.encode())
    os._exit(127)


def _start(spec: dict[str, Any]) -> int:
    """Start the command and return its process id."""
    if spec["namespace"]:
        Mounts(spec["scratch"]).apply(spec["mounts"], spec["cwd"])
    read, write = os.pipe()  # closed by a successful exec
    child = os.fork()
    if child == 0:
        _execute(spec, write)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        message = stream.read().decode()
    if message:
        code, _, text = message.partition(" ")
        raise StartError(text, int(code))
    return child


def _reap(child: int) -> int | None:
    """Collect ended processes; return the command's exit code if it was among them (128+n for a signal)."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def _supervise(child: int) -> int:
    """Hand on control bytes and signals until the command ends; return its exit code."""
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wakeup)

    def forward(number: int, _frame: FrameType | None) -> None:
        _kill(child, number)

    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    while True:
        code = _reap(child)
        if code is not None:
            return code
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        if 0 in ready:
            control = os.read(0, 1)
            if control in (b"", b"K"):
                return 137
            _kill(child, signal.SIGINT if control == b"I" else signal.SIGTERM)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _read_spec() -> dict[str, Any]:
    """Read the specification: its length in ten digits, then JSON. What follows it are control bytes."""
    data = b""
    length = 10
    while len(data) < length:
        chunk = os.read(0, length - len(data))
        if not chunk:
            os._exit(137)  # the platform went away before it had said all
        data += chunk
        if len(data) == 10:
            length = 10 + int(data)
    spec: dict[str, Any] = json.loads(data[10:])
    return spec


def main() -> int:
    """Run one job; returns its exit code."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    spec = _read_spec()
    os.umask(0o022)  # the platform's own is stricter; containers expect this
    try:
        child = _start(spec)
    except (StartError, OSError) as error:
        code = error.code if isinstance(error, StartError) else 125
        os.write(report, f"{code} {' '.join(str(error).split())[:1000]}\n".encode())
        return code
    os.write(report, b"started\n")
    os.close(report)
    try:
        return _supervise(child)
    finally:
        # Where there is a PID namespace the end of this process ends all others in it.
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    os._exit(main())
