"""
A job's own network addresses: what it binds, and what it connects to, is decided here call by call.

A network namespace would have no way out without root and tools that few machines have. So the kernel hands
each bind() and connect() of the job's processes to its first process (seccomp_unotify(2), Linux 5.6), which
does it in their place: `0.0.0.0` and `127.0.0.1` become loopback addresses of the job's own, which its own
processes find at `127.0.0.1`, and private networks are out of reach, as on the platform. Any other call goes
its way. That keeps jobs apart; it is no wall against one that means harm.
"""

# Each import is one at the start of every job: so no pathlib, ipaddress and the like.
# ruff: noqa: PTH123

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading

#: Of each machine: the architecture as audit(7) numbers it, and the system calls seccomp, bind, connect.
_CALLS = {"x86_64": (0xC000003E, 317, 49, 42), "aarch64": (0xC00000B7, 277, 200, 203)}
_PIDFD_GETFD = 438
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1

PRIVATE = ("10.", *(f"172.{second}." for second in range(16, 32)), "192.168.")
DNS = 53


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_so", ctypes.c_ubyte),
        ("if_not", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def install() -> int | None:
    """Have the calls of this process and of what it starts handed on; returns the descriptor they come by."""
    if os.uname().machine not in _CALLS:
        return None
    machine, seccomp, bind, connect = _CALLS[os.uname().machine]
    load, equal, give = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 4), (equal, 0, 3, machine), (load, 0, 0, 0), (equal, 2, 0, bind)]
    lines += [(equal, 1, 0, connect), (give, 0, 0, _ALLOW), (give, 0, 0, _NOTIFY)]
    program = _Program(len(lines), (_Instruction * len(lines))(*(_Instruction(*line) for line in lines)))
    libc = ctypes.CDLL(None, use_errno=True)
    listener: int = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    return None if listener < 0 else listener


class Addresses:
    """
    The addresses of one job.

    `public` is where other jobs and the ingress reach it, `inner` where only itself does; `allowed` are
    addresses in private networks that it may reach all the same, as a proxy's.
    """

    def __init__(self, public: str, inner: str, allowed: list[str]) -> None:
        self._public, self._inner = public, inner
        self._allowed = set(allowed)
        self._bound: dict[int, str] = {}  # by port
        self._libc = ctypes.CDLL(None, use_errno=True)

    def serve(self, listener: int) -> None:
        """Answer calls until the process ends."""
        bind = _CALLS[os.uname().machine][2]
        while True:
            notice = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECEIVE, notice)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):  # the caller has been killed meanwhile
                    continue
                return
            key, pid, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", notice)
            act = self._bind if call == bind else self._connect
            # Each by a thread of its own: a connection may take its time.
            words = (listener, key, pid, act, arguments)
            threading.Thread(target=self._answer, args=words, daemon=True).start()

    def _answer(self, listener: int, key: int, pid: int, act: object, arguments: list[int]) -> None:
        number: int | None = None
        try:
            with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                memory.seek(arguments[1])
                address = memory.read(min(arguments[2], 28))
            fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", key))
            number = act(pid, arguments[0], address)  # type: ignore[operator]
        except Exception:  # whatever it is: the call goes its way
            number = None
        answer = struct.pack("=QqiI", key, 0, -(number or 0), _CONTINUE if number is None else 0)
        with contextlib.suppress(OSError):  # nobody waits for it any more
            fcntl.ioctl(listener, _SEND, answer)

    def _socket(self, pid: int, descriptor: int) -> socket.socket:
        """Return the caller's socket, if it is one of TCP; ValueError otherwise."""
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            group = next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))
        process = os.pidfd_open(group)
        try:
            copy = self._libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
        finally:
            os.close(process)
        if copy < 0:
            raise ValueError("no such descriptor")
        found = socket.socket(fileno=copy)
        if found.type != socket.SOCK_STREAM:
            found.close()
            raise ValueError("not TCP")
        return found

    def _bind(self, pid: int, descriptor: int, address: bytes) -> int | None:
        """Bind to an own address; returns the error's number, 0 for none, None if the call may go its way."""
        host, port = _parse(address)
        everywhere = host in ("0.0.0.0", "::")  # noqa: S104 - this is where it is kept from that
        if not everywhere and host != "127.0.0.1":
            return None
        own = self._public if everywhere else self._inner
        with self._socket(pid, descriptor) as found:
            where: tuple[str, int] = (own, port)
            if host == "::" and found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
                where = ("::1", 0)  # nobody looks for a job there, and two must not meet
            elif host == "::":
                where = (f"::ffff:{own}", port)
            try:
                found.bind(where)
            except OSError as error:
                return error.errno
            if where[0] != "::1":
                self._bound[found.getsockname()[1]] = own
        return 0

    def _connect(self, pid: int, descriptor: int, address: bytes) -> int | None:
        """Connect to the job's own server, or keep off; returns as `_bind`."""
        host, port = _parse(address)
        if host.startswith("::ffff:"):
            host = host.removeprefix("::ffff:")
        if host in ("127.0.0.1", "0.0.0.0", "localhost") and port in self._bound:  # noqa: S104
            with self._socket(pid, descriptor) as found:
                own = self._bound[port]
                mapped = f"::ffff:{own}" if found.family == socket.AF_INET6 else own
                # Blocking or not is of the socket, not of this copy of its descriptor.
                return found.connect_ex((mapped, port))
        if "." not in host or port == DNS or host in self._allowed:
            return None
        return errno.ETIMEDOUT if host.startswith(PRIVATE) else None


def _parse(address: bytes) -> tuple[str, int]:
    """Return host and port of a socket address; empty ones of another family than IPv4 and IPv6."""
    family, port = struct.unpack("=H", address[:2])[0], int.from_bytes(address[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8]), port
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, address[8:24]), port
    return "", 0
