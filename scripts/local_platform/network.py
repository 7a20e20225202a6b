"""Addresses, ports and host names of jobs: each has a loopback address of its own where the system allows."""

import contextlib
import os
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

LOCALHOST = "127.0.0.1"


def inner_address(address: str) -> str:
    """Return the loopback address at which a job finds what it has bound to `127.0.0.1`."""
    first, second, rest = address.split(".", 2)
    return f"{first}.{int(second) + 64}.{rest}"


def own_address(used: Iterable[str]) -> str:
    """Choose a loopback address in 127.64.0.0 - 127.127.255.255 that no other job uses (Linux only)."""
    taken = set(used)
    while True:
        numbers = random.randint(64, 127), random.randint(0, 255), random.randint(1, 254)  # noqa: S311
        address = f"127.{numbers[0]}.{numbers[1]}.{numbers[2]}"
        if address not in taken:
            return address


def usable_port(address: str, wanted: int | None) -> int:
    """Return `wanted` if it can be bound at `address` now, else a free port."""
    for port in (wanted, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port at {address}")


def listen(address: str, wanted: int | None) -> socket.socket:
    """Listen at the `wanted` port, or at a free one if it is taken."""
    for port in (wanted, 0):
        if port is None:
            continue
        server = socket.socket()
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(128)
        except OSError:
            server.close()
            continue
        server.setblocking(False)
        return server
    raise OSError(f"no free port at {address}")


def write_hosts(path: Path, names: dict[str, list[str]]) -> None:
    """
    Write the hosts file that all jobs see: the machine's own lines, then `{address: names}`.

    In place and with one write, as running jobs have this very file mounted over /etc/hosts.
    """
    try:
        own = Path("/etc/hosts").read_bytes()
    except OSError:
        own = b"127.0.0.1 localhost\n"
    lines = "".join(f"{address}\t{' '.join(hosts)}\n" for address, hosts in names.items())
    data = own + b"\n# jobs of the local platform\n" + lines.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def proxies(env: Mapping[str, str]) -> list[str]:
    """Return the addresses of the proxies that variables name: the way out may begin in a private network."""
    found: set[str] = set()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        host = urlsplit(env.get(name, "")).hostname
        with contextlib.suppress(OSError):
            answers = socket.getaddrinfo(host, None, socket.AF_INET) if host else []
            found |= {str(answer[4][0]) for answer in answers}
    return sorted(found)
