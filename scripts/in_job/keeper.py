"""Backups that the running server makes by itself (`backup_every`), in a small process beside it.

Each is what `mlflow-backup` makes, without artifacts, under the same lock. The process that makes it runs for
a twelfth of the time, so that it takes no more than a tenth of a processor, whatever it does.
"""

from __future__ import annotations

import calendar
import json
import mmap
import os
import re
import signal
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from in_job import sqlite
from in_job.backup_file import part_of, write_backup
from in_job.location import locate, store_path
from in_job.store import Store
from in_job.words import explain, say

EVERY, VOLUMES = "MLFLOW_ACTION_BACKUP_EVERY", "MLFLOW_ACTION_VOLUMES"
KEPT = 7
FIRST = 60.0  # seconds until the first look: a server that starts has enough to do
RETRY = 3600.0  # seconds at most, after one that has failed
RUN, REST = 0.04, 11.5  # seconds; how many times as long the process rests
UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> int:
    """Return the seconds in `1d2h3m`-like text, 0 for any other."""
    if not re.fullmatch(r"(\d+[wdhms])+", text):
        return 0
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([wdhms])", text))


def folder_of(env: MutableMapping[str, str]) -> Path | None:
    """Return the folder of the backups as flow/store_task.py does, None where no volume has a place."""
    uri, destination = locate(env)
    destination, database = destination.rstrip("/"), store_path(uri) if uri.startswith("sqlite") else ""
    found = (
        re.fullmatch(r"storage:.+?:(/[^:]*)(:r[ow])?", text) for text in json.loads(env.get(VOLUMES) or "[]")
    )
    mounts = [volume.group(1).rstrip("/") for volume in found if volume and volume.group(2) != ":ro"]
    apart = [mount for mount in mounts if not f"{mount}/backups/".startswith(f"{destination}/")]
    apart.sort(key=lambda mount: [not f"{path}/".startswith(f"{mount}/") for path in (destination, database)])
    return Path(apart[0], "backups") if apart else None


def automatic(folder: Path, store: Store) -> list[Path]:
    """Return the automatic backups of a store, the oldest first."""
    name = re.compile(rf"mlflow-\d{{8}}T\d{{6}}Z-auto-{store.token}(-\d+)?\.zip")
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if name.fullmatch(path.name))


def due(folder: Path, store: Store, every: int) -> float:
    """Return when the next backup is due, in seconds since 1970."""
    present = automatic(folder, store)
    if not present:
        return 0.0
    made = re.split("[-.]", present[-1].name)[1]
    return calendar.timegm(time.strptime(made, "%Y%m%dT%H%M%SZ")) + float(every)


def back_up(env: dict[str, str], folder: Path, every: int) -> None:
    """Make the backup that is due, unless another server of the same store has, and keep the newest KEPT."""
    store = Store(env)
    with store.alone():
        if due(folder, store, every) > time.time():
            return
        if store.is_database and store.mark.read():
            say("no automatic backup: a restore or an upgrade has been interrupted")
            return
        part_of(store, folder).unlink(missing_ok=True)  # of one that was killed
        write_backup(store, folder, f"auto-{store.token}", False)
        for old in automatic(folder, store)[:-KEPT]:
            old.unlink()
            say(f"removed the older backup {old.name}")


def slowly(child: int, held: Any) -> tuple[int, Any]:
    """Let a process and its children run now and then only, until its end; return its status and usage.

    It is not stopped while it holds a database that others write to, and rests the longer after that.
    """
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status, usage
        began = time.monotonic()
        time.sleep(RUN)
        while held[0] and time.monotonic() - began < sqlite.SQLITE_WAIT:
            time.sleep(RUN)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGSTOP)
            time.sleep(REST * (time.monotonic() - began))
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGCONT)


def make_one(env: dict[str, str], folder: Path, every: int) -> bool:
    """Make a backup in a process of its own; tell whether that went well."""
    sqlite.held = mmap.mmap(-1, 1)
    began = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            back_up(env, folder, every)
            code = 0
        except Exception as error:  # else it is a child of it that has failed, and said why
            say(f"no automatic backup: {explain(error)}")
        finally:
            os._exit(code)

    def end(*_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    with suppress(OSError):
        os.setpgid(child, child)  # in both processes: neither waits for the other
    status, usage = slowly(child, sqlite.held)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.WIFSIGNALED(status):
        say(f"no automatic backup: it was ended by signal {os.WTERMSIG(status)} (9: out of memory?)")
    if not status:
        took = usage.ru_utime + usage.ru_stime
        say(f"the automatic backup took {time.monotonic() - began:.0f} s, {took:.1f} s of a processor")
    return not status


def keep_backups(env: dict[str, str], folder: Path, every: int) -> None:
    """Make backups until this process is ended."""
    time.sleep(min(FIRST, every))
    while True:
        store = Store(env)
        left = due(folder, store, every) - time.time()
        if left > 0:
            time.sleep(min(left, RETRY))  # the clock may be set
        elif not make_one(env, folder, every):
            time.sleep(min(every, RETRY))
        else:
            time.sleep(1)


def start(env: dict[str, str]) -> int:
    """Start the process that makes the backups that are asked for; return its id, 0 for none."""
    text, folder = env[EVERY], folder_of(env)
    Store(env)  # Problem where it is one that cannot be backed up
    every = seconds(text)
    if every < UNITS["m"] or folder is None:
        reason = (
            "write a minute or more, like 1d" if folder else "no volume has a place that no artifact shares"
        )
        say(f"WARNING: backup_every is {text!r}, and there are no automatic backups: {reason}")
        return 0
    say(f"a backup every {text} into {folder}, of which the newest {KEPT} are kept", sys.stdout)
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        while True:
            try:
                keep_backups(env, folder, every)
            except Exception as error:
                say(f"no automatic backup: {explain(error)}")
            time.sleep(min(every, RETRY))
    finally:
        os._exit(0)
