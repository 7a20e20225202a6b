"""What is read off this machine: processes, their memory, and what there is to limit it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class Unable(Exception):
    """The measurement cannot be made: one line with what is wrong and what to do."""


def program(name: str, hint: str, *folders: str) -> str:
    """Return the path of a program.

    Raises:
        Unable: it is missing.
    """
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if not found:
        raise Unable(f"{name} is missing: {hint}")
    return found


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's `stat` from its state on; OSError where it has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def session(pid: int) -> list[int]:
    """Return the processes of the session that a process has begun, also those whose parents have ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = _stat(int(entry.name))
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def end(left: Callable[[], list[int]]) -> list[int]:
    """Kill the processes that `left` returns until there are none; return those that are there after 10 s."""
    deadline = time.monotonic() + 10
    while (pids := left()) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return pids


def pss(pid: int) -> float:
    """Return the proportional set size of a process and its descendants, in MB: shared pages count once."""
    total = 0
    for member in tree(pid):
        with suppress(OSError):
            total += int(re.findall(r"(?m)^Pss: *(\d+)", Path(f"/proc/{member}/smaps_rollup").read_text())[0])
    return total / 1024


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and its living descendants have used."""
    ticks = 0
    for member in tree(pid):
        with suppress(OSError):
            fields = _stat(member)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class MemoryLimit:
    """A control group that holds a server to an amount of memory, as a preset does; for root on Linux."""

    def __init__(self, name: str, megabytes: int) -> None:
        root = Path("/sys/fs/cgroup")
        self.old = (root / "memory").is_dir()  # version 1
        self.folder = (root / "memory" if self.old else root) / name
        self.folder.mkdir()
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if self.old else ["memory.max"]
        (self.folder / names[0]).write_text(str(megabytes * 2**20))
        for extra in [self.folder / name for name in names[1:]]:
            with suppress(OSError):
                extra.write_text(str(megabytes * 2**20))
        with suppress(OSError):
            (self.folder / "memory.swap.max").write_text("0")

    def enter(self) -> None:
        """Put this process, and so its children, into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        """Return how many processes have been ended for want of memory."""
        text = (self.folder / ("memory.oom_control" if self.old else "memory.events")).read_text()
        return int(re.findall(r"oom_kill (\d+)", text)[0])

    def close(self) -> None:
        """End what is left in the group, and remove it: a server out of memory leaves processes behind."""
        if left := end(lambda: [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]):
            raise Unable(f"{self.folder} cannot be emptied: {left}")
        self.folder.rmdir()

    @staticmethod
    def available() -> bool:
        """Tell whether groups can be made and limited here."""
        try:
            probe = MemoryLimit(f"mlflow-bench-probe-{os.getpid()}", 1024)
        except OSError:
            return False
        try:
            probe.kills()
        except (OSError, IndexError):
            return False
        finally:
            probe.close()
        return True


def describe() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = re.findall(r"(?m)^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    memory = re.findall(r"MemTotal: *(\d+)", Path("/proc/meminfo").read_text())
    postgres = subprocess.run(["psql", "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "processors": os.cpu_count(),
        "model": cpu[0] if cpu else platform.machine(),
        "memory_gb": round(int(memory[0]) / 2**20),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "postgresql": re.findall(r"\d+\.\d+", postgres)[:1],
    }
