"""
The first process of a job: mounts its volumes, starts its command, hands on signals, leaves nothing behind.

Runs as a script of its own (PID 1 of the job's PID namespace where there is one), with nothing but the
standard library. Standard input is the platform's control pipe: the specification in JSON after its length,
then single bytes. `T` and `I` send the command SIGTERM or SIGINT; `K`, or the end of the pipe (the platform
is gone, however it went), ends everything at once. Where the command has a terminal, `W` and ten digits come
before so many bytes that were typed, and `S` before its lines and columns, four digits each. One line on the
descriptor that is the only argument tells the outcome: `started`, or `CODE MESSAGE` when the command cannot
be started.
"""
# Paths are plain text here: the folders are looked at through /proc, after a chroot, and in a forked child.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH106, PTH110, PTH112, PTH114, PTH115, PTH116, PTH120, PTH123, PTH208, PTH211

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import threading
from types import FrameType
from typing import Any, NoReturn

sys.dont_write_bytecode = True  # this may be somebody's repository
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from local_platform import loopback  # noqa: E402 - found beside this file only

#: Linux only, as all mounting is.
O_PATH: int = getattr(os, "O_PATH", 0)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
MNT_DETACH = 2
#: The number of pivot_root(2), which has no function in the C library, and where the old root is meanwhile.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
OLD_ROOT = ".old-root-of-the-local-platform"
#: Flags of a mount that one made in a user namespace may not drop: nosuid, nodev, noexec, (no|rel)atime.
_KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}


class StartError(Exception):
    """The command cannot be started; `code` is the exit code that Docker would give."""

    def __init__(self, message: str, code: int = 125) -> None:
        super().__init__(message)
        self.code = code


class Mounts:
    """
    The job's own mount namespace: the machine's files below an overlay, and the volumes on top.

    What a job writes outside its volumes is kept in `scratch` and goes with the job; the machine's files are
    never written to.
    """

    def __init__(self, scratch: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._scratch = scratch
        # Whether what is missing can be made in a mount: in overlays and volumes, not in the machine's own.
        self._mounted: dict[str, bool] = {"/": True}
        self._memory: set[int] = set()  # devices of the file systems in memory

    def apply(self, mounts: list[dict[str, Any]], cwd: str) -> None:
        """Mount all volumes (`{source, target, read_only}`), outer ones first; make the working directory."""
        ordered = sorted(mounts, key=lambda mount: str(mount["target"]).count("/"))
        # Opened before anything is covered: a target may hide another mount's source.
        sources = [os.open(mount["source"], O_PATH) for mount in ordered]
        self._change_root()
        for mount, source in zip(ordered, sources, strict=True):
            self._bind(source, mount["target"])
        self._make(cwd, True)
        for mount in ordered:
            if mount["read_only"]:
                self._read_only(mount["target"])
        for source in sources:
            os.close(source)
        self._libc.umount2(f"/{OLD_ROOT}".encode(), MNT_DETACH)
        os.rmdir(f"/{OLD_ROOT}")

    def _mount(self, source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        texts = [text.encode() for text in (source, target, kind)]
        if self._libc.mount(*texts, ctypes.c_ulong(flags), data.encode() or None) != 0:
            raise StartError(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")

    def _bind(self, source: int, target: str) -> None:
        path = f"/proc/self/fd/{source}"
        self._make(target, os.path.isdir(path))
        self._mount(path, target, "", MS_BIND | MS_REC)
        self._mounted[f"{target}/"] = True

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
        inner = max((mount for mount in self._mounted if f"{ancestor}/".startswith(mount)), key=len)
        if not self._mounted[inner] and os.stat(ancestor).st_dev not in self._memory:
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
        self._mount("tmpfs", folder, "tmpfs", 0, "mode=755")
        self._memory.add(os.stat(folder).st_dev)
        for entry in entries:
            source, target = f"/proc/self/fd/{original}/{entry}", f"{folder}/{entry}"
            if _stand_in(source, target):
                self._mount(source, target, "", MS_BIND | MS_REC)
        os.close(original)

    def _change_root(self) -> None:
        """Move to a root of the job's own, in which each folder of the machine is below an overlay."""
        root, points = f"{self._scratch}/new", _mount_points()
        os.mkdir(root)
        self._mount("tmpfs", root, "tmpfs", 0, "mode=755")
        for entry in sorted(os.listdir("/")):
            if _stand_in(f"/{entry}", f"{root}/{entry}"):
                if entry in ("dev", "proc", "sys"):
                    self._mount(f"/{entry}", f"{root}/{entry}", "", MS_BIND | MS_REC)
                    self._mounted[f"/{entry}/"] = False
                else:
                    self._cover(f"/{entry}", root, points)
        for point in points:
            inside = not point.startswith(("/dev/", "/proc/", "/sys/")) and os.path.lexists(root + point)
            if inside and f"{point}/" not in self._mounted:
                with contextlib.suppress(StartError):  # what cannot be seen is no loss
                    self._cover(point, root, points)
        # Not chroot, where that can be helped: nobody can make a user namespace in a changed root.
        os.mkdir(f"{root}/{OLD_ROOT}")
        number = _PIVOT_ROOT.get(os.uname().machine)
        here, old = root.encode(), f"{root}/{OLD_ROOT}".encode()
        if number is None or self._libc.syscall(number, here, old) != 0:
            os.chroot(root)
        os.chdir("/")
        memory = "/dev/shm"  # noqa: S108 - shared by the processes of the job
        if os.path.isdir(memory):
            self._mount("tmpfs", memory, "tmpfs", 6, "mode=1777")

    def _cover(self, path: str, root: str, points: list[str]) -> None:
        """Show what is at `path` below `root`: a folder in a way that takes changes, all else read-only."""
        self._mounted[f"{path}/"] = os.path.isdir(path)
        if os.path.isdir(path):
            if self._overlay(path, root):
                return
            if any(point.startswith(f"{path}/") for point in points):
                # In a user namespace no folder is shown without what is mounted below it.
                self._mount("tmpfs", root + path, "tmpfs", 0, "mode=755")
                for entry in sorted(os.listdir(path)):
                    if _stand_in(f"{path}/{entry}", f"{root}{path}/{entry}"):
                        self._cover(f"{path}/{entry}", root, points)
                return
            self._mounted[f"{path}/"] = False
        self._mount(path, root + path, "", MS_BIND)
        self._read_only(root + path)

    def _overlay(self, path: str, root: str) -> bool:
        layers = f"{self._scratch}/{len(self._mounted)}"
        for name in ("upper", "work"):
            os.makedirs(f"{layers}/{name}")
        os.chmod(f"{layers}/upper", os.stat(path).st_mode & 0o7777)
        # By descriptor: no sign of a path can be taken for one between options.
        opened = [os.open(folder, O_PATH) for folder in (path, f"{layers}/upper", f"{layers}/work")]
        names = zip(("lowerdir", "upperdir", "workdir"), opened, strict=True)
        data = ",".join(f"{name}=/proc/self/fd/{descriptor}" for name, descriptor in names)
        try:
            for more in ("", ",userxattr"):  # the latter in a user namespace
                with contextlib.suppress(StartError):
                    self._mount("overlay", root + path, "overlay", 0, data + more)
                    return True
            return False
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _stand_in(source: str, target: str) -> bool:
    """Make a place to mount what is at `source`; False for a link, which is copied."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        return False
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    return True


def _mount_points() -> list[str]:
    """Return where something is mounted in this namespace, outer ones first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = [line.split(" ")[4] for line in lines]
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        points = [point.replace(code, sign) for point in points]
    return sorted({point for point in points if point.count("/") > 1}, key=lambda point: point.count("/"))


def _execute(spec: dict[str, Any], failed: int, supervisor: socket.socket, terminal: int) -> NoReturn:
    """
    Become the job's command, in the child process; on failure write `CODE MESSAGE` to `failed`.

    It gets `terminal` for its own, unless that is -1.

    Where the job has addresses of its own, the supervisor gets the descriptor by which its calls come.
    """
    argv, env = spec["argv"], spec["env"]
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(spec["cwd"])
        if terminal < 0:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        else:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for stream in (0, 1, 2):
                os.dup2(terminal, stream)
        if spec["addresses"] and (listener := loopback.install()) is not None:
            socket.send_fds(supervisor, [b"x"], [listener])
            os.close(listener)
        supervisor.close()
        os.execvpe(argv[0], argv, env)  # noqa: S606 - a list of words, no shell
    except FileNotFoundError:
        message = f"127 {argv[0]}: command not found"
    except OSError as error:
        message = f"126 {argv[0]}: {error.strerror}"
    os.write(failed, message.encode())
    os._exit(127)


def _start(spec: dict[str, Any]) -> tuple[int, int]:
    """Start the command; return its process id and our side of its terminal, -1 where it has none."""
    if spec["namespace"]:
        Mounts(spec["scratch"]).apply(spec["mounts"], spec["cwd"])
    read, write = os.pipe()  # closed by a successful exec
    ours, theirs = socket.socketpair()
    screen, terminal = os.openpty() if spec["terminal"] else (-1, -1)
    child = os.fork()
    if child == 0:
        _execute(spec, write, theirs, terminal)
    if terminal >= 0:
        os.close(terminal)
        os.set_blocking(screen, False)
    os.close(write)
    theirs.close()
    _, listeners, _, _ = socket.recv_fds(ours, 1, 1)
    if listeners:
        public, inner = spec["addresses"]
        serve = loopback.Addresses(public, inner, spec["reachable"]).serve
        threading.Thread(target=serve, args=(listeners[0],), daemon=True).start()
    with os.fdopen(read, "rb") as stream:
        message = stream.read().decode()
    if message:
        code, _, text = message.partition(" ")
        raise StartError(text, int(code))
    return child, screen


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


def _supervise(child: int, screen: int) -> int:
    """Hand on control bytes, signals and a terminal's output until the command ends; return its exit code."""
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wakeup)

    def forward(number: int, _frame: FrameType | None) -> None:
        _kill(child, number)

    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    watched = [0, wake] if screen < 0 else [0, wake, screen]
    while True:
        code = _reap(child)
        if code is not None:
            for _ in range(100):  # something that it left behind may write for ever
                if screen not in watched or not _show(screen):
                    break
            return code
        ready, _, _ = select.select(watched, [], [])
        if wake in ready:
            os.read(wake, 4096)
        if screen in ready and not _show(screen):
            watched.remove(screen)
        if 0 in ready:
            control = os.read(0, 1)
            if control in (b"", b"K"):
                return 137
            if control == b"W":
                _type(screen, _read(int(_read(10))))
            elif control == b"S":
                size = struct.pack("HHHH", int(_read(4)), int(_read(4)), 0, 0)
                fcntl.ioctl(screen, termios.TIOCSWINSZ, size)
            else:
                _kill(child, signal.SIGINT if control == b"I" else signal.SIGTERM)


def _show(screen: int) -> bool:
    """Hand on what was written to a terminal; False where there is no more, now or ever."""
    try:
        data = os.read(screen, 65536)
    except OSError:  # Linux says so that nobody has it open any more
        return False
    while data:
        data = data[os.write(1, data) :]
        if not data:
            return True
    return False


def _type(screen: int, data: bytes) -> None:
    """Write to a terminal; what it does not take, since nobody reads there, is lost."""
    with contextlib.suppress(OSError):
        os.write(screen, data)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _read(length: int) -> bytes:
    """Read as many bytes of what the platform says."""
    data = b""
    while len(data) < length:
        chunk = os.read(0, length - len(data))
        if not chunk:
            os._exit(137)  # the platform went away before it had said all
        data += chunk
    return data


def main() -> int:
    """Run one job; returns its exit code."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    spec: dict[str, Any] = json.loads(_read(int(_read(10))))
    os.umask(0o022)  # the platform's own is stricter; containers expect this
    try:
        child, screen = _start(spec)
    except (StartError, OSError) as error:
        code = error.code if isinstance(error, StartError) else 125
        os.write(report, f"{code} {' '.join(str(error).split())[:1000]}\n".encode())
        return code
    os.write(report, b"started\n")
    os.close(report)
    try:
        return _supervise(child, screen)
    finally:
        # Where there is a PID namespace the end of this process ends all others in it.
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)


if __name__ == "__main__":
    os._exit(main())
